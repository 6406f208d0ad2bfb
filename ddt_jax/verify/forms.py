"""Brings answers that mean the same into one form.

A plus-minus becomes its values, x = 1, x = 2 a named list, inequalities joined by
"or" a union.
"""
from fractions import Fraction
import itertools
import math

from ddt_jax.verify import tree
from ddt_jax.verify import values
from ddt_jax.verify.tokens import Abstain

MAX_VALUES = 32  # of a list, each plus-minus counted
# n signs make 2^n values.
MAX_SIGNS = 4  # plus-minus signs in one expression

MINUS_INFINITY = tree.Op('*', (Fraction(-1), 'oo'))


def reduce(node):
  """Writes out plus-minus signs, and moves names from items to their list."""
  if isinstance(node, tree.Group):
    return _reduce_group(node)
  if isinstance(node, tree.Named):
    value = reduce(node.value)
    return tree.Named(node.name, value)
  if tree.contains(node, '±', '∓'):
    return tree.Group('', '', tuple(_signs(node)))
  if isinstance(node, tree.Quantity) and tree.contains(node.value, '±', '∓'):
    return tree.Group('', '', tuple(
        node._replace(value=x) for x in _signs(node.value)))
  return node


def _reduce_group(group: tree.Group):
  # A point (±1, 2) becomes the list (1, 2), (-1, 2).
  if group.opened not in ('', r'\{'):
    signed = any(tree.contains(x, '±', '∓') for x in group.items)
    if not signed:
      return group
    choices = [_signs(x) if tree.contains(x, '±', '∓') else [x]
               for x in group.items]
    _limit(math.prod(map(len, choices)))
    return tree.Group('', '', tuple(
        group._replace(items=items) for items in itertools.product(*choices)))
  items = []
  for item in map(reduce, group.items):
    inner = isinstance(item, tree.Group) and not item.opened
    items.extend(item.items if inner else [item])
  _limit(len(items))
  named = [x.name for x in items if isinstance(x, tree.Named)]
  if group.opened or not named:
    return group._replace(items=tuple(items))
  # One letter in all items: the list holds the values of that letter, not a system.
  if isinstance(items[0], tree.Named) and len(set(named)) == 1 and (
      len(named) in (1, len(items))):  # x = 1, x = 2 or x = 1, 2
    return _one_name(named[0], group, [
        x.value if isinstance(x, tree.Named) else x for x in items])
  return group._replace(items=tuple(items))


def _limit(count: int) -> None:
  if count > MAX_VALUES:
    raise Abstain(f'more than {MAX_VALUES} values in a list')


def _one_name(name: str, group: tree.Group, parts: list):
  intervals = [is_set(x) or isinstance(x, tree.Group) and is_interval(x)
               for x in parts]
  # Plain values, as in x = 1, 2: a list under one name.
  if not any(intervals):
    return tree.Named(name, reduce(tree.Group('', '', tuple(parts))))
  # x < 1 or x > 2 is a union; with a comma it may mean both or either.
  op = {'or': r'\cup', 'and': r'\cap'}.get(group.joint)
  if op is None or not all(intervals):
    raise Abstain('several inequalities without "and" or "or"')
  value = parts[0]
  for right in parts[1:]:
    value = tree.SetOp(op, value, right)
  return tree.Named(name, value)


def _signs(node: tree.Expr) -> list[tree.Expr]:
  """An expression with each choice of its plus-minus signs; ∓ follows the first."""
  count = _count(node, '±')
  if not 0 < count <= MAX_SIGNS:
    raise Abstain(f'more than {MAX_SIGNS} plus-minus signs, or a minus-plus alone')
  return [_signed(node, iter(signs), signs[0])
          for signs in itertools.product((1, -1), repeat=count)]


def _count(node: tree.Expr, head: str) -> int:
  if not isinstance(node, tree.Op):
    return 0
  return (node.head == head) + sum(_count(x, head) for x in node.args)


def _signed(node: tree.Expr, signs, first: int) -> tree.Expr:
  if not isinstance(node, tree.Op):
    return node
  if node.head in '±∓':
    # In a ± b ∓ c the signs are opposite, so ∓ draws none of its own.
    sign = next(signs) if node.head == '±' else -first
    return tree.Op('*', (Fraction(sign), _signed(node.args[0], signs, first)))
  return tree.Op(node.head, tuple(_signed(x, signs, first) for x in node.args))


def is_set(node) -> bool:
  return isinstance(node, tree.SetOp) or node == 'ℝ'


def is_interval(node: tree.Group) -> bool:
  """Whether brackets can only be those of an interval: low < high."""
  if len(node.items) != 2 or node.opened not in '([' or not all(
      map(tree.is_expr, node.items)):
    return False
  low, high = node.items
  # A point has no infinite coordinate.
  if low == MINUS_INFINITY or high == 'oo':
    return True
  low, high = values.rational(low), values.rational(high)
  return low is not None and high is not None and low < high
