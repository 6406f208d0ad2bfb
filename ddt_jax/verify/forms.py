"""The meaning of relations, and one form for answers that mean the same.

x = 5 gives a name a value, x > 2 is a set, 2 < x is x > 2; a plus-minus becomes its
values, x = 1, x = 2 a named list, inequalities joined by "or" a union.
"""
from fractions import Fraction
import itertools
import math

from ddt_jax.verify import tree
from ddt_jax.verify.tokens import Abstain

MAX_VALUES = 32  # of a list, each plus-minus counted
MAX_SIGNS = 4  # plus-minus signs in one expression; n of them make 2^n values

_OPPOSITE = {'<': '>', '>': '<', '<=': '>=', '>=': '<=', '!=': '!='}


def relation(ops: list[str], sides: list):
  """The meaning of sides[0] ops[0] sides[1] ops[1] ..."""
  if r'\in' in ops:
    name = _name(sides[0])
    if len(ops) > 1 or name is None:
      raise Abstain('a relation of sets')
    return tree.Named(name, sides[1])
  if set(ops) == {'='}:
    return _equality(sides)
  if not all(map(tree.is_expr, sides)):
    raise Abstain('a relation between what are no numbers')
  letters = [i for i, side in enumerate(sides) if isinstance(side, str) and _free(side)]
  # x > 2, 1 < x < 3: the set of values of that letter. 1 < x > 3 is unclear.
  if len(letters) == 1 and sum(bool(_free(side)) for side in sides) == 1 and (
      len(ops) == 1 or letters == [1] and ''.join(op[0] for op in ops) in ('<<', '>>')):
    return tree.Named(sides[letters[0]], _interval(ops, sides, letters[0]))
  if len(ops) > 1:
    raise Abstain('a chain of relations')
  return tree.Relation(ops[0], *sides)


def _name(node) -> str | None:
  """The name that a side of an equation gives: x, f(x), (x, y) or words; or None."""
  if isinstance(node, tree.Words):
    return node.text
  if isinstance(node, tree.Op) and node.head == 'call':
    return f'{node.args[0]}({", ".join(map(str, node.args[1:]))})'
  if isinstance(node, str):
    return node if _free(node) else None
  # (x, y) = (1, 2), a:b = 1:2
  separator = {tree.Group: ',', tree.Ratio: ':'}.get(type(node))
  if separator and getattr(node, 'opened', '(') == '(' and all(
      isinstance(x, str) and _free(x) for x in node.items):
    return separator.join(node.items)
  return None


def _equality(sides: list):
  # x = 5 and 5 = x; but x = x + 1 defines nothing, so the name must be new.
  for side, others in ((sides[0], sides[1:]), (sides[-1], sides[-2::-1])):
    name = _name(side)
    own = side.args[0] if isinstance(side, tree.Op) else side  # the f of f(x)
    if name and not any(_free(x) & _free(own) for x in others):
      return tree.Named(name, _computed(others))
  # 5 * 4 = 20 has no letter: a computation, whose last value counts.
  if not any(map(_free, sides)):
    return _computed(sides)
  if len(sides) > 2 or not all(map(tree.is_expr, sides)):
    raise Abstain('a chain of equations, or one between what are no numbers')
  return tree.Relation('=', *sides)


def _free(node) -> set[str]:
  """The letters in an expression, a quantity or a list of them."""
  if tree.is_expr(node):
    return tree.symbols(node)
  parts = [node.value] if isinstance(node, tree.Quantity) else getattr(node, 'items', ())
  return set().union(*map(_free, parts))


def _computed(values: list):
  return values[0] if len(values) == 1 else tree.Computed(tuple(values))


def _interval(ops: list[str], sides: list, at: int):
  if ops == ['!=']:
    return tree.SetOp(r'\setminus', tree.REALS, tree.Group(r'\{', r'\}', (sides[1 - at],)))
  # Unbounded until a side bounds it.
  low, high = (tree.MINUS_INFINITY, '('), ('oo', ')')
  for i, op in enumerate(ops):
    bound = sides[i + 1] if at == i else sides[i]
    # The letter is on the right, as in 2 < x: read it as x > 2.
    op = op if at == i else _OPPOSITE[op]
    if op[0] == '>':
      low = bound, '[' if '=' in op else '('
    else:
      high = bound, ']' if '=' in op else ')'
  return tree.Group(low[1], high[1], (low[0], high[0]))


