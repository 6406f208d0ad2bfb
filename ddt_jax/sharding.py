"""The device mesh, and which parameter lies where: one table.

Axes: `data` replicates parameters, `fsdp` shards them (and the batch), and
`tensor` shards heads, MLP width and vocabulary. Compilation by `jax.jit` with
in/out shardings does the rest; the model code names no axis.
"""

import math
import re
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

AXES = ('data', 'fsdp', 'tensor')
BATCH = P(('data', 'fsdp'))  # every leading batch axis

# The first rule that matches the parameter's path wins. Layers are stacked, so
# their leading axis is L. Optimizer moments have the same path endings.
_BY_ROWS = P(('tensor', 'fsdp'))
RULES = (
    # [V, D]; tables are gathered and their gradients scattered whole rows at a
    # time, which a TPU does without a copy in another layout.
    (r'(embed/embedding|head/kernel)$', _BY_ROWS),
    (r'(q|k|v|gate|up)/kernel$', P(None, 'fsdp', 'tensor')),  # [L, D, out]
    (r'(o|down)/kernel$', P(None, 'tensor', 'fsdp')),  # [L, in, D]
    (r'(q|k|v)/bias$', P(None, 'tensor')),  # [L, out]
    (r'.*', P()),  # norms, scalars
)


def make_mesh(
    *, data: int = 1, fsdp: int = -1, tensor: int = 1, devices=None
) -> Mesh:
  """A mesh over `devices` (default all); one axis may be -1: what is left.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  shown = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(f'mesh sizes are positive, at most one is -1: {shown}')
  known = math.prod(s for s in sizes if s != -1)
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if math.prod(sizes) != len(devices):
    raise ValueError(f'mesh {shown} does not fit {len(devices)} device(s)')
  # Auto: under the default, Explicit, a lookup in a sharded table raises.
  axis_types = (AxisType.Auto,) * len(AXES)
  return jax.make_mesh(sizes, AXES, axis_types=axis_types, devices=devices)


def path_name(path: tuple[Any, ...]) -> str:
  """`layers/attn/q/kernel` for a key path of `jax.tree_util`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """The rule for a parameter; an axis that does not divide is dropped.

  Of a table whose rows do not divide by both axes, `fsdp` takes the columns.
  """
  rule = next(s for pattern, s in RULES if re.search(pattern, path))
  ways = mesh.shape['tensor'] * mesh.shape['fsdp']
  if rule == _BY_ROWS:
    if shape[0] % ways == 0:
      return rule
    rule = P('tensor', 'fsdp')
  rule = tuple(rule)[-len(shape):] if shape else ()
  return P(*(
      axis if axis and size % mesh.shape[axis] == 0 else None
      for axis, size in zip(rule, shape, strict=False)
  ))


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
  """NamedShardings for params, a TrainState, or their abstract shapes."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: NamedSharding(
          mesh, spec(path_name(path), np.shape(x), mesh)
      ),
      tree,
  )


def decoding_mesh(mesh: Mesh, tensor: int) -> Mesh:
  """The same devices, none of which waits for another's part of a matrix.

  A step of decoding reads all weights for a few rows: split over `fsdp` they
  would be gathered anew for every token.

  Args:
    mesh: of training.
    tensor: devices that share the heads.
  """
  if tensor < 1 or mesh.size % tensor:
    raise ValueError(
        f'decoding.tensor={tensor} does not divide the {mesh.size} device(s)'
    )
  return _reshaped(mesh, (mesh.size // tensor, 1, tensor))


def _reshaped(mesh: Mesh, sizes: tuple[int, int, int]) -> Mesh:
  """The same devices in the same order, or arrays could not be resharded."""
  return Mesh(
      mesh.devices.reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def halfway(mesh: Mesh) -> Mesh:
  """Where parameters stop on their way to `mesh`.

  Everything is split as often as in training, but along the new axes already: an
  all-to-all. In one hop the compiler would gather whole arrays on every device.
  """
  tensor = mesh.shape['tensor']
  return _reshaped(mesh, (1, mesh.size // tensor, tensor))


def reshard(params: Any, mesh: Mesh, dtype: Any) -> Any:
  """Parameters as the table has them on another mesh, in another type.

  What lies there already is not copied; the rest is, one array after another.
  """
  def move(x, *hops):
    x = x.astype(dtype)
    if x.sharding.is_equivalent_to(hops[-1], x.ndim):
      return x
    for where in hops:
      x = jax.device_put(x, where)
    return x

  return jax.tree.map(
      move, params, tree_shardings(params, halfway(mesh)),
      tree_shardings(params, mesh),
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, BATCH)


def gathered(table: jax.Array, mesh: Mesh) -> NamedSharding:
  """A vocabulary table [V, D] as split over `tensor` alone."""
  whole = len(table) % mesh.shape['tensor']
  return NamedSharding(mesh, P() if whole else P('tensor'))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())
