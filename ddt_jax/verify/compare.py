"""Compares two parsed answers. Numbers are compared exactly.

`Comparison.same` raises `Abstain` where neither equality nor its opposite can be
established, and `NeedsAlgebra` where rational numbers do not suffice and there is no
`algebra`.
"""
from fractions import Fraction
import itertools

from ddt_jax.verify import forms
from ddt_jax.verify import tree
from ddt_jax.verify import words
from ddt_jax.verify.tokens import Abstain

# Lists within lists are compared pair by pair: without a limit the work grows as a
# power of the answer's length.
MAX_COMPARISONS = 5_000  # of parts of two answers

_INFINITE = ('oo', tree.MINUS_INFINITY)


class NeedsAlgebra(Exception):
  """The values are not rational numbers."""


class Comparison:
  """Equality of answers; `algebra` is the module, or None."""

  def __init__(self, algebra=None):
    self.algebra = algebra
    self.left = MAX_COMPARISONS

  def same(self, a, b) -> bool:
    """Whether two answers are equal."""
    if type(a) is type(b) is Fraction:
      return a == b  # most answers
    self.left -= 1
    if self.left < 0:
      raise Abstain(f'more than {MAX_COMPARISONS} comparisons')
    a, b = forms.reduce(a), forms.reduce(b)
    # Each rule may assume that the kinds above it are ruled out. Names come first:
    # x = 5 may stand against 5, a list or a relation.
    for kind, rule in _RULES:
      if isinstance(b, kind) and not isinstance(a, kind):
        a, b = b, a
      if isinstance(a, kind):
        return rule(self, a, b)
    return self.value(a, b)

  def value(self, a: tree.Expr, b: tree.Expr) -> bool:
    x, y = tree.rational(a), tree.rational(b)
    if x is not None and y is not None:
      return x == y
    if a == b:
      return True
    if a in _INFINITE or b in _INFINITE:
      if tree.contains(a, '+') or tree.contains(b, '+'):  # oo - oo has no value
        raise Abstain('a sum with infinity')
      return False
    if tree.contains(a, 'call') or tree.contains(b, 'call'):
      raise Abstain('a function that is not known')
    return self.by_algebra('same', a, b)

  def by_algebra(self, name: str, a, b) -> bool:
    if self.algebra is None:
      raise NeedsAlgebra
    try:
      return getattr(self.algebra, name)(a, b)
    except Abstain:
      raise
    except Exception as e:  # sympy's: of this part of the answer only
      raise Abstain(f'algebra failed: {type(e).__name__}') from e

  def named(self, a: tree.Named, b) -> bool:
    if isinstance(b, tree.Named) and a.name == b.name:
      return self.same(a.value, b.value)
    if isinstance(b, tree.Group) and any(isinstance(x, tree.Named) for x in b.items):
      return False  # x = 5 and a system
    if not isinstance(b, tree.Named | tree.Relation):
      return self.same(a.value, b)
    # y = 2x and 2x - y = 0: equations, if the names are letters.
    equations = []
    for x in (a, b):
      if isinstance(x, tree.Named):
        if not tree.is_expr(x.value) or isinstance(b, tree.Named) and not (
            x.name.isidentifier() and tree.symbols(x.value)):
          raise Abstain('different names')
        x = tree.Relation('=', x.name, x.value)
      equations.append(x)
    return self.relation(*equations)

  def computed(self, a: tree.Computed, b) -> bool:
    *before, last = a.values
    equal = self.same(last, b)
    # 5 * 4 = 21 with the reference 21: the last value is right, the text is not.
    if not all(self.same(x, last) for x in before):
      raise Abstain('a computation that does not hold')
    return equal

  def choice(self, a: tree.Choice, b) -> bool:
    if isinstance(b, tree.Choice):
      equal = self.same(a.value, b.value)
      if (a.letter == b.letter) != equal:
        raise Abstain('the letter or the value of a choice differs')
      return equal
    if isinstance(b, str) and len(b) == 1 and b.isupper():
      return a.letter == b
    return self.same(a.value, b)

  def set(self, a, b) -> bool:
    if not (tree.is_expr(b) or isinstance(b, tree.Group | tree.SetOp)):
      raise Abstain('answers of different kinds')
    if a == tree.REALS and (tree.is_expr(b) or forms.is_interval(b)):
      return getattr(b, 'items', ()) == (tree.MINUS_INFINITY, 'oo')
    return a == b or self.by_algebra('same_set', a, b)

  def group(self, a: tree.Group, b) -> bool:
    if not isinstance(b, tree.Group):
      return self.group_and_other(a, b)
    if any(isinstance(x, tree.Named) for x in a.items + b.items):
      return self.systems(a, b)
    # A bare list and a set are unordered; (1, 2) is a point, in order.
    loose = [x.opened in ('', r'\{') for x in (a, b)]
    if all(loose):
      return self.items(a.items, b.items)
    equal = len(a.items) == len(b.items) and all(map(self.same, a.items, b.items))
    if (a.opened, a.closed) == (b.opened, b.closed):
      return equal
    # (1, 2) against a bare 1, 2: wrong if the items differ, undecided otherwise.
    if any(loose):
      if len(a.items) != len(b.items) or not self.items(a.items, b.items):
        return False
    elif not equal or forms.is_interval(a) and forms.is_interval(b):
      return False
    raise Abstain('different brackets')

  def group_and_other(self, group: tree.Group, other) -> bool:
    if isinstance(other, tree.Op) and other.head == 'call':
      if group.opened == '(' and other.args[0].isupper() and self.same(
          group, tree.Group('(', ')', other.args[1:])):
        return True  # P(3, 4) and (3, 4)
      raise Abstain('a function that is not known')
    if not (tree.is_expr(other) or isinstance(other, tree.Quantity)):
      raise Abstain('answers of different kinds')
    if group.opened == r'\{' and len(group.items) == 1:
      return self.same(group.items[0], other)
    if other in ('ℤ', 'ℕ', 'ℚ', 'ℂ'):
      raise Abstain('a set of numbers and a list')
    return False

  def items(self, a: tuple, b: tuple) -> bool:
    """Equality of lists in any order; abstains if only repetitions differ."""
    if not (a and b):
      return a == b
    pairs = [[self.known(x, y) for y in b] for x in a]
    # Rows and columns of the table "a[i] is b[j]".
    lines = [*pairs, *zip(*pairs, strict=True)]
    if all(line.count(True) == 1 for line in lines):
      return True
    # An item that surely has no partner refutes, whatever else cannot be compared.
    if not all(True in line or None in line for line in lines):
      return False
    if any(None in line for line in lines):
      raise Abstain('items that cannot be compared')
    # {2, 2} against {2}: one root twice, or a slip?
    if len(a) != len(b) or any(
        row.count(True) != sum(self.same(x, y) for y in a)
        for x, row in zip(a, pairs, strict=True)):
      raise Abstain('an item twice in a list')
    return True

  def known(self, a, b) -> bool | None:
    try:
      return self.same(a, b)
    except Abstain:
      return None

  def systems(self, a: tree.Group, b: tree.Group) -> bool:
    """x = 2, y = 3: value by value; names x_1, x_2 only number the values."""
    whole = [all(isinstance(x, tree.Named) for x in g.items) for g in (a, b)]
    if all(whole):
      ours, theirs = ({x.name: x.value for x in g.items} for g in (a, b))
      if len(a.items) != len(b.items):
        return False
      if ours.keys() != theirs.keys() or len(ours) < len(a.items):
        raise Abstain('different names')
      return all(self.same(ours[name], theirs[name]) for name in ours)
    # x_1 = 2, x_2 = 3 against 2, 3; but x = 2, y = 3 does not say which is which.
    system, other = (a, b) if whole[0] else (b, a)
    if any(whole) and len({x.name.partition('_')[0] for x in system.items}) == 1:
      values = tuple(x.value for x in system.items)
      return self.same(tree.Group('', '', values), other)
    raise Abstain('a system and a list')

  def phrase(self, a: tree.Words, b) -> bool:
    if not isinstance(b, tree.Words):
      raise Abstain('words against mathematics')
    # "no solution" and "none" mean the same; so may BCA and ABC, names of a triangle.
    # Two single words differ.
    if a.text != b.text and (' ' in a.text + b.text or (
        sorted(a.text) == sorted(b.text) and a.text.isupper())):
      raise Abstain('similar words')
    return a.text == b.text

  def based(self, a: tree.Based, b) -> bool:
    _check_kinds(a, b)
    if a.base != b.base:
      raise Abstain('numbers in different bases')
    # As texts: 0101_2 is 101_2. Letters stand for digits above 9.
    return a.digits.lstrip('0') == b.digits.lstrip('0')

  def ratio(self, a: tree.Ratio, b) -> bool:
    # 1:2 may be the number 1/2, but 1:2:3 is no number, so it is wrong.
    if len(a.items) > 2 and tree.is_expr(b):
      return False
    _check_kinds(a, b)
    if len(a.items) != len(b.items) or not all(
        self.value(tree.Op('*', (x, v)), tree.Op('*', (y, u)))
        for (x, y), (u, v) in itertools.combinations(
            zip(a.items, b.items, strict=True), 2)):
      return False
    # 12:30 as a ratio is 2:5, as a time it is not.
    if (a.clock or b.clock) and a.items != b.items:
      raise Abstain('a ratio or a time')
    return True

  def matrix(self, a: tree.Matrix, b) -> bool:
    _check_kinds(a, b)
    shapes = [(len(m.rows), len(m.rows[0])) for m in (a, b)]
    return shapes[0] == shapes[1] and all(map(
        self.value, itertools.chain(*a.rows), itertools.chain(*b.rows)))

  def relation(self, a: tree.Relation, b) -> bool:
    _check_kinds(a, b)
    return a == b or self.by_algebra('same_relation', a, b)

  def quantity(self, a: tree.Quantity, b) -> bool:
    """The question may ask for a certain unit, which is unknown here.

    So where the units differ, values that differ after conversion refute, but equal
    values do not confirm. A number alone takes the unit of the other side.
    """
    dimension, factor = words.measure(a.unit)
    if isinstance(b, tree.Quantity):
      if a.unit == b.unit:
        return self.value(a.value, b.value)
      theirs, other = words.measure(b.unit)
      if dimension != theirs or None in (factor, other):
        raise Abstain('different units')
      if self.value(tree.Op('*', (a.value, factor)), tree.Op('*', (b.value, other))):
        raise Abstain('the same in other units')
      return False
    # 7 m and 7m, where m is a letter.
    if tree.symbols(b) & dict(a.unit).keys():
      if any(len(name) > 1 for name, _ in a.unit):
        raise Abstain('a unit beside letters')
      return self.value(tree.Op('*', (a.value, *(
          tree.Op('^', (name, Fraction(power))) for name, power in a.unit))), b)
    equal = self.value(a.value, b)
    if not dimension:
      # 5k, 3M have no factor, since k and M may be letters. 25% is 0.25; against 25
      # the question decides.
      scaled = factor is not None and self.value(tree.Op('*', (a.value, factor)), b)
      if factor is None or equal and not scaled:
        raise Abstain('a percent sign, or a letter for thousands, on one side only')
      return scaled
    if equal and a.tight:
      raise Abstain('a unit or a letter beside a number')
    if not equal and self.is_conversion(a, b):
      raise Abstain('a unit on one side only')  # 100 cm and 1, which can be in metres
    return equal

  def is_conversion(self, a: tree.Quantity, b: tree.Expr) -> bool:
    """Whether a number may be a quantity in another unit of its dimension."""
    scales = words.scales(a.unit)
    if type(a.value) is type(b) is Fraction:
      return bool(a.value) and b / a.value in scales
    return a.unit == (('degree', 1),) or any(  # degrees may be radians
        self.value(tree.Op('*', (a.value, scale)), b) for scale in scales)


def _check_kinds(a, b) -> None:
  if type(a) is not type(b):
    raise Abstain('answers of different kinds')


# The order matters, see `Comparison.same`.
_RULES = (
    (tree.Named, Comparison.named), (tree.Computed, Comparison.computed),
    (tree.Choice, Comparison.choice), (tree.SetOp, Comparison.set),
    (tree.Group, Comparison.group), (tree.Words, Comparison.phrase),
    (tree.Based, Comparison.based), (tree.Ratio, Comparison.ratio),
    (tree.Matrix, Comparison.matrix), (tree.Relation, Comparison.relation),
    (tree.Quantity, Comparison.quantity))
