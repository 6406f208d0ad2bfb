r"""Atoms of the grammar: numbers, letters, brackets, functions, fractions, roots."""

from fractions import Fraction
import re

from ddt_jax.verify import cursor
from ddt_jax.verify import tree
from ddt_jax.verify import units
from ddt_jax.verify.tokens import Abstain
from ddt_jax.verify.tokens import Token

MAX_TERMS = 100  # of a finite sum
# Both limits bound the work by the text alone, so verdicts do not depend on the
# machine.
MAX_SIZE = 2_000  # numbers and letters in all of its terms

FUNCTIONS = frozenset(
    'sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp'.split())
_TRIGONOMETRIC = ('sin', 'cos', 'tan', 'cot', 'sec', 'csc')
GREEK = frozenset(
    'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho '
    'sigma tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi '
    'Psi Omega ell'.split())
_CONSTANTS = {r'\pi': 'pi', r'\infty': 'oo', r'\emptyset': tree.Group(r'\{', r'\}', ())}
_WORDS = {'pi': 'pi', 'infinity': 'oo', 'inf': 'oo'}
# ( and [ may close each other: half-open intervals (0, 1] and [0, 1).
_CLOSE = {'(': ')]', '[': ')]', r'\{': (r'\}',), r'\langle': (r'\rangle',)}
# Runs of letters that are products. Longer ones are words.
_PRODUCT = re.compile(r'[a-z]{1,2}|[A-Z]|[x-z]+|abc|abcd|pqr|[A-Z][a-z]|[a-z][A-Z]')


def is_factor(token: Token) -> bool:
  """Whether a run of letters is a product, a function or a constant: no word."""
  word = token.value
  if word in _WORDS or word in FUNCTIONS or word == 'sqrt' or len(word) == 1:
    return True
  # "no" looks like a product of two letters; in an answer it is a word.
  return bool(_PRODUCT.fullmatch(word)) and word != 'no' and not token.upright


