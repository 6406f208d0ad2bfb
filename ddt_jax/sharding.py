"""The device mesh, and one table of how parameters are sharded over it.

Axes: `data` replicates parameters, `fsdp` shards them (and the batch), and
`tensor` shards heads, MLP width and vocabulary. `jax.jit` with in/out shardings
does the rest: the model code names no axis.
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

from ddt_jax import errors

AXES = ('data', 'fsdp', 'tensor')
BATCH = P(('data', 'fsdp'))  # every leading batch axis

# (pattern, spec, ...): the first pattern found in the parameter's path applies, and
# of its specs the first that divides the shape. Layers are stacked, so their leading
# axis is L. Optimizer moments have the same path endings.
RULES = (
    # [V, D]. Lookups read, and their gradients add, whole rows: split by rows, a
    # TPU needs no copy in another layout. Columns where V does not divide.
    (r'(embed/embedding|head/kernel)$',
     P(('tensor', 'fsdp')), P('tensor', 'fsdp')),
    # `tensor` splits the outputs here and the inputs below, so a pair of products
    # needs one sum over devices, after the second.
    (r'(q|k|v|gate|up)/kernel$', P(None, 'fsdp', 'tensor')),  # [L, D, out]
    (r'(o|down)/kernel$', P(None, 'tensor', 'fsdp')),  # [L, in, D]
    (r'(q|k|v)/bias$', P(None, 'tensor')),  # [L, out]
    # Adapters are split where the kernel beside them is; the rank is whole.
    (r'(q|k|v|gate|up)/lora_a$', P(None, 'fsdp', None)),  # [L, D, rank]
    (r'(q|k|v|gate|up)/lora_b$', P(None, None, 'tensor')),  # [L, rank, out]
    (r'(o|down)/lora_a$', P(None, 'tensor', None)),  # [L, in, rank]
    (r'(o|down)/lora_b$', P(None, None, 'fsdp')),  # [L, rank, D]
    (r'.*', P()),  # norms, scalars
)


def make_mesh(
    *, data: int = 1, fsdp: int = -1, tensor: int = 1, devices=None
) -> Mesh:
  """Returns a mesh with axes `data`, `fsdp` and `tensor`.

  Args:
    data, fsdp, tensor: sizes of the axes. One may be -1: all remaining devices.
    devices: default all.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  shown = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise errors.InputError(
        f'mesh sizes are positive, at most one is -1: {shown}')
  known = math.prod(s for s in sizes if s != -1)
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if math.prod(sizes) != len(devices):
    raise errors.InputError(
        f'mesh {shown} does not fit {len(devices)} device(s); set mesh.data,'
        ' mesh.fsdp and mesh.tensor, one of them to -1')
  # Auto: under the default, Explicit, a lookup in a sharded table raises.
  axis_types = (AxisType.Auto,) * len(AXES)
  return jax.make_mesh(sizes, AXES, axis_types=axis_types, devices=devices)


def path_name(path: tuple[Any, ...]) -> str:
  """Returns `layers/attn/q/kernel` for a key path of `jax.tree_util`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Returns how the table shards a parameter.

  Args:
    path: see `path_name`.
    shape: of the parameter. A longer spec loses its leading axes: a layer that is
      not stacked has no L.
    mesh: with the axes `AXES`.

  Returns:
    The first of the rule's specs that divides the shape; if none does, the last
    one without the axes that do not divide.
  """

  def fits(axes, size):
    names = axes if isinstance(axes, tuple) else (axes,)
    return axes and size % math.prod(mesh.shape[a] for a in names) == 0

  specs = next(s for pattern, *s in RULES if re.search(pattern, path))
  for rule in specs:
    axes = tuple(rule)[-len(shape):] if shape else ()
    kept = [
        a if fits(a, size) else None
        for a, size in zip(axes, shape, strict=False)
    ]
    if kept == list(axes):
      break
  return P(*kept)


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
  """Returns NamedShardings for a tree by the table.

  Args:
    tree: params, a TrainState, or their abstract shapes.
    mesh: with the axes `AXES`.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, x: NamedSharding(
          mesh, spec(path_name(path), np.shape(x), mesh)
      ),
      tree,
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays with a leading batch axis."""
  return NamedSharding(mesh, BATCH)


def gathered(table: jax.Array, mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a vocabulary table [V, D] gathered over `fsdp`."""
  whole = len(table) % mesh.shape['tensor']
  return NamedSharding(mesh, P() if whole else P('tensor'))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, P())


# --- From training's layout to decoding's.


def decoding_mesh(mesh: Mesh, tensor: int) -> Mesh:
  """Returns a mesh of the same devices without `fsdp`.

  A decode step reads all weights for a few rows. With `fsdp` it would all-gather
  all weights for every token.

  Args:
    mesh: of training.
    tensor: number of devices that share the heads.

  Raises:
    InputError: `tensor` does not divide the number of devices.
  """
  if tensor < 1 or mesh.size % tensor:
    raise errors.InputError(
        f'decoding.tensor={tensor} does not divide the {mesh.size} device(s)'
    )
  return _reshaped(mesh, (mesh.size // tensor, 1, tensor))


def _reshaped(mesh: Mesh, sizes: tuple[int, int, int]) -> Mesh:
  # The devices keep their order, or arrays could not be resharded.
  return Mesh(
      mesh.devices.reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def halfway(mesh: Mesh) -> Mesh:
  """Returns the mesh of the intermediate layout when resharding to `mesh`.

  It splits everything as finely as training does, but along the new axes. Two
  all-to-alls lead there and on; in one step XLA would gather whole arrays on
  every device.
  """
  tensor = mesh.shape['tensor']
  return _reshaped(mesh, (1, mesh.size // tensor, tensor))


def reshard(params: Any, mesh: Mesh, dtype: Any) -> Any:
  """Reshards parameters to another mesh by the table, in another dtype.

  Arrays already in place are returned as they are. The others move one at a time,
  to bound memory.

  Args:
    params: sharded over the same devices.
    mesh: see `decoding_mesh`.
    dtype: of the result.

  Returns:
    The same tree.
  """
  def move(x, *hops):
    # Cast before the move: bfloat16 halves the bytes that are sent.
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
