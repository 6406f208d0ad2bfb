"""Equality of numbers with units. A number alone takes the unit of the other side."""

from collections.abc import Callable
from fractions import Fraction

from ddt_jax.verify import tree
from ddt_jax.verify import units
from ddt_jax.verify.tokens import Abstain


def same(a, b, same_value: Callable[[tree.Expr, tree.Expr], bool]) -> bool:
  """Equality of two numbers of which at least one has a unit.

  The question may ask for a certain unit. So where the units differ, values that
  differ after conversion refute, but equal values do not confirm.
  """
  if not isinstance(a, tree.Quantity):
    a, b = b, a
  if isinstance(b, tree.Quantity):
    return _same_units(a, b, same_value)
  # Here the other side uses the unit's symbol as a letter.
  if tree.symbols(b) & dict(a.unit).keys():  # 7 m and 7m, where m is a letter
    return same_value(_product(a), b)
  equal = same_value(a.value, b)
  dimension, factor = units.measure(a.unit)
  # 5k, 3M: `units` lists them without a factor, since they may be letters.
  if not dimension and factor is None:
    raise Abstain('a unit, or a letter for thousands or millions')
  # 25% is 0.25. Against 25 the question decides, which is unknown here.
  if not dimension:
    if same_value(tree.Op('*', (a.value, factor)), b):
      return True
    if equal:
      raise Abstain('a percent sign on one side only')
    return False
  if equal and a.tight:
    raise Abstain('a unit or a letter beside a number')
  if not equal and _is_conversion(a, b, same_value):
    raise Abstain('a unit on one side only')  # 100 cm and 1, which can be in metres
  return equal


def _is_conversion(a: tree.Quantity, b: tree.Expr, same_value) -> bool:
  """Whether a number may be a quantity in another unit of its dimension."""
  scales = units.scales(a.unit)
  if type(a.value) is type(b) is Fraction:
    return bool(a.value) and b / a.value in scales
  return a.unit == (('degree', 1),) or any(  # degrees may be radians
      same_value(tree.Op('*', (a.value, scale)), b) for scale in scales)


def _same_units(a: tree.Quantity, b: tree.Quantity, same_value) -> bool:
  if a.unit == b.unit:
    return same_value(a.value, b.value)
  (ours, x), (theirs, y) = units.measure(a.unit), units.measure(b.unit)
  if ours != theirs or None in (x, y):
    raise Abstain('different units')
  # The question may ask for one of the units.
  if same_value(tree.Op('*', (a.value, x)), tree.Op('*', (b.value, y))):
    raise Abstain('the same in other units')
  return False


def _product(a: tree.Quantity) -> tree.Expr:
  """A quantity whose units are letters, as an expression."""
  node = a.value
  for name, power in a.unit:
    if len(name) > 1:
      raise Abstain('a unit beside letters')
    node = tree.Op('*', (node, tree.Op('^', (name, Fraction(power)))))
  return node