class Parser(cursor.Cursor):
  """The rule `atom` of the grammar; `items`, `sum`, `term`, `power` are above it."""

  def atom(self):
    token = self.next
    kind, name = token.kind, token.kind[1:]
    if kind == 'number':
      return self.number()
    if kind == 'word':
      return self.letters()
    if kind in _CLOSE:
      return self.brackets()
    if kind == '{':
      return self.braces()
    if kind == '|' and not self.absolute:
      return self.fenced('abs', '|')
    if kind == r'\lfloor':
      return self.fenced('floor', r'\rfloor')
    if kind == r'\lceil':
      return self.fenced('ceil', r'\rceil')
    if kind == r'\begin':
      return self.matrix()
    # From here on commands such as \frac only.
    if kind[0] != '\\' or kind == '\\':
      raise self.unclear()
    self.advance()
    if kind in _CONSTANTS:
      return _CONSTANTS[kind]
    if kind in (r'\frac', r'\binom'):
      head = '/' if kind == r'\frac' else 'binom'
      top = self.argument(2)
      return self.op(head, top, self.argument(1))
    if kind in (r'\sqrt', r'\surd'):
      return self.root(whole_number=kind == r'\surd')
    if name in FUNCTIONS:
      return self.function(name)
    if name in GREEK:
      return self.subscripted(name)
    if kind in (r'\sum', r'\prod'):
      return self.finite_sum('+' if kind == r'\sum' else '*')
    if kind == r'\mathbb':
      return self.number_set()
    # \angle ABC is the name of an angle.
    if kind == r'\angle' and self.word:
      return self.advance().value
    # Back to the command, so that the message names it.
    self.at -= 1
    raise self.unclear()

  def argument(self, digits: int):
    r"""The argument that TeX would take: a group or one token; of \frac12 the 1."""
    token = self.next
    if token.kind == '{':
      return self.braces()
    if token.kind != 'number':
      if token.kind == 'word' and len(token.value) > 1:
        raise self.unclear()
      return self.atom()
    if not token.text.isdigit() or len(token.text) > digits:
      raise self.unclear()  # \sqrt12 may be 2 or the root of 12
    # As TeX does: \frac12 is 1/2, \frac{1}23 is 1/2 times 3.
    self.split([token._replace(value=Fraction(int(c)), text=c) for c in token.text])
    return self.advance().value

  def number(self):
    token = self.advance()
    value = token.value
    if self.accept('_'):
      base = self.argument(2) if self.kind == '{' else self.advance().value
      if not isinstance(base, Fraction) or not token.text.isalnum():
        raise Abstain('a subscript of a number')
      return tree.Based(token.text, int(base))
    if not token.text.isdigit():
      return value
    if self.word == 'C' and not self.next.space and not self.next.upright and (
        self.tokens[self.at + 1].kind == 'number'):  # 8C3
      self.advance()
      return tree.Op('binom', (value, self.expect('number').value))
    return self.mixed(value)

  def mixed(self, whole: Fraction):
    r"""2\frac12, 2 1/2: a whole number and a proper fraction of whole numbers."""
    kinds = [t.kind for t in self.tokens[self.at:self.at + 3]]
    if self.numeric_fraction():
      self.advance()
      top = self.argument(2)
      bottom = self.argument(1)
    elif kinds == ['number', '/', 'number'] and self.next.space:
      top, _, bottom = self.advance().value, self.advance(), self.advance().value
    else:
      return whole  # perhaps a factor before a fraction
    if (not 0 < top < bottom or {top.denominator, bottom.denominator} != {1}
        or self.kind == '^'):
      raise Abstain('a mixed number or a product')
    return whole + top / bottom

  def numeric_fraction(self) -> bool:
    r"""Whether \frac12 or \frac{1}{2} follows."""
    at = self.at + 1
    if self.kind != r'\frac' or self.tokens[at].kind == 'number' and (
        len(self.tokens[at].text) == 2):
      return self.kind == r'\frac'
    for _ in range(2):
      if [t.kind for t in self.tokens[at:at + 3]] == ['{', 'number', '}']:
        at += 2
      elif self.tokens[at].kind != 'number':
        return False
      at += 1
    return True

  def letters(self):
    """A run of letters: a constant, a function, a product, a point, a name."""
    # The order matters: "sin" and "pi" would also pass for products of letters.
    word = self.next.value
    if word in FUNCTIONS:
      self.advance()
      return self.function(word)
    if word == 'sqrt' and self.tokens[self.at + 1].kind == '(':
      self.advance()
      return self.op('sqrt', self.brackets())
    if word in _WORDS:
      self.advance()
      return _WORDS[word]
    if word.isupper() and len(word) < 4 and not self.next.upright:
      self.advance()
      return self.subscripted(word)  # a segment AB is one name
    if not is_factor(self.next):
      raise self.unclear()
    # 3cm+2: "cm" is a unit, or c times m.
    if len(word) > 1 and units.lookup(word):
      raise Abstain('a unit within an expression, or a product of letters')
    self.split([self.next._replace(value=c, text=c) for c in word])
    return self.subscripted(self.advance().value)

  def subscripted(self, name: str):
    if self.accept('_'):
      index = self.advance()
      if index.kind == '{':
        index = self.expect('number', 'word')
        self.expect('}')
      if index.kind not in ('number', 'word'):
        raise self.unclear()
      name = f'{name}_{index.text}'
    if self.kind == "'":
      raise Abstain('a prime')
    if self.kind != '(' or self.next.space or len(name.partition('_')[0]) > 1:
      return name
    if not self.is_called(name):
      return name
    inner = self.brackets()
    return self.op('call', name, *(
        inner.items if isinstance(inner, tree.Group) else (inner,)))

  def is_called(self, name: str) -> bool:
    """Whether brackets after a letter are those of f(x), y(x) = ..., P(3, 4)."""
    kinds = [t.kind for t in self.tokens[self.at:]]
    # P is the probability, or a point's name as in P(3, 4).
    if name in 'fghFGHP' or kinds[1:4] == ['word', ')', '=']:
      return True
    if not name.isupper():
      return False  # y(x + 1) is a product
    # A(2, 5) is a point: a comma at the outermost level, which a product A(x + 1)
    # has not.
    depth = 0
    for kind in kinds:
      depth += (kind in _CLOSE) - (kind in (')', ']', r'\}', r'\rangle'))
      if depth == 0 or depth == 1 and kind == ',':
        return depth == 1
    return False

  def brackets(self):
    opened = self.advance().kind
    if opened == r'\{':
      if self.accept(r'\}'):
        return _CONSTANTS[r'\emptyset']
      if self.word and self.tokens[self.at + 1].kind in (':', '|', r'\mid'):
        self.at += 2  # {x : x > 2}
    # Brackets start a new context: in |(|x|)| the inner | opens again, and only
    # round brackets still belong to the sine.
    angle, self.angle = self.angle, self.angle and opened == '('
    absolute, self.absolute = self.absolute, False
    inner = self.items()
    self.angle, self.absolute = angle, absolute
    closed = self.expect(*_CLOSE[opened]).kind
    # {5} is a set with one item, (5) is just 5.
    if opened == r'\{' and not isinstance(inner, tree.Named | tree.Group):
      return tree.Group(opened, closed, (inner,))
    if isinstance(inner, tree.Group) and not inner.opened:
      if inner.joint:
        raise Abstain(f'"{inner.joint}" in brackets')
      return inner._replace(opened=opened, closed=closed)
    if (opened, closed) not in (('(', ')'), ('[', ']'), (r'\{', r'\}')):
      raise self.unclear()
    return inner

  def braces(self):
    r"""{...}: a group, a set without its backslashes, {a \over b}."""
    self.expect('{')
    node = self.items()
    if self.kind in (r'\over', r'\choose'):
      head = '/' if self.advance().kind == r'\over' else 'binom'
      node = self.op(head, node, self.sum())
    self.expect('}')
    if isinstance(node, tree.Group) and not node.opened:
      node = node._replace(opened=r'\{', closed=r'\}')
    return node

  def fenced(self, head: str, closed: str):
    self.advance()
    self.absolute = head == 'abs'
    node = self.op(head, self.sum())
    self.absolute = False
    self.expect(closed)
    return node

  def root(self, whole_number: bool):
    index = None
    if self.accept('['):
      index = self.sum()
      self.expect(']')
    if whole_number:  # √12, √(x + 1)
      argument = self.atom()
    elif self.kind == '(':
      raise Abstain(r'\sqrt( can be read in two ways')
    else:
      argument = self.argument(1)
    return self.op('sqrt', argument) if index is None else (
        self.op('root', argument, index))

  def function(self, name: str):
    r"""\sin^2 x, \log_2 8, \ln(x): of ambiguous arguments none is understood."""
    base = power = None
    if self.accept('_'):
      base = self.braces() if self.kind == '{' else self.atom()
    if self.accept('^'):
      power = self.exponent()
    angle, self.angle = self.angle, name in _TRIGONOMETRIC
    bracketed = self.kind in ('(', '{', '[')
    node = self.atom() if bracketed else self.power()
    # sin(x)^2 can be sin(x^2) or (sin x)^2, \ln 5! likewise.
    if bracketed and self.kind in ('^', '!') or self.kind == r'\degree':
      raise Abstain('the argument of a function can be read in two ways')
    while not bracketed and self.factor_follows() and not self.is_function():
      node = self.op('*', node, self.power())
    if not bracketed and self.kind == '/':
      raise Abstain('the argument of a function can be read in two ways')
    self.angle = angle
    if name == 'log':
      node = self.op('log', node, *(() if base is None else (base,)))
    elif base is not None:
      raise self.unclear()
    # \sin^{-1} x is the inverse function, not 1 / sin x.
    elif power == -1 and name in _TRIGONOMETRIC[:3]:
      return self.op(f'arc{name}', node)
    else:
      node = self.op(name, node)
    if isinstance(power, Fraction) and power < 0:
      raise Abstain('a negative power of a function')
    return node if power is None else self.op('^', node, power)

  def is_function(self) -> bool:
    return self.kind[1:] in FUNCTIONS or self.word in FUNCTIONS

  def finite_sum(self, head: str):
    r"""\sum_{k=1}^{3} k^2 and products, term by term."""
    self.expect('_')
    self.expect('{')
    name = self.expect('word').value
    self.expect('=')
    first = self.sum()
    self.expect('}')
    self.expect('^')
    last, body = self.exponent(), self.term()
    # \sum k + 1: is the 1 summed, too?
    if self.kind in cursor.SIGNS:
      raise Abstain('where a sum ends can be read in two ways')
    if not (isinstance(first, Fraction) and isinstance(last, Fraction)
            and 0 <= last - first < MAX_TERMS
            and first.denominator == last.denominator == 1):
      raise Abstain('a sum without two near whole numbers as its ends')
    # Written out, so that small sums need no sympy.
    values = [tree.substitute(body, name, first + k)
              for k in range(int(last - first) + 1)]
    if tree.size(body) * len(values) > MAX_SIZE:
      raise Abstain(f'a sum of more than {MAX_SIZE} parts')
    return tree.Op(head, tuple(values))

  def number_set(self):
    letter = self.braces() if self.kind == '{' else self.atom()
    found = dict(zip('RZNQC', 'ℝℤℕℚℂ', strict=True)).get(letter)
    if found is None or self.kind in ('^', '_'):
      raise self.unclear()
    return found

  def matrix(self):
    environment = self.advance().value
    if environment not in ('pmatrix', 'bmatrix', 'matrix', 'array'):
      raise Abstain('an environment that is no matrix')
    rows = [[self.sum()]]
    # A trailing \\ before \end begins no row.
    while self.kind in ('&', '\\\\'):
      if self.advance().kind == '&':
        rows[-1].append(self.sum())
      elif self.kind != r'\end':
        rows.append([self.sum()])
    if self.expect(r'\end').value != environment or len({len(row) for row in rows}) > 1 or not all(
        tree.is_expr(x) for row in rows for x in row):
      raise Abstain('a matrix with uneven rows')
    return tree.Matrix(tuple(map(tuple, rows)))
