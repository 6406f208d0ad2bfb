"""Cost of a compiled program, from its optimised HLO, with loops multiplied in.

`compiled.cost_analysis()` counts the body of a loop once, but our programs are loops:
over layers, chunks, micro-batches. So the text of the compiled program
(`compiled.as_text()`) is parsed by `hlo_text` and walked here, and the body of a
`while` counts as often as it runs (`hlo_trips`). jaxlib's own graph of the module has
neither shapes nor attributes and cannot replace the text.

Counted for one device:
  flops: of matrix products alone, those of attention kernels (`hlo_kernels`)
    included; a multiply-add is 2.
  bytes: reads and writes of the main memory by every instruction outside of fusions.
    Arrays that the compiler placed in a faster memory are free. A slice read from an
    array, or written into one, counts as the slice.
  collectives: number and bytes by kind, inside and outside of loops. The bytes are
    the larger of input and output.
"""

import collections
from collections.abc import Iterable
import dataclasses
import math
import re

from experiments.tpu import hlo_kernels
from experiments.tpu import hlo_text
from experiments.tpu import hlo_trips

COLLECTIVES = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'ragged-all-to-all', 'collective-permute', 'collective-broadcast',
)
# These move no bytes: they name other results, or only call a computation.
_FREE = frozenset((
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
    'after-all', 'opt-barrier', 'optimization-barrier', 'partition-id',
    'replica-id', 'add-dependency', 'domain', 'while', 'conditional', 'call',
))
_FREE_CALLS = ('AllocateBuffer', 'ConcatBitcast', 'AssumeGatherIndicesInBound')
_SAME_PLACE = ('bitcast', 'reshape', 'copy', 'convert', 'transpose')
_CUTS = ('dynamic-slice', 'slice', 'gather')


@dataclasses.dataclass
class Cost:
  """Cost of a program on one device.

  Attributes:
    flops, bytes: see above.
    kernel_flops: those of attention kernels, by formula.
    collectives: {(kind, whether inside a loop): [number, bytes]}.
    unknown_loops: number of loops whose trips depend on data.
  """

  flops: float = 0
  bytes: float = 0
  kernel_flops: float = 0
  collectives: dict[tuple[str, bool], list[float]] = dataclasses.field(
      default_factory=lambda: collections.defaultdict(lambda: [0, 0]))
  unknown_loops: int = 0


def cost(text: str, *, unknown_trips: int = 1) -> Cost:
  """Adds up the cost of a compiled program.

  Args:
    text: the HLO module, `compiled.as_text()`.
    unknown_trips: trips that a loop is counted with if they depend on data.
  """
  module = hlo_text.parse(text)
  walk = _Walk(module, unknown_trips)
  walk.computation(module.entry, 1, False)
  return walk.cost


