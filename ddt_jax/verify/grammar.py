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

A method parses the rule of its name: down to `quantity` here, down to `power` in
`terms`, the rest in `atoms`.
"""
from fractions import Fraction
import re

from ddt_jax.verify import atoms
from ddt_jax.verify import relations
from ddt_jax.verify import terms
from ddt_jax.verify import tokens
from ddt_jax.verify import tree
from ddt_jax.verify import units
from ddt_jax.verify.tokens import Abstain

# Most answers are such numbers; 400 digits as `tokens.MAX_DIGITS`.
_PLAIN = re.compile(r'-?\d{1,400}(?:\.\d{1,400})?')

MAX_ITEMS = 16  # of a list: comparisons grow with the square

_RELATIONS = ('=', '<', '>', '<=', '>=', '!=', r'\in')
_SETS = (r'\cup', r'\cap', r'\setminus')
_CHOICES = 'ABCDEFGHIJ'
# \text{The final answer is } 5
_LEAD = re.compile(r'(?:so |thus |therefore |hence )?(?:the )?(?:final |correct )?'
                   r'(?:answer|result|value)(?: is)? ?')
_UNITS, _TENS = (
    text.split() for text in (
        'zero one two three four five six seven eight nine ten eleven twelve '
        'thirteen fourteen fifteen sixteen seventeen eighteen nineteen',
        'twenty thirty forty fifty sixty seventy eighty ninety'))
# zero to ninety-nine, written with a space in place of the hyphen.
_NUMERALS = {word: n for n, word in enumerate(_UNITS)} | {
    tens + rest: 20 + 10 * i + n for i, tens in enumerate(_TENS)
    for n, rest in enumerate([''] + [f' {x}' for x in _UNITS[1:10]])}
# Spellings of one statement.
_PHRASES = {'dne': 'does not exist', 'no real root': 'no real solution'}
_ALL_REAL = re.compile(r'(?:all|any|every)(?: the)? reals?(?: numbers?)?'
                       r'|(?:the )?real numbers')
_ORDINALS = ('half third fourth fifth sixth seventh eighth ninth tenth').split()
_PARTS = {name: Fraction(1, 2 + i) for i, name in enumerate(_ORDINALS)} | {
    'halve': Fraction(1, 2), 'quarter': Fraction(1, 4),
    'hundredth': Fraction(1, 100), 'thousandth': Fraction(1, 1000)}
_COMPOUND = {'degrees celsius': 'celsius', 'degrees fahrenheit': 'fahrenheit',
             'degree celsius': 'celsius', 'degree fahrenheit': 'fahrenheit',
             'per cent': 'percent', 'per mille': 'permille'}
# square meters, sq. ft, cubic cm
_POWERS = {'square': 2, 'sq': 2, 'cubic': 3, 'cu': 3}


def parse(text: str):
  """Parses an answer into a `tree`.

  Raises:
    Abstain: it is not understood, or too large; the message says why.
  """
  if _PLAIN.fullmatch(text):
    return Fraction(text)  # as the grammar reads it, but at once
  found = tokens.tokenize(text)
  while len(found) > 1 and found[-2].kind in ('.', ',', ';', 'currency'):
    del found[-2]  # punctuation after the answer, and half a pair of $
  return _Parser(found).answer()


class _Parser(terms.Parser):
  """Lists, relations, sets, quantities and words."""

  def answer(self):
    if self.next.upright and _LEAD.fullmatch(self.words().casefold()):
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
    called = self.word in ('Option', 'option', 'Choice', 'choice')
    if called:
      self.advance()
    opened = self.accept('(')
    letter = self.next
    if letter.kind == 'word' and letter.value in _CHOICES and len(letter.value) == 1:
      self.advance()
      closed = self.accept(')')
      stopped = not opened and not closed and (self.accept('.') or self.accept(':'))
      # A bare B may be a variable: only "Option" or a bracket makes it a choice.
      if self.kind == 'end' and (called or closed):
        return letter.value
      # A letter and its value. (B) 12 needs the space: (B)(C) is a product.
      if ((opened and closed and (self.next.space or letter.upright)) or stopped
          or closed and letter.upright) and (
              self.kind in ('number', 'word', '(', 'currency', '{')
              and self.word not in ('and', 'or')
              or self.kind[0] == '\\' and self.kind[1:].isalpha()):
        return tree.Choice(letter.value, self.items())
    self.at = start
    return None

  def items(self):
    found, separators, joint = [self.item()], set(), ''
    while True:
      separator = self.kind in (',', ';') and self.kind
      if separator:
        separators.add(separator)
        self.advance()
      if self.word in ('and', 'or'):
        joint = self.word
        self.advance()
      elif not separator:
        break
      found.append(self.item())
    # 1,234; 5 may be grouped digits or three items.
    if len(separators) == 2:
      raise Abstain('two kinds of separators')
    if len(found) > MAX_ITEMS:
      raise Abstain(f'more than {MAX_ITEMS} items in a list')
    if len({isinstance(x, tree.Words) for x in found}) == 2:
      raise Abstain('words beside mathematics')
    # 3 and 5 cm: do the first also have a unit?
    if len({getattr(x, 'unit', None) for x in found}) > 1:
      raise Abstain('several numbers that do not have the same unit')
    return found[0] if len(found) == 1 else tree.Group('', '', tuple(found), joint)

  def item(self):
    node = self.phrase()
    sides, ops = [self.set() if node is None else node], []
    while self.kind in _RELATIONS or self.word == 'in':
      ops.append(r'\in' if self.word else self.kind)
      self.advance()
      sides.append(self.set())
    return relations.relation(ops, sides) if ops else sides[0]

  def words(self) -> str:
    """The words that come next, as one text, up to "and" or "or"."""
    found = []
    while self.kind in ('word', '-', "'") and self.word not in ('and', 'or') and (
        self.kind == 'word' or found and self.tokens[self.at + 1].kind == 'word'):
      if self.next.space and found:
        found.append(' ')
      found.append(self.next.text)
      self.advance()
    return ''.join(found)

  def phrase(self):
    """Words that are no mathematics, up to the next separator; None if not."""
    start, text = self.at, self.words()
    ended = self.word or self.kind in ('end', ',', ';', ')', r'\}', '}', '=')
    # xy = 2 begins with letters that are a product, so it is no phrase.
    if ended and not all(
        atoms.is_factor(t) for t in self.tokens[start:self.at] if t.kind == 'word'):
      plain = text.casefold().replace('-', ' ')
      if plain in _NUMERALS:
        return Fraction(_NUMERALS[plain])
      if _ALL_REAL.fullmatch(plain):
        return 'ℝ'
      # "no solutions" is "no solution". One or two letters
      # keep their case: they may be names.
      plain = re.sub(r'\b(solution|root|number|value)s\b', r'\1', text.casefold())
      return tree.Words(_PHRASES.get(plain, plain if len(text) > 2 else text))
    self.at = start
    return None

  def set(self):
    node = self.ratio()
    while self.kind in _SETS:
      op = self.kind
      self.advance()
      node = tree.SetOp(op, node, self.ratio())
    return node

  def ratio(self):
    start, items = self.at, [self.quantity()]
    while self.accept(':'):
      items.append(self.quantity())
    if len(items) == 1:
      return items[0]
    if not all(map(tree.is_expr, items)):
      raise Abstain('a ratio of what are no numbers')
    written = [t.text for t in self.tokens[start:self.at]]
    # 12:30; with spaces or more digits it is a ratio.
    clock = len(written) == 3 and re.fullmatch(r'\d?\d:[0-5]\d', ''.join(written))
    return tree.Ratio(tuple(items), bool(clock))

  def quantity(self):
    start = self.at
    negative = self.accept('-')
    currency = self.currency()
    if not currency:
      self.at = start
    value = self.sum()
    if currency and negative:
      value = self.op('*', Fraction(-1), value)
    # 3 quarters, 5 hundredths
    part = _PARTS.get(self.word.removesuffix('s'))
    if part and isinstance(value, Fraction):
      self.advance()
      return value * part
    # 7m may be seven metres or 7 times m; "7 m" with a space is a quantity.
    tight = not self.next.space and not self.next.upright and len(self.word) == 1
    unit = self.unit()
    if currency and unit and unit != currency:
      raise Abstain('two units')
    unit = currency or unit
    if unit:
      if not tree.is_expr(value):
        raise Abstain('a unit beside what is no number')
      return tree.Quantity(value, unit, tight)
    return value

  def currency(self) -> units.Unit:
    if self.kind == 'currency' or self.word in ('Rs', 'USD', 'EUR'):
      name = self.next.value
      self.advance()
      self.accept('.')
      return ((_canonical(units.lookup(name)), 1),)
    return ()

  def unit(self) -> units.Unit:
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
      elif self.kind == '*':
        self.advance()
    # Only at the end of what it measures: in "5 m n" the m is a factor.
    if found and sign == 1 and (
        self.kind in ('end', ',', ';', ')', ']', r'\}', '}', ':', *_RELATIONS)
        or self.word in ('and', 'or')):
      return tuple(sorted(found.items()))
    self.at = start
    return ()

  def unit_factor(self, first: bool) -> tuple[str, int] | None:
    before = self.tokens[self.at - 1]
    token, power = self.next, 1
    if self.kind in ('%', r'\degree') and first:
      self.advance()
      temperature = {'C': 'celsius', 'F': 'fahrenheit'}.get(self.word)
      if token.kind == '%':
        return 'percent', 1
      if temperature:
        self.advance()
      return temperature or 'degree', 1
    if token.kind == 'currency':
      name = token.value
    elif token.kind == 'word':
      pair = f'{token.value} {self.tokens[self.at + 1].value}'.lower()
      if pair in _COMPOUND:
        self.at += 2
        return _COMPOUND[pair], 1
      if token.value.lower() in _POWERS and self.tokens[self.at + 1].kind in (
          'word', '.'):
        power = _POWERS[token.value.lower()]
        self.advance()
        self.accept('.')
      name = self.word
      # Short symbols count only after a number, or two letters after a closing
      # brace or pi.
      if first and power == 1 and len(name) < 3 and not token.upright and not (
          before.kind == 'number' or len(name) == 2 and before.kind in ('}', ')', r'\pi')):
        return None  # x m is a product
    else:
      return None
    name = units.lookup(name)
    if name is None:
      return None
    self.advance()
    # sq. ft.
    if self.kind == '.' and self.tokens[self.at + 1].kind == 'word':
      self.advance()
    if self.accept('^'):
      exponent = self.exponent()
      # Areas, volumes and rates; m^x is no unit.
      if exponent not in (-3, -2, -1, 1, 2, 3):
        return None
      power *= int(exponent)
    elif self.word in ('squared', 'cubed'):
      power *= 2 if self.word == 'squared' else 3
      self.advance()
    return _canonical(name), power


def _canonical(name: str) -> str:
  """Signs of money are the words for them."""
  return {'$': 'dollar', 'USD': 'dollar', '€': 'euro', 'EUR': 'euro', '₹': 'rupee',
          'Rs': 'rupee', 'GBP': '£'}.get(name, name)
