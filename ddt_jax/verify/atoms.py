r"""Atoms of the grammar: numbers, letters, brackets, functions, fractions, roots."""

from fractions import Fraction
import re

from ddt_jax.verify import tree
from ddt_jax.verify import words
from ddt_jax.verify.tokens import Abstain
from ddt_jax.verify.tokens import Token

# Both limits bound the work by the text alone.
MAX_TERMS = 100  # of a finite sum
MAX_SIZE = 4_000  # numbers, letters and operators in all of its terms

_TRIGONOMETRIC = ('sin', 'cos', 'tan', 'cot', 'sec', 'csc')
FUNCTIONS = frozenset((*_TRIGONOMETRIC, *(
    'arcsin arccos arctan sinh cosh tanh ln log exp'.split())))
GREEK = frozenset(
    'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho '
    'sigma tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi '
    'Psi Omega ell'.split())
_EMPTY = tree.Group(r'\{', r'\}', ())
_CONSTANTS = {r'\pi': 'pi', r'\infty': 'oo', r'\emptyset': _EMPTY, 'ℝ': tree.REALS,
              **{c: c for c in 'ℤℕℚℂ'}}
# ( and [ may close each other: half-open intervals (0, 1] and [0, 1).
_CLOSE = {'(': ')]', '[': ')]', r'\{': (r'\}',), r'\langle': (r'\rangle',)}
_FENCES = {'|': ('abs', '|'), r'\lfloor': ('floor', r'\rfloor'),
           r'\lceil': ('ceil', r'\rceil')}
# Runs of letters that are products. Longer ones are words.
_PRODUCT = re.compile(r'[a-z]{1,2}|[A-Z]|[x-z]+|abc|abcd|pqr|[A-Z][a-z]|[a-z][A-Z]')
# \frac12 or \frac{1}{2}, by the kinds of its tokens.
_NUMERIC_FRACTION = re.compile(r'\\frac( number| \{ number \}){2}')


def is_factor(token: Token) -> bool:
  """Whether a run of letters is a product, a function or a constant: no word."""
  word = token.value
  if word in FUNCTIONS or word == 'sqrt' or len(word) == 1:
    return True
  # "no" looks like a product of two letters; in an answer it is a word.
  return bool(_PRODUCT.fullmatch(word)) and word != 'no' and not token.upright


