"""Counts how often a loop of an HLO module runs.

XLA:CPU writes the number of trips into the text. The TPU compiler does not, and it
spreads the counter over copies, fusions and the loop's tuple. So the loop is
interpreted: the few integers that its condition depends on are computed, trip by
trip, until the condition is false.
"""

import operator
import re

from experiments.tpu import hlo_text

_MOST = 100_000  # trips that are followed before the loop is given up
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SAME = frozenset((
    'copy', 'convert', 'bitcast', 'reshape', 'broadcast', 'copy-done',
    'optimization-barrier', 'opt-barrier', 'bitcast-convert',
))
_TWO = {
    'add': operator.add, 'subtract': operator.sub, 'multiply': operator.mul,
    'divide': lambda a, b: int(a / b) if b else None,
    'remainder': lambda a, b: a - b * int(a / b) if b else None,
    'minimum': min, 'maximum': max, 'and': operator.and_, 'or': operator.or_,
    'shift-left': operator.lshift, 'shift-right-logical': operator.rshift,
}
_COMPARE = {
    'LT': operator.lt, 'LE': operator.le, 'GT': operator.gt,
    'GE': operator.ge, 'EQ': operator.eq, 'NE': operator.ne,
}


def count(module, computation, loop) -> int | None:
  """Number of trips of a `while` in this computation; None if it depends on data."""
  if known := _KNOWN.search(loop.attributes):
    return int(known[1])
  condition, body = (
      module.computations[loop.called[c]] for c in ('condition', 'body'))
  state = _Values(module, computation, None).of(loop.operands[0])
  for trip in range(_MOST):
    again = _Values(module, condition, [state]).of(condition.root.name)
    if again is None:
      return None
    if not again:
      return trip
    # Values are lazy: only the parts of the state that the condition reads are
    # computed. The rest is arrays, which are not known.
    state = _Values(module, body, [state]).of(body.root.name)
    if isinstance(state, _Tuple):
      state = state.settled(_read(condition))
  return None


def _read(condition) -> list[int]:
  """Indices of the parts of the loop's state that its condition reads."""
  return sorted({
      int(x.attribute('index')) for x in condition.instructions.values()
      if x.opcode == 'get-tuple-element'
      and x.operands[0] == condition.parameters[0].name
  })


class _Tuple:
  """A tuple whose parts are computed on first use."""

  def __init__(self, values, operands):
    self._values, self._operands, self._made = values, operands, {}

  def part(self, i: int):
    if i not in self._made:
      self._made[i] = self._values.of(self._operands[i])
    return self._made[i]

  def settled(self, indices) -> '_Tuple':
    """Computes these parts now; otherwise the recursion deepens with every trip."""
    for i in indices:
      self.part(i)
    return self


class _Values:
  """Interprets a computation: integers, truths and tuples; None is unknown."""

  def __init__(self, module, computation, arguments):
    self._module, self._computation = module, computation
    self._arguments, self._made = arguments, {}

  def of(self, name: str):
    if name not in self._made:
      self._made[name] = self._compute(self._computation.instructions[name])
    return self._made[name]

  def _compute(self, x):
    if x.opcode == 'parameter':
      i = int(x.operands[0])
      return None if self._arguments is None else self._arguments[i]
    if x.opcode == 'constant':
      return _constant(x)
    if x.opcode == 'tuple':
      return _Tuple(self, x.operands)
    if x.opcode == 'get-tuple-element':
      whole = self.of(x.operands[0])
      whole = whole if isinstance(whole, _Tuple) else None
      return whole and whole.part(int(x.attribute('index')))
    if x.opcode in ('fusion', 'call'):
      called = self._module.computations[
          x.called.get('calls') or x.called['to_apply']]
      arguments = [self.of(o) for o in x.operands]
      return _Values(self._module, called, arguments).of(called.root.name)
    if not isinstance(x.shape, hlo_text.Shape):
      return self.of(x.operands[0]) if x.opcode == 'copy-start' else None
    if x.shape.dims and max(x.shape.dims) > 1:
      return None
    return self._scalar(x)

  def _scalar(self, x):
    if x.opcode in _SAME:
      return self.of(x.operands[0])
    if x.opcode not in (*_TWO, 'compare', 'select', 'not', 'negate', 'clamp'):
      return None
    values = [self.of(o) for o in x.operands]
    if not all(isinstance(v, int) for v in values):
      return None
    if x.opcode in _TWO:
      return _TWO[x.opcode](*values)
    if x.opcode == 'compare':
      return int(_COMPARE[x.attribute('direction')](*values))
    if x.opcode == 'select':
      return values[1] if values[0] else values[2]
    if x.opcode == 'clamp':
      low, value, high = values
      return min(max(value, low), high)
    return int(not values[0]) if x.opcode == 'not' else -values[0]


def _constant(x) -> int | None:
  text = x.operands[0] if len(x.operands) == 1 else ''
  if text in ('true', 'false'):
    return int(text == 'true')
  text = text.strip('{}')
  return int(text) if re.fullmatch(r'-?\d+', text) else None
