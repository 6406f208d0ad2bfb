"""Meaning of a chain of relations: a named value, a set, an equation."""

from fractions import Fraction

from ddt_jax.verify import tree
from ddt_jax.verify.tokens import Abstain

_OPPOSITE = {'<': '>', '>': '<', '<=': '>=', '>=': '<=', '=': '=', '!=': '!='}


def relation(ops: list[str], sides: list):
  """The meaning of sides[0] ops[0] sides[1] ops[1] ..."""
  if r'\in' in ops:
    if len(ops) > 1 or name_of(sides[0]) is None:
      raise Abstain('not understood: a relation of sets')
    return tree.Named(name_of(sides[0]), sides[1])
  if set(ops) == {'='}:
    return _equality(sides)
  # 1 < x < 3 has one direction; 1 < x > 3 or 1 < x = 3 is unclear.
  if len(set(op.strip('=') for op in ops)) > 1 or len(ops) > 2:
    raise Abstain('not understood: a chain of several relations')
  return _inequality(ops, sides)


def name_of(node) -> str | None:
  """Name that a side of an equation gives: x, f(x), (x, y) or words; or None."""
  if isinstance(node, str):
    return node if tree.symbols(node) else None
  if isinstance(node, tree.Op) and node.head == 'call':
    return f'{node.args[0]}({", ".join(map(str, node.args[1:]))})'
  if isinstance(node, tree.Words):
    return node.text
  if isinstance(node, tree.Group) and node.opened == '(' and all(
      isinstance(x, str) and tree.symbols(x) for x in node.items):
    return f'({", ".join(node.items)})'
  if isinstance(node, tree.Ratio) and all(isinstance(x, str) for x in node.items):
    return ':'.join(node.items)
  return None


def _equality(sides: list):
  # x = 5 and 5 = x; but x = x + 1 defines nothing, so the name must be new.
  for name, values in ((sides[0], sides[1:]), (sides[-1], sides[-2::-1])):
    known = name_of(name)
    if known is not None and not any(
        _free(value) & _free(_head(name)) for value in values):
      return tree.Named(known, _computed(values))
  # 5 * 4 = 20 has no letter: a computation, whose last value counts.
  if not any(_free(side) for side in sides):
    return _computed(sides)
  if len(sides) > 2:
    raise Abstain('not understood: a chain of equations')
  if not all(map(tree.is_expr, sides)):
    raise Abstain('not understood: an equation between what are no numbers')
  return tree.Relation('=', *sides)


def _head(name):
  """The f of f(x)."""
  called = isinstance(name, tree.Op) and name.head == 'call'
  return name.args[0] if called else name


def _free(node) -> set[str]:
  """The letters in an expression or a list of them."""
  if isinstance(node, tree.Quantity):
    return tree.symbols(node.value)
  if tree.is_expr(node):
    return tree.symbols(node)
  return set().union(*(_free(x) for x in getattr(node, 'items', ())))


def _computed(values: list):
  """The last of equal values, as 20 in 5 * 4 = 20."""
  if len(values) == 1:
    return values[0]
  return tree.Computed(tuple(values))


def _inequality(ops: list[str], sides: list):
  names = [i for i, side in enumerate(sides)
           if isinstance(side, str) and tree.symbols(side)]
  bounds = [side for i, side in enumerate(sides) if i not in names]
  if not all(map(tree.is_expr, sides)):
    raise Abstain('an inequality between what are no numbers')
  # x > 2, 1 < x < 3: the set of values of that letter.
  if len(names) == 1 and not any(map(tree.symbols, bounds)) and (
      len(ops) == 1 or names == [1]):
    return tree.Named(sides[names[0]], _interval(ops, sides, names[0]))
  if len(ops) > 1:
    raise Abstain('not understood: a chain of inequalities')
  return tree.Relation(ops[0], *sides)


def _interval(ops: list[str], sides: list, at: int):
  if '!=' in ops:
    hole = tree.Group(r'\{', r'\}', (sides[1 - at],))
    return tree.SetOp(r'\setminus', 'ℝ', hole)
  # Unbounded until a side bounds it.
  low, high = (tree.Op('*', (Fraction(-1), 'oo')), '('), ('oo', ')')
  for i, op in enumerate(ops):
    bound = sides[i + 1] if at == i else sides[i]
    # The letter is on the right, as in 2 < x: read it as x > 2.
    if at != i:
      op = _OPPOSITE[op]
    if op[0] == '>':
      low = bound, '[' if '=' in op else '('
    else:
      high = bound, ']' if '=' in op else ')'
  return tree.Group(low[1], high[1], (low[0], high[0]))