class _Walk:
  """Walks the computations of a module and adds up their cost."""

  def __init__(self, module: hlo_text.Module, unknown_trips: int):
    self._module, self._unknown = module, unknown_trips
    # The TPU compiler cuts a collective into pieces to hide it behind other work. Each
    # piece repeats it in the text; only the piece that starts it is counted.
    self._in_pieces = {
        x.attribute('channel_id') for c in module.computations.values()
        if _starts(c) for x in c.instructions.values() if _collective(x)
    }
    self.cost = Cost()

  def computation(self, name: str, times: float, looped: bool) -> None:
    """Adds a computation that runs `times` times."""
    computation = self._module.computations[name]
    for x in computation.instructions.values():
      if x.opcode == 'while':
        trips = hlo_trips.count(self._module, computation, x)
        if trips is None:
          self.cost.unknown_loops += 1
          trips = self._unknown
        self.computation(x.called['body'], times * trips, True)
      elif x.opcode == 'conditional':
        # The device runs one branch; take the most expensive.
        branches = [self._alone(b, looped) for b in x.branches]
        dearest = max(branches, key=lambda c: (c.flops, c.bytes))
        _add(self.cost, dearest, times)
      elif x.opcode in ('call', 'async-start') and x.called:
        for inner in x.called.values():
          self.computation(inner, times, looped)
      else:
        self.cost.bytes += times * self._bytes(computation, x)
        self._products(computation, x, times, looped)

  def _alone(self, name: str, looped: bool) -> Cost:
    walk = _Walk(self._module, self._unknown)
    walk.computation(name, 1, looped)
    return walk.cost

  def _products(self, computation, x, times, looped) -> None:
    """Adds matrix products and collectives of an instruction, fused ones included."""
    if x.opcode == 'fusion':
      inner = self._module.computations[x.called['calls']]
      for y in inner.instructions.values():
        self._products(inner, y, times, looped)
    elif x.opcode == 'dot':
      self.cost.flops += times * _dot_flops(computation, x)
    elif x.opcode == 'convolution':
      self.cost.flops += times * _convolution_flops(computation, x)
    elif (kernel := hlo_kernels.cost(computation, x)) is not None:
      self.cost.flops += times * kernel.flops
      self.cost.bytes += times * kernel.bytes
      self.cost.kernel_flops += times * kernel.flops
    elif (kind := _collective(x)) and not self._later_piece(computation, x):
      count = self.cost.collectives[kind, looped]
      count[0] += times
      count[1] += times * _largest(computation, x)

  def _later_piece(self, computation, x) -> bool:
    return (
        x.attribute('channel_id') in self._in_pieces and not _starts(computation))

  # Bytes -----------------------------------------------------------------------

  def _bytes(self, computation, x) -> float:
    """Bytes of main memory that an instruction outside of fusions reads and writes."""
    if (
        x.opcode in _FREE or x.opcode.endswith('-done')
        or _target(x) in _FREE_CALLS
    ):
      return 0
    operands = [computation.instructions[o] for o in x.operands]
    if x.opcode == 'fusion':
      inner = self._module.computations[x.called['calls']]
      if _target(inner.root) == 'AsyncCollectiveDone':
        return 0
      if _starts(inner):  # (source, target, ...)
        return _main(operands[0].shape) + _main(x.shape[1])
      read = sum(
          min(self._read(inner, p), _main(o.shape))
          for p, o in zip(inner.parameters, operands, strict=True)
          if _main(o.shape)
      )
      return read + self._written(inner, inner.root, x.shape)
    if x.opcode in _CUTS:
      return _main(x.shape) + (_size(x.shape) if _main(operands[0].shape) else 0)
    if x.opcode == 'dynamic-update-slice':
      return 2 * _size(operands[1].shape) if _main(x.shape) else 0
    if x.opcode.endswith('-start'):  # of a copy, a slice, a collective
      source, target = _ends(computation, x)
      read = target if x.opcode == 'slice-start' else source
      return (_size(read) if _main(source) else 0) + _main(target)
    return _main(x.shape) + sum(_main(o.shape) for o in operands)

  def _read(self, computation, x) -> float:
    """Bytes read of x, a value inside a fusion: a fusion may slice what it gets."""
    read = 0
    for user in computation.users(x.name):
      if user.opcode in _SAME_PLACE and user is not computation.root:
        part = self._read(computation, user)
        read += part * _size(x.shape) / max(_size(user.shape), 1)
      elif user.opcode in _CUTS and user.operands[0] == x.name:
        # Elements of the result, in the dtype of the source that is read.
        read += math.prod(user.shape.dims) * x.shape.itemsize
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == x.name:
        continue  # XLA updates the array in place and reads nothing of it
      elif _collective(user) or (
          user.opcode == 'tuple' and x.opcode == 'parameter'):
        continue  # passed on
      elif user.opcode == 'fusion':
        inner = self._module.computations[user.called['calls']]
        for p, o in zip(inner.parameters, user.operands, strict=True):
          read += self._read(inner, p) if o == x.name else 0
      else:
        return _size(x.shape)
    return min(read, _size(x.shape))

  def _written(self, computation, x, shape) -> float:
    """Bytes that a fusion writes; x is its root, `shape` the fusion's result."""
    if x.opcode == 'tuple':
      return sum(
          self._written(computation, computation.instructions[o], s)
          for o, s in zip(x.operands, shape, strict=True)
      )
    if not _main(shape):
      return 0
    if x.opcode in _SAME_PLACE:
      inner = computation.instructions[x.operands[0]]
      if inner.opcode == 'dynamic-update-slice':
        return self._written(computation, inner, shape)
    if x.opcode == 'dynamic-update-slice':
      return _size(computation.instructions[x.operands[1]].shape)
    if x.opcode == 'fusion':
      inner = self._module.computations[x.called['calls']]
      return self._written(inner, inner.root, shape)
    if x.opcode == 'parameter' or _collective(x) and self._later_piece(
        computation, x):
      return 0  # passed on
    return _main(shape)


