r"""The grammar of answers. An answer that it does not consume whole is refused.

  answer   = choice | ["="] items
  items    = item { ("," | ";" | "and" | "or") item }
  item     = words | set { ("=" | "<" | "<=" | "!=" | "in" ...) set }
  set      = ratio { ("∪" | "∩" | "∖") ratio }
  ratio    = quantity { ":" quantity }
  quantity = [currency] sum [unit]
  sum      = [sign] term { sign term }          sign: + - ± ∓
  term     = power { ["*" | "/"] power }        1/2x can be read in two ways
  power    = atom ["!"] ["^" exponent]
  atom     = number | mixed number | letters | function argument | brackets
             | fraction | root | binomial | finite sum | matrix | |sum|

A method parses the rule of its name: those of `atom` in `atoms`, the others here.
"""
from fractions import Fraction
import re

from ddt_jax.verify import atoms
from ddt_jax.verify import forms
from ddt_jax.verify import tokens
from ddt_jax.verify import tree
from ddt_jax.verify import words
from ddt_jax.verify.tokens import Abstain

# Most answers are such numbers; 400 digits as `tokens.MAX_DIGITS`.
_PLAIN = re.compile(r'-?\d{1,400}(?:\.\d{1,400})?')

MAX_ITEMS = 16  # of a list: comparisons grow with the square

_SIGNS = ('+', '-', '±', '∓')
_RELATIONS = ('=', '<', '>', '<=', '>=', '!=', r'\in')
_SETS = (r'\cup', r'\cap', r'\setminus')
_FACTORS = frozenset(
    [r'\frac', r'\binom', r'\sqrt', r'\surd', '(', '{', r'\lfloor', r'\lceil', r'\sum',
     r'\prod', r'\pi', r'\infty', *(f'\\{x}' for x in atoms.FUNCTIONS | atoms.GREEK)])
_JOINTS = ('and', 'or')
# \text{The final answer is } 5
_LEAD = re.compile(r'(?:so |thus |therefore |hence )?(?:the )?(?:final |correct )?'
                   r'(?:answer|result|value)(?: is)? ?')
_ALL_REAL = re.compile(r'(?:all|any|every)(?: the)? reals?(?: numbers?)?'
                       r'|(?:the )?real numbers')
# Spellings of one statement.
_PHRASES = {'dne': 'does not exist', 'no real root': 'no real solution'}


def parse(text: str):
  """Parses an answer into a `tree`.

  Raises:
    Abstain: it is not understood, or too large; the message says why.
  """
  if _PLAIN.fullmatch(text):
    # As the grammar reads it, but at once; of an int it is faster than of a text.
    return Fraction(text if '.' in text else int(text))
  found = tokens.tokenize(text)
  while len(found) > 1 and found[-2].kind in ('.', ',', ';', 'currency'):
    del found[-2]  # punctuation after the answer, and half a pair of $
  node = Parser(found).answer()
  tree.check_size(node)
  return node


