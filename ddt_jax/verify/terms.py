"""Sums, terms and powers of the grammar."""

from fractions import Fraction

from ddt_jax.verify import atoms
from ddt_jax.verify import tree
from ddt_jax.verify.cursor import SIGNS
from ddt_jax.verify.tokens import Abstain

_FACTORS = frozenset(
    [r'\frac', r'\binom', r'\sqrt', r'\surd', '(', '{', r'\lfloor', r'\lceil', r'\sum',
     r'\prod', r'\pi', r'\infty', *(f'\\{x}' for x in atoms.FUNCTIONS | atoms.GREEK)])


class Parser(atoms.Parser):
  """The rules `sum`, `term` and `power`; whether a unit follows is known above."""

  def sum(self):
    sign = SIGNS.get(self.kind)
    if sign:
      self.advance()
    node = self.term()
    if sign and sign != '+':
      node = (self.op('*', Fraction(-1), node) if sign == '-'
              else self.op(sign, node))
    # A plus before a list or set; +5 is fine.
    elif sign and not tree.is_expr(node):
      raise self.unclear()
    while sign := SIGNS.get(self.kind):
      self.advance()
      right = self.term()
      # ℝ - {0} is a difference of sets.
      if sign == '-' and (node == 'ℝ' or isinstance(node, tree.Group)):
        node = tree.SetOp(r'\setminus', node, right)
      elif sign in '+-':
        node = self.op(sign, node, right)
      else:
        node = self.op('+', node, self.op(sign, right))
    return node

  def term(self):
    node, divided = self.power(), False
    while True:
      if self.accept('*'):
        node, divided = self.op('*', node, self.power()), False
      elif self.accept('/'):
        node, divided = self.op('/', node, self.power()), True
      elif self.factor_follows():
        # (1/2) x or 1/(2x)
        if divided:
          raise Abstain('1/2x can be read in two ways')
        # 2{3} and 5{\frac12}: a product, a mixed number, or digits set apart.
        braced, factor = self.kind == '{', self.power()
        if braced and (isinstance(factor, Fraction) or isinstance(node, Fraction)
                       and tree.contains(factor, '/') and not tree.symbols(factor)):
          raise Abstain('numbers side by side')
        node = self.op('*', node, factor)
      else:
        return node

  def factor_follows(self) -> bool:
    """Whether a factor follows without a sign between; a unit is none."""
    if self.kind == 'word':
      if self.word in ('and', 'or') or self.at_unit():
        return False
      return atoms.is_factor(self.next)
    return self.kind in _FACTORS or self.kind == '|' and not self.absolute

  def at_unit(self) -> bool:
    # Parses and goes back: a unit belongs to the whole quantity, not to this
    # factor.
    start = self.at
    found = self.unit()
    self.at = start
    return bool(found)

  def power(self):
    node = self.atom()
    if self.accept('!'):
      node = self.op('!', node)
      # n!! is not (n!)!.
      if self.kind == '!':
        raise Abstain('a double factorial')
    # sin 30° needs radians. Elsewhere degrees are a unit and stay one.
    if self.kind == r'\degree' and self.angle:
      self.advance()
      node = self.op('*', node, tree.Op('/', ('pi', Fraction(180))))
    if self.accept('^'):
      node = self.op('^', node, self.exponent())
      # TeX refuses 2^3^4 as well.
      if self.kind == '^':
        raise Abstain('an exponent on an exponent without braces')
    if self.kind == '!' and isinstance(node, tree.Op) and node.head == '^':
      raise Abstain('a factorial of a power without brackets')
    return node

  def exponent(self):
    negative = self.accept('-')
    if self.accept('{'):
      node = self.sum()
      self.expect('}')
    else:
      node = self.atom()
    return self.op('*', Fraction(-1), node) if negative else node
