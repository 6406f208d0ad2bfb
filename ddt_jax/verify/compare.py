"""Compares two parsed answers. Numbers are compared exactly.

`Comparison.same` raises `Abstain` where neither equality nor its opposite can be
established. It raises `NeedsAlgebra` where rational numbers do not suffice and there
is no `algebra`.
"""
from fractions import Fraction
import itertools

from ddt_jax.verify import forms
from ddt_jax.verify import quantities
from ddt_jax.verify import tree
from ddt_jax.verify import values
from ddt_jax.verify.tokens import Abstain

# Lists within lists are compared pair by pair: without a limit the work grows as a
# power of the answer's length.
MAX_COMPARISONS = 5_000  # of parts of two answers


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
    # Names come before all else: x = 5 may stand against 5, a list or a relation.
    # Each later test may assume that the kinds above it are ruled out.
    if isinstance(a, tree.Named) or isinstance(b, tree.Named):
      return self._same_named(a, b)
    for x, y in ((a, b), (b, a)):
      if isinstance(x, tree.Computed):
        return self._computed(x, y)
      if isinstance(x, tree.Choice):
        return self._same_choice(x, y)
    if forms.is_set(a) or forms.is_set(b):
      return self._same_set(a, b)
    if isinstance(a, tree.Group) or isinstance(b, tree.Group):
      return self._same_groups(a, b)
    if isinstance(a, tree.Words) or isinstance(b, tree.Words):
      return _same_words(a, b)
    for kind, compare in (
        (tree.Based, _same_based), (tree.Ratio, self._same_ratio),
        (tree.Matrix, self._same_matrix), (tree.Relation, self._same_relation)):
      if isinstance(a, kind) and isinstance(b, kind):
        return compare(a, b)
      if isinstance(a, kind) or isinstance(b, kind):
        # 1:2 may be the number 1/2, but 1:2:3 is no number, so it is wrong.
        longer = [x for x in (a, b) if isinstance(x, tree.Ratio) and len(x.items) > 2]
        if longer and tree.is_expr(b if longer == [a] else a):
          return False
        raise Abstain('answers of different kinds')
    if isinstance(a, tree.Quantity) or isinstance(b, tree.Quantity):
      return quantities.same(a, b, self.same_value)
    return self.same_value(a, b)

  def same_value(self, a: tree.Expr, b: tree.Expr) -> bool:
    x, y = values.rational(a), values.rational(b)
    if x is not None and y is not None:
      return x == y
    if a == b:
      return True
    if a in ('oo', forms.MINUS_INFINITY) or b in ('oo', forms.MINUS_INFINITY):
      # oo - oo has no value.
      if tree.contains(a, '+') or tree.contains(b, '+'):
        raise Abstain('a sum with infinity')
      return False
    if tree.contains(a, 'call') or tree.contains(b, 'call'):
      raise Abstain('a function that is not known')
    return self._algebra().same(a, b)

  def _algebra(self):
    if self.algebra is None:
      raise NeedsAlgebra
    return self.algebra

  def _computed(self, a: tree.Computed, b) -> bool:
    *before, last = a.values
    equal = self.same(last, b)
    # 5 * 4 = 21 with the reference 21: the last value is right, the text is not.
    if not all(self.same(x, last) for x in before):
      raise Abstain('a computation that does not hold')
    return equal

  def _same_named(self, a, b) -> bool:
    for x, y in ((a, b), (b, a)):
      if isinstance(x, tree.Named) and isinstance(y, tree.Group) and any(
          isinstance(item, tree.Named) for item in y.items):
        return False  # x = 5 and a system
      if isinstance(x, tree.Named) and isinstance(y, tree.Relation):
        if not tree.is_expr(x.value):
          raise Abstain('answers of different kinds')
        return self._same_relation(tree.Relation('=', x.name, x.value), y)
    if isinstance(a, tree.Named) and isinstance(b, tree.Named):
      if a.name == b.name:
        return self.same(a.value, b.value)
      if not all(x.name.isidentifier() and tree.is_expr(x.value)
                 and tree.symbols(x.value) for x in (a, b)):
        raise Abstain('different names')
      return self._same_relation(*(
          tree.Relation('=', x.name, x.value) for x in (a, b)))
    return self.same(*(x.value if isinstance(x, tree.Named) else x for x in (a, b)))

  def _same_choice(self, a: tree.Choice, b) -> bool:
    if isinstance(b, tree.Choice):
      letters, values = a.letter == b.letter, self.same(a.value, b.value)
      if letters != values:
        raise Abstain('the letter or the value of a choice differs')
      return letters
    if isinstance(b, str) and len(b) == 1 and b.isupper():
      return a.letter == b
    return self.same(a.value, b)

  def _same_groups(self, a, b) -> bool:
    if not (isinstance(a, tree.Group) and isinstance(b, tree.Group)):
      group, other = (a, b) if isinstance(a, tree.Group) else (b, a)
      return self._same_group_and_other(group, other)
    if any(isinstance(x, tree.Named) for x in a.items + b.items):
      return self._same_systems(a, b)
    # A bare list and a set are unordered; (1, 2) is a point, in order.
    loose = {a.opened, b.opened} <= {'', r'\{'}
    if loose:
      return self._same_items(a.items, b.items)
    equal = len(a.items) == len(b.items) and all(
        map(self.same, a.items, b.items))
    if (a.opened, a.closed) == (b.opened, b.closed):
      return equal
    # (1, 2) against a bare 1, 2: wrong if the items differ, undecided otherwise.
    if '' in (a.opened, b.opened) or r'\{' in (a.opened, b.opened):
      if len(a.items) != len(b.items) or not self._same_items(a.items, b.items):
        return False
    elif not equal or forms.is_interval(a) and forms.is_interval(b):
      return False
    raise Abstain('different brackets')

  def _same_group_and_other(self, group: tree.Group, other) -> bool:
    if isinstance(other, tree.Op) and other.head == 'call':
      if group.opened == '(' and other.args[0].isupper() and self.same(
          group, tree.Group('(', ')', other.args[1:])):
        return True  # P(3, 4) and (3, 4)
      raise Abstain('a function that is not known')
    if not (tree.is_expr(other) or isinstance(other, tree.Quantity)):
      raise Abstain('answers of different kinds')
    if group.opened == r'\{' and len(group.items) == 1:
      return self.same(group.items[0], other)
    if isinstance(other, str) and other in 'ℤℕℚℂ':
      raise Abstain('a set of numbers and a list')
    return False

  def _same_items(self, a: tuple, b: tuple) -> bool:
    """Equality of lists in any order; abstains if only repetitions differ."""
    pairs = [[self._known_same(x, y) for y in b] for x in a]
    # Rows and columns of the table "a[i] is b[j]".
    lines = [*pairs, *zip(*pairs, strict=True)] if a and b else [*a, *b]
    if not (a and b):
      return not lines
    if all(line.count(True) == 1 for line in lines) and len(a) == len(b):
      return True
    # An item that surely has no partner refutes, whatever else cannot be compared.
    if any(True not in line and None not in line for line in lines):
      return False
    if any(None in line for line in lines):
      raise Abstain('items that cannot be compared')
    # {2, 2} against {2}: one root twice, or a slip?
    if len(a) != len(b) or any(
        row.count(True) != sum(self.same(x, y) for y in a)
        for x, row in zip(a, pairs, strict=True)):
      raise Abstain('an item twice in a list')
    return True

  def _known_same(self, a, b) -> bool | None:
    try:
      return self.same(a, b)
    except Abstain:
      return None

  def _same_systems(self, a: tree.Group, b: tree.Group) -> bool:
    """x = 2, y = 3: value by value; names x_1, x_2 only number the values."""
    systems = [all(isinstance(x, tree.Named) for x in g.items) for g in (a, b)]
    if all(systems):
      if len(a.items) != len(b.items):
        return False
      ours, theirs = ({x.name: x.value for x in g.items} for g in (a, b))
      if ours.keys() != theirs.keys() or len(ours) < len(a.items):
        raise Abstain('different names')
      return all(self.same(ours[name], theirs[name]) for name in ours)
    # x_1 = 2, x_2 = 3 against 2, 3; but x = 2, y = 3 does not say which is which.
    for system, other in ((a, b), (b, a)):
      if all(isinstance(x, tree.Named) for x in system.items) and (
          len({x.name.partition('_')[0] for x in system.items}) == 1):
        values = tuple(x.value for x in system.items)
        return self.same(tree.Group('', '', values), other)
    raise Abstain('a system and a list')

  def _same_set(self, a, b) -> bool:
    for x, y in ((a, b), (b, a)):
      if not (tree.is_expr(y) or isinstance(y, tree.Group | tree.SetOp)):
        raise Abstain('answers of different kinds')
      if x == 'ℝ' and isinstance(y, tree.Group) and forms.is_interval(y):
        return y.items == (forms.MINUS_INFINITY, 'oo')
    if a == b:
      return True
    if all(tree.is_expr(x) for x in (a, b)):
      return False
    return self._algebra().same_set(a, b)

  def _same_ratio(self, a: tree.Ratio, b: tree.Ratio) -> bool:
    if len(a.items) != len(b.items) or not all(
        self.same_value(tree.Op('*', (x, v)), tree.Op('*', (y, u)))
        for (x, y), (u, v) in itertools.combinations(
            zip(a.items, b.items, strict=True), 2)):
      return False
    # 12:30 as a ratio is 2:5, as a time it is not.
    if (a.clock or b.clock) and a.items != b.items:
      raise Abstain('a ratio or a time')
    return True

  def _same_matrix(self, a: tree.Matrix, b: tree.Matrix) -> bool:
    shapes = [(len(m.rows), len(m.rows[0])) for m in (a, b)]
    return shapes[0] == shapes[1] and all(map(
        self.same_value, itertools.chain(*a.rows), itertools.chain(*b.rows)))

  def _same_relation(self, a: tree.Relation, b: tree.Relation) -> bool:
    if a == b:
      return True
    return self._algebra().same_relation(a, b)


def _same_words(a, b) -> bool:
  if not (isinstance(a, tree.Words) and isinstance(b, tree.Words)):
    raise Abstain('words against mathematics')
  if a.text == b.text:
    return True
  # "no solution" and "none" mean the same; so may BCA and ABC, names of a triangle.
  # Two single words differ.
  if ' ' in a.text + b.text or sorted(a.text) == sorted(b.text) and a.text.isupper():
    raise Abstain('similar words')
  return False


def _same_based(a: tree.Based, b: tree.Based) -> bool:
  if a.base == b.base:
    # As texts: 0101_2 is 101_2. Letters stand for digits above 9.
    return a.digits.lstrip('0') == b.digits.lstrip('0')
  raise Abstain('numbers in different bases')