class Parser(atoms.Parser):
  """Lists, relations, sets, quantities and words; sums, terms and powers."""

  def answer(self):
    if self.next.upright and _LEAD.fullmatch(self.prose().casefold()):
      self.accept(':')  # \text{The answer is } 5
    else:
      self.at = 0
    node = self.choice()
    if node is None:
      self.accept('=')
      node = self.items()
    if self.kind != 'end':
      raise self.unclear()
    return node

  def choice(self):
    r"""B), (B) 12, B. 12, \text{B) } 12, Option B; None if it is none."""
    start = self.at
    called = self.word in ('Option', 'option', 'Choice', 'choice') and self.advance()
    opened = self.accept('(')
    letter = self.next
    if re.fullmatch('[A-J]', self.word):
      self.advance()
      closed = self.accept(')')
      stopped = not opened and not closed and self.accept('.', ':')
      # A bare B may be a variable: only "Option" or a bracket makes it a choice.
      if self.kind == 'end' and (called or closed):
        return letter.value
      # A letter and its value. (B) 12 needs the space: (B)(C) is a product.
      apart = letter.upright or opened and self.next.space
      if (stopped or closed and apart) and self.word not in _JOINTS and (
          self.kind in ('number', 'word', '(', 'currency', '{')
          or self.kind[0] == '\\' and self.kind[1:].isalpha()):
        return tree.Choice(letter.value, self.items())
    self.at = start
    return None

  def items(self):
    found, separators, joint = [self.item()], set(), ''
    while self.kind in (',', ';') or self.word in _JOINTS:
      if self.kind in (',', ';'):
        separators.add(self.advance().kind)
      if self.word in _JOINTS:
        joint = self.advance().value
      found.append(self.item())
    # 1,234; 5 may be grouped digits or three items.
    if len(separators) == 2:
      raise Abstain('two kinds of separators')
    if len(found) > MAX_ITEMS:
      raise Abstain(f'more than {MAX_ITEMS} items in a list')
    # 3 and 5 cm: do the first also have a unit?
    if len({(isinstance(x, tree.Words), getattr(x, 'unit', None)) for x in found}) > 1:
      raise Abstain('items with and without words, or with different units')
    return found[0] if len(found) == 1 else tree.Group('', '', tuple(found), joint)

  def item(self):
    node = self.phrase()
    sides, ops = [self.set() if node is None else node], []
    while self.kind in _RELATIONS or self.word == 'in':
      ops.append(r'\in' if self.word else self.kind)
      self.advance()
      sides.append(self.set())
    return forms.relation(ops, sides) if ops else sides[0]

  def prose(self) -> str:
    """The words that come next, as one text, up to "and" or "or"."""
    found = ''
    while self.word not in _JOINTS and (self.kind == 'word' or found and (
        self.kind in ('-', "'") and self.kinds(2)[1] == 'word')):
      found += ' ' * bool(found and self.next.space) + self.advance().text
    return found

  def phrase(self):
    """Words that are no mathematics, up to the next separator; None if not."""
    start, text = self.at, self.prose()
    ended = self.word or self.kind in ('end', ',', ';', ')', r'\}', '}', '=')
    # xy = 2 begins with letters that are a product, so it is no phrase.
    if ended and not all(
        atoms.is_factor(t) for t in self.tokens[start:self.at] if t.kind == 'word'):
      plain = text.casefold().replace('-', ' ')
      if plain in words.NUMERALS:
        return Fraction(words.NUMERALS[plain])
      if _ALL_REAL.fullmatch(plain):
        return tree.REALS
      # "no solutions" is "no solution". One or two letters keep their case: they may
      # be names.
      plain = re.sub(r'\b(solution|root|number|value)s\b', r'\1', text.casefold())
      return tree.Words(_PHRASES.get(plain, plain if len(text) > 2 else text))
    self.at = start
    return None

  def set(self):
    node = self.ratio()
    while self.kind in _SETS:
      node = tree.SetOp(self.advance().kind, node, self.ratio())
    return node

  def ratio(self):
    start, items = self.at, [self.quantity()]
    while self.accept(':'):
      items.append(self.quantity())
    if len(items) == 1:
      return items[0]
    if not all(map(tree.is_expr, items)):
      raise Abstain('a ratio of what are no numbers')
    # 12:30; with spaces or more digits it is a ratio.
    written = ''.join(t.text for t in self.tokens[start:self.at])
    return tree.Ratio(tuple(items), bool(re.fullmatch(r'\d?\d:[0-5]\d', written)))

  def quantity(self):
    start = self.at
    negative = self.accept('-')
    currency = self.currency()
    if not currency:
      self.at = start
    value = self.sum()
    if currency and negative:
      value = self.signed('-', value)
    # 3 quarters, 5 hundredths
    part = words.PARTS.get(self.word.removesuffix('s'))
    if part and isinstance(value, Fraction):
      self.advance()
      return value * part
    # 7m may be seven metres or 7 times m; "7 m" with a space is a quantity.
    tight = not self.next.space and not self.next.upright and len(self.word) == 1
    unit = self.unit()
    if currency and unit and unit != currency:
      raise Abstain('two units')
    unit = currency or unit
    if unit and not tree.is_expr(value):
      raise Abstain('a unit beside what is no number')
    return tree.Quantity(value, unit, tight) if unit else value

  def currency(self) -> words.Unit:
    if self.kind == 'currency' or self.word in ('Rs', 'USD', 'EUR'):
      name = words.lookup(self.advance().value)
      self.accept('.')
      return ((name, 1),)
    return ()

  def unit(self) -> words.Unit:
    """A unit that ends what it belongs to, or ()."""
    start, found, sign = self.at, {}, 1
    while factor := self.unit_factor(first=not found):
      name, power = factor
      if name in found:
        raise Abstain('a unit twice')
      found[name] = sign * power
      sign = 1
      if self.kind == '/' or self.word == 'per':
        sign = -1
        self.advance()
      else:
        self.accept('*')
    # Only at the end of what it measures: in "5 m n" the m is a factor.
    if found and sign == 1 and (self.word in _JOINTS or self.kind in (
        'end', ',', ';', ')', ']', r'\}', '}', ':', *_RELATIONS)):
      return tuple(sorted(found.items()))
    self.at = start
    return ()

  def unit_factor(self, first: bool) -> tuple[str, int] | None:
    before, token = self.tokens[self.at - 1], self.next
    if first and self.accept('%'):
      return 'percent', 1
    if first and self.accept(r'\degree'):
      scale = {'C': 'celsius', 'F': 'fahrenheit'}.get(self.word)
      return scale if scale and self.advance() else 'degree', 1
    if token.kind not in ('currency', 'word'):
      return None
    pair = f'{token.value} {self.tokens[self.at + 1].value}'.lower()
    if pair in words.COMPOUNDS:
      self.at += 2
      return words.COMPOUNDS[pair], 1
    # square meters, sq. ft; but 5 squares are things
    ahead = self.kinds(2)[1] in ('word', '.')
    power = words.POWERS.get(token.value.lower(), 1) if ahead else 1
    if power > 1:
      self.advance()
      self.accept('.')
    # Short symbols count only after a number, those of two letters also after a
    # closing brace or pi: x m is a product.
    elif first and 0 < len(self.word) < 3 and not token.upright and (
        before.kind != 'number'
        and (len(self.word) == 1 or before.kind not in ('}', ')', r'\pi'))):
      return None
    name = words.lookup(self.next.value) if self.kind in ('currency', 'word') else None
    if name is None:
      return None
    self.advance()
    if self.kind == '.' and self.kinds(2)[1] == 'word':
      self.advance()  # sq. ft. of
    if self.accept('^'):
      exponent = self.exponent()
      # Areas, volumes and rates; m^x is no unit.
      if exponent not in (-3, -2, -1, 1, 2, 3):
        return None
      power *= int(exponent)
    elif self.word in ('squared', 'cubed'):
      power *= words.POWERS[self.advance().value]
    return name, power

  def signed(self, sign: str, node):
    if sign == '+' and tree.is_expr(node):
      return node
    return self.op('*', Fraction(-1), node) if sign == '-' else self.op(sign, node)

  def sum(self):
    sign = self.kind in _SIGNS and self.advance().kind
    node = self.term()
    if sign:
      node = self.signed(sign, node)
    while self.kind in _SIGNS:
      sign, right = self.advance().kind, self.term()
      # ℝ - {0} is a difference of sets.
      if sign == '-' and (node == tree.REALS or isinstance(node, tree.Group)):
        node = tree.SetOp(r'\setminus', node, right)
      else:
        node = self.op('+', node, self.signed(sign, right))
    return node

  def term(self):
    node, divided = self.power(), False
    while True:
      if self.accept('*'):
        node, divided = self.op('*', node, self.power()), False
      elif self.accept('/'):
        node, divided = self.op('/', node, self.power()), True
      elif not self.factor_follows():
        return node
      elif divided:  # (1/2) x or 1/(2x)
        raise Abstain('1/2x can be read in two ways')
      else:
        # 2{3} and 5{\frac12}: a product, a mixed number, or digits set apart.
        braced, factor = self.kind == '{', self.power()
        if braced and (isinstance(factor, Fraction) or isinstance(node, Fraction)
                       and tree.contains(factor, '/') and not tree.symbols(factor)):
          raise Abstain('numbers side by side')
        node = self.op('*', node, factor)

  def factor_follows(self) -> bool:
    """Whether a factor follows without a sign between; a unit is none."""
    if self.kind != 'word':
      return self.kind in _FACTORS or self.kind == '|' and not self.absolute
    start = self.at
    # Parses and goes back: a unit belongs to the whole quantity, not to this factor.
    unit, self.at = self.unit(), start
    return not unit and self.word not in _JOINTS and atoms.is_factor(self.next)

  def power(self):
    node = self.atom()
    if self.accept('!'):
      node = self.op('!', node)
      # n!! is not (n!)!.
      if self.kind == '!':
        raise Abstain('a double factorial')
    # sin 30° needs radians. Elsewhere degrees are a unit and stay one.
    if self.angle and self.accept(r'\degree'):
      node = self.op('*', node, tree.Op('/', ('pi', Fraction(180))))
    if self.accept('^'):
      node = self.op('^', node, self.exponent())
      # TeX refuses 2^3^4 as well; 2^3! can be read in two ways.
      if self.kind in ('^', '!'):
        raise Abstain('an exponent that is not in braces')
    return node

  def exponent(self):
    sign = '-' if self.accept('-') else '+'
    if self.accept('{'):
      node = self.sum()
      self.expect('}')
    else:
      node = self.atom()
    return self.signed(sign, node)