def reduce(node):
  """Writes out plus-minus signs, and moves names from items to their list."""
  if isinstance(node, tree.Group):
    return _reduce_group(node)
  if isinstance(node, tree.Named):
    return node._replace(value=reduce(node.value))
  value = node.value if isinstance(node, tree.Quantity) else node
  if not tree.contains(value, '±', '∓'):
    return node
  return _bare([x if value is node else node._replace(value=x) for x in _signs(value)])


def _bare(items) -> tree.Group:
  items = tuple(items)
  if len(items) > MAX_VALUES:
    raise Abstain(f'more than {MAX_VALUES} values in a list')
  return tree.Group('', '', items)


def _reduce_group(group: tree.Group):
  # A point (±1, 2) becomes the list (1, 2), (-1, 2).
  if group.opened not in ('', r'\{'):
    choices = [_signs(x) if tree.contains(x, '±', '∓') else [x] for x in group.items]
    count = math.prod(map(len, choices))
    return group if count == 1 else _bare(
        group._replace(items=items)
        for items in itertools.islice(itertools.product(*choices), MAX_VALUES + 1))
  items = []
  for item in map(reduce, group.items):
    inner = isinstance(item, tree.Group) and not item.opened
    items.extend(item.items if inner else [item])
  group = group._replace(items=_bare(items).items)
  named = [x.name for x in items if isinstance(x, tree.Named)]
  # One letter in all items: the list holds the values of that letter, not a system.
  if group.opened or not isinstance(items[0], tree.Named) or len(set(named)) > 1 or (
      len(named) not in (1, len(items))):  # x = 1, x = 2 or x = 1, 2
    return group
  return _one_name(named[0], group.joint, [
      x.value if isinstance(x, tree.Named) else x for x in items])


def _one_name(name: str, joint: str, parts: list):
  intervals = [isinstance(x, tree.SetOp) or is_interval(x) for x in parts]
  # Plain values, as in x = 1, 2: a list under one name.
  if not any(intervals):
    return tree.Named(name, reduce(_bare(parts)))
  # x < 1 or x > 2 is a union; with a comma it may mean both or either.
  op = {'or': r'\cup', 'and': r'\cap'}.get(joint)
  if op is None or not all(intervals):
    raise Abstain('several inequalities without "and" or "or"')
  value = parts[0]
  for right in parts[1:]:
    value = tree.SetOp(op, value, right)
  return tree.Named(name, value)


def _signs(node: tree.Expr) -> list[tree.Expr]:
  """An expression with each choice of its plus-minus signs; ∓ follows the first."""
  count = tree.contains(node, '±')
  if not 0 < count <= MAX_SIGNS:
    raise Abstain(f'more than {MAX_SIGNS} plus-minus signs, or a minus-plus alone')
  return [_signed(node, iter(signs), signs[0])
          for signs in itertools.product((1, -1), repeat=count)]


def _signed(node: tree.Expr, signs, first: int) -> tree.Expr:
  if not isinstance(node, tree.Op):
    return node
  if node.head in '±∓':
    # In a ± b ∓ c the signs are opposite, so ∓ draws none of its own.
    sign = next(signs) if node.head == '±' else -first
    return tree.Op('*', (Fraction(sign), _signed(node.args[0], signs, first)))
  return tree.Op(node.head, tuple(_signed(x, signs, first) for x in node.args))


def is_interval(node) -> bool:
  """Whether brackets can only be those of an interval: low < high."""
  if not isinstance(node, tree.Group) or len(node.items) != 2 or (
      node.opened not in ('(', '[') or not all(map(tree.is_expr, node.items))):
    return False
  low, high = map(tree.rational, node.items)
  # A point has no infinite coordinate.
  return node.items[0] == tree.MINUS_INFINITY or node.items[1] == 'oo' or (
      None not in (low, high) and low < high)