def _add(total: Cost, more: Cost, times: float) -> None:
  total.flops += times * more.flops
  total.bytes += times * more.bytes
  total.kernel_flops += times * more.kernel_flops
  total.unknown_loops += more.unknown_loops
  for kind, counts in more.collectives.items():
    for i, n in enumerate(counts):
      total.collectives[kind][i] += times * n


def _leaves(shape) -> Iterable[hlo_text.Shape]:
  if isinstance(shape, hlo_text.Shape):
    return (shape,)
  return tuple(leaf for part in shape for leaf in _leaves(part))


def _size(shape) -> int:
  return sum(leaf.bytes for leaf in _leaves(shape))


def _main(shape) -> int:
  """Bytes of the parts that are in the main memory."""
  return sum(leaf.bytes for leaf in _leaves(shape) if not leaf.space)


def _target(x) -> str | None:
  return x.opcode == 'custom-call' and x.attribute('custom_call_target') or None


def _starts(computation) -> bool:
  return _target(computation.root) == 'AsyncCollectiveStart'


def _collective(x) -> str | None:
  kind = x.opcode.removesuffix('-start')
  return kind if kind in COLLECTIVES else None


def _ends(computation, x):
  """Shapes of source and target of a `-start`; its result is (source, target, ...)."""
  source = [computation.instructions[o].shape for o in x.operands]
  shape = x.shape
  if isinstance(shape, hlo_text.Shape) or x.opcode == 'all-reduce-start':
    return source, shape
  if x.opcode == 'copy-start':
    return source, shape[0]
  return source, shape[1]


def _largest(computation, x) -> int:
  if x.opcode.endswith('-start'):
    return max(_size(end) for end in _ends(computation, x))
  operands = [computation.instructions[o].shape for o in x.operands]
  return max(_size(operands), _size(x.shape))


# Matrix products -----------------------------------------------------------------


def _dot_flops(computation, x) -> int:
  left = computation.instructions[x.operands[0]].shape
  summed = math.prod(left.dims[i] for i in x.numbers('lhs_contracting_dims'))
  return 2 * math.prod(x.shape.dims) * summed


def _convolution_flops(computation, x) -> int:
  """FLOPs of a convolution; the TPU compiler writes matrix products as such.

  A window position counts only where it meets an element of the input: positions on
  padding, or in the gaps of a dilated input, multiply by zero.
  """
  left, right = (computation.instructions[o].shape for o in x.operands)
  of_left, of_right, of_out = re.split('_|->', x.attribute('dim_labels'))
  window = _window(x.attribute('window'))
  flops = 2 * math.prod(
      x.shape.dims[of_out.index(label)] for label in 'bf')
  flops *= right.dims[of_right.index('i')]
  flops //= int(x.attribute('batch_group_count') or 1)
  for i in range(len(of_out) - 2):
    at = {k: v[i] for k, v in window.items()}
    flops *= _places(
        left.dims[of_left.index(str(i))], x.shape.dims[of_out.index(str(i))],
        **at)
  return flops


def _window(text: str | None) -> dict[str, list]:
  """Parses 'size=4x7 pad=0_0x6_6 ...' into a list of numbers per field."""
  fields = dict(f.split('=') for f in (text or '').strip('{}').split())
  found = {
      'size': [int(n) for n in fields['size'].split('x')] if fields else []}
  rank = len(found['size'])
  for name in ('stride', 'lhs_dilate', 'rhs_dilate'):
    given = fields.get(name, 'x'.join('1' * rank))
    found[name] = [int(n) for n in given.split('x')] if rank else []
  pads = fields.get('pad', 'x'.join(['0_0'] * rank))
  found['pad'] = [int(p.split('_')[0]) for p in pads.split('x')] if rank else []
  return found


def _places(inputs, outputs, *, size, stride, lhs_dilate, rhs_dilate, pad) -> int:
  """Number of pairs (window position, output) that meet an element of the input."""
  last, found = (inputs - 1) * lhs_dilate, 0
  for k in range(size):
    offset = k * rhs_dilate - pad
    if lhs_dilate == 1:
      # 0 <= o * stride + offset <= last
      low = max(0, -(offset // stride))
      high = min(outputs - 1, (last - offset) // stride)
      found += max(0, high - low + 1)
    else:
      found += sum(
          0 <= o * stride + offset <= last
          and not (o * stride + offset) % lhs_dilate for o in range(outputs)
      )
  return found