class Parser:
  """A position in the tokens, and the rule `atom` of the grammar.

  The rules `items`, `sum`, `term`, `power` and `exponent` are those of `grammar`.
  """

  def __init__(self, found: list[Token]):
    self.tokens, self.at = found, 0
    self.angle = False  # within the argument of a sine, where degrees are numbers
    self.absolute = False  # within |...|, where | closes

  @property
  def next(self) -> Token:
    return self.tokens[self.at]

  @property
  def kind(self) -> str:
    return self.tokens[self.at].kind

  @property
  def word(self) -> str:
    """The next token's letters, '' if it is no word."""
    token = self.tokens[self.at]
    return token.value if token.kind == 'word' else ''

  def kinds(self, count: int) -> list[str]:
    return [t.kind for t in self.tokens[self.at:self.at + count]]

  def advance(self) -> Token:
    token = self.tokens[self.at]
    # Stays at the end token, so that looking ahead never runs off the list.
    self.at += token.kind != 'end'
    return token

  def accept(self, *kinds: str) -> bool:
    if self.tokens[self.at].kind in kinds:
      self.at += 1
      return True
    return False

  def expect(self, *kinds: str) -> Token:
    if self.kind not in kinds:
      raise self.unclear()
    return self.advance()

  def unclear(self) -> Abstain:
    token = self.next
    where = repr(token.text) if token.kind != 'end' else 'the end'
    before = ''.join(t.text for t in self.tokens[max(0, self.at - 3):self.at])
    return Abstain(f'not understood: {where} after {before!r}')

  def op(self, head: str, *args) -> tree.Expr:
    """A node of the tree."""
    # Sums of lists, sets or words have no meaning here.
    if not all(map(tree.is_expr, args)):
      raise Abstain(f'{head!r} beside what is no number')
    # -5 becomes a number at once: most answers then compare without algebra.
    if head == '*' and args[0] == -1 and type(args[1]) is Fraction:
      return -args[1]
    if head in '+*' and isinstance(args[0], tree.Op) and args[0].head == head:
      args = (*args[0].args, args[1])  # flat, however long
    return tree.Op(head, args)

  def atom(self):
    kind, name = self.kind, self.kind[1:]
    if kind == 'number':
      return self.number()
    if kind == 'word':
      return self.letters()
    if kind in _CLOSE:
      return self.brackets()
    if kind == '{':
      return self.braces()
    if kind in _FENCES and not (kind == '|' and self.absolute):
      return self.fenced(*_FENCES[kind])
    if kind == r'\begin':
      return self.matrix()
    if kind in (r'\sqrt', r'\surd'):
      return self.root()
    if kind in (r'\sum', r'\prod'):
      return self.finite_sum()
    if kind in (r'\frac', r'\binom'):
      self.advance()
      top = self.argument()
      return self.op('/' if kind == r'\frac' else 'binom', top, self.argument())
    self.advance()
    if kind in _CONSTANTS:
      return _CONSTANTS[kind]
    if kind == r'\angle':  # \angle ABC is the name of an angle
      return self.expect('word').value
    if kind[0] == '\\' and name in FUNCTIONS:
      return self.function(name)
    if kind[0] == '\\' and name in GREEK:
      return self.subscripted(name)
    self.at -= kind != 'end'  # so that the message names it
    raise self.unclear()

  def argument(self):
    r"""The argument that TeX would take: a group or one token."""
    token = self.next
    if token.kind not in ('number', 'word'):
      return self.atom()
    if len(token.text) > 1:
      raise self.unclear()  # \sqrt12 may be 2 or the root of 12
    return self.advance().value if token.kind == 'number' else self.atom()

  def number(self):
    token = self.advance()
    value = token.value
    if self.accept('_'):
      base = self.braces() if self.kind == '{' else self.advance().value
      if not isinstance(base, Fraction) or not token.text.isalnum():
        raise Abstain('a subscript of a number')
      return tree.Based(token.text, int(base))
    if not token.text.isdigit():
      return value
    if self.word == 'C' and not self.next.space and not self.next.upright and (
        self.kinds(2)[1] == 'number'):  # 8C3
      self.advance()
      return self.op('binom', value, self.advance().value)
    # Mixed numbers, 2\frac12 and 2 1/2: the fraction is a proper one.
    if _NUMERIC_FRACTION.match(' '.join(self.kinds(7))):
      self.advance()
      top, bottom = self.argument(), self.argument()
    elif self.kinds(3) == ['number', '/', 'number'] and self.next.space:
      top, _, bottom = self.advance().value, self.advance(), self.advance().value
    else:
      return value
    if (not 0 < top < bottom or {top.denominator, bottom.denominator} != {1}
        or self.kind == '^'):
      raise Abstain('a mixed number or a product')
    return value + top / bottom

  def letters(self):
    """A run of letters: a constant, a function, a product, a point, a name."""
    token = self.advance()
    # Before products of letters, which "ln" could be, too.
    word = token.value
    if word in FUNCTIONS:
      return self.function(word)
    if word == 'sqrt' and self.kind == '(':
      return self.op('sqrt', self.brackets())
    if word.isupper() and len(word) < 4 and not token.upright:
      return self.subscripted(word)  # a segment AB is one name
    if not is_factor(token):
      self.at -= 1
      raise self.unclear()
    # 3cm+2: "cm" is a unit, or c times m.
    if len(word) > 1 and words.lookup(word):
      raise Abstain('a unit within an expression, or a product of letters')
    # Each letter is an atom of its own: the others come next.
    self.tokens[self.at - 1:self.at] = [
        token._replace(value=c, text=c, space=token.space and not i)
        for i, c in enumerate(word)]
    return self.subscripted(word[0])

  def subscripted(self, name: str):
    if self.accept('_'):
      braced = self.accept('{')
      name = f'{name}_{self.expect("number", "word").text}'
      if braced:
        self.expect('}')
    if self.kind == "'":
      raise Abstain('a prime')
    if self.kind != '(' or self.next.space or len(name.partition('_')[0]) > 1 or (
        not self.is_called(name)):
      return name
    inner = self.brackets()
    return self.op('call', name, *(
        inner.items if isinstance(inner, tree.Group) else (inner,)))

  def is_called(self, name: str) -> bool:
    """Whether brackets after a letter are those of f(x), y(x) = ..., P(3, 4)."""
    # P is the probability, or a point's name as in P(3, 4).
    if name in 'fghFGHP' or self.kinds(4)[1:] == ['word', ')', '=']:
      return True
    # A(2, 5) is a point: a comma at the outermost level, which a product A(x + 1)
    # has not.
    depth = 0
    for token in self.tokens[self.at:] if name.isupper() else ():
      depth += (token.kind in _CLOSE) - (token.kind in (')', ']', r'\}', r'\rangle'))
      if depth == 0 or depth == 1 and token.kind == ',':
        return depth == 1
    return False

  def brackets(self):
    opened = self.advance().kind
    if opened == r'\{':
      if self.accept(r'\}'):
        return _EMPTY
      if self.word and self.kinds(2)[1] in (':', '|', r'\mid'):
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
    if opened + closed not in ('()', '[]', r'\{\}'):
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

  def root(self):
    r"""\sqrt2, \sqrt[3]{8}, √12, √(x + 1)."""
    plain, index = self.advance().kind == r'\surd', None
    if self.accept('['):
      index = self.sum()
      self.expect(']')
    if self.kind == '(' and not plain:
      raise Abstain(r'\sqrt( can be read in two ways')
    argument = self.atom() if plain else self.argument()
    return self.op('sqrt', argument) if index is None else (
        self.op('root', argument, index))

  def function(self, name: str):
    r"""\sin^2 x, \log_2 8, \ln(x): of ambiguous arguments none is understood."""
    base = (self.atom(),) if self.accept('_') else ()
    power = self.exponent() if self.accept('^') else None
    angle, self.angle = self.angle, name in _TRIGONOMETRIC
    bracketed = self.kind in ('(', '{', '[')
    node = self.atom() if bracketed else self.power()
    # sin(x)^2 can be sin(x^2) or (sin x)^2, \ln 5! likewise.
    ambiguous = self.kind == r'\degree' or bracketed and self.kind in ('^', '!')
    while not bracketed and self.factor_follows() and not (
        self.kind[1:] in FUNCTIONS or self.word in FUNCTIONS):
      node = self.op('*', node, self.power())
    self.angle = angle
    if ambiguous or not bracketed and self.kind == '/':
      raise Abstain('the argument of a function can be read in two ways')
    if base and name != 'log':
      raise self.unclear()
    # \sin^{-1} x is the inverse function, not 1 / sin x.
    if power == -1 and name in _TRIGONOMETRIC[:3]:
      return self.op(f'arc{name}', node)
    if isinstance(power, Fraction) and power < 0:
      raise Abstain('a negative power of a function')
    node = self.op('log_' if base else name, node, *base)
    return node if power is None else self.op('^', node, power)

  def finite_sum(self):
    r"""\sum_{k=1}^{3} k^2 and products, term by term."""
    head = '+' if self.advance().kind == r'\sum' else '*'
    self.expect('_')
    self.expect('{')
    name = self.expect('word').value
    self.expect('=')
    first = self.sum()
    self.expect('}')
    self.expect('^')
    last, body = self.exponent(), self.term()
    # \sum k + 1: is the 1 summed, too?
    if self.kind in '+-±∓':
      raise Abstain('where a sum ends can be read in two ways')
    if not (isinstance(first, Fraction) and isinstance(last, Fraction)
            and 0 <= last - first < MAX_TERMS
            and first.denominator == last.denominator == 1):
      raise Abstain('a sum without two near whole numbers as its ends')
    count = int(last - first) + 1
    if len(list(tree.walk(body))) * count > MAX_SIZE:
      raise Abstain(f'a sum of more than {MAX_SIZE} parts')
    # Written out, so that small sums need no sympy.
    return tree.Op(head, tuple(
        tree.substitute(body, name, first + k) for k in range(count)))

  def matrix(self):
    environment = self.advance().value
    rows = [[self.sum()]]
    # A trailing \\ before \end begins no row.
    while self.kind in ('&', '\\\\'):
      if self.advance().kind == '&':
        rows[-1].append(self.sum())
      elif self.kind != r'\end':
        rows.append([self.sum()])
    if self.expect(r'\end').value != environment or environment not in (
        'pmatrix', 'bmatrix', 'matrix', 'array') or len({*map(len, rows)}) > 1 or (
            not all(tree.is_expr(x) for row in rows for x in row)):
      raise Abstain('no matrix, or one with uneven rows')
    return tree.Matrix(tuple(map(tuple, rows)))
