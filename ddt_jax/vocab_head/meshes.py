"""The head on a mesh: rows over data and fsdp, the vocabulary over tensor.

`mesh` is None for one device throughout; see `multi_device`.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ddt_jax import sharding

ROWS = sharding.BATCH  # spec of hidden states, targets and masks


def multi_device(mesh: Mesh | None) -> Mesh | None:
  """The mesh, or None if it has one device."""
  return mesh if mesh is not None and mesh.size > 1 else None


def is_split(mesh: Mesh | None, head: jax.Array) -> bool:
  """Whether each device along `tensor` holds a part of the vocabulary.

  A vocabulary that the axis does not divide is not split.

  Args:
    mesh: with the axes data, fsdp and tensor, or None.
    head: [V, D].
  """
  ways = 1 if mesh is None else mesh.shape['tensor']
  # shard_map needs equal parts; padding would add columns to the softmax.
  return ways > 1 and not len(head) % ways


def head_spec(mesh: Mesh | None, head: jax.Array) -> P:
  """The spec of the head inside `shard_map_rows`; P(), so falsy, if it is whole."""
  # Never over fsdp: shard_map then all-gathers the head once, before any chunk.
  return P('tensor') if is_split(mesh, head) else P()


def head_grad_spec(mesh: Mesh | None, head: jax.Array) -> P | None:
  """The spec of the head's gradient outside: that of the parameter."""
  return mesh and sharding.spec('head/kernel', head.shape, mesh)


def first_id(head: jax.Array, split: P) -> int | jax.Array:
  """The token id of the first row of a device's part of the head."""
  return jax.lax.axis_index('tensor') * len(head) if split else 0


def shard_map_rows(
    mesh: Mesh | None, local: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """`local`, run by each device on its rows and its part of the head."""
  if mesh is None:
    return local
  return jax.shard_map(
      local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def cast_for_gather(
    mesh: Mesh | None, head: jax.Array, dtype: Any
) -> jax.Array:
  """The head in the dtype in which it is gathered over `fsdp`.

  A cast to the compute dtype before the all-gather halves its bytes for
  bfloat16. Without an all-gather each chunk is cast when it is used, which
  spares a copy of the head.
  """
  if mesh is None or mesh.shape['fsdp'] == 1:
    return head
  return head.astype(dtype)


def reduce_head_grad(
    mesh: Mesh | None, dw: jax.Array, spec: P | None
) -> jax.Array:
  """The head's gradient summed over the rows of all devices.

  Args:
    mesh: None returns `dw` as it is.
    dw: a device's gradient, from its own rows.
    spec: see `head_grad_spec`. An axis of it that is split over `fsdp` is
      reduce-scattered, so that each device keeps its shard alone.
  """
  if mesh is None:
    return dw
  over_fsdp = [i for i, axes in enumerate(spec) if axes and 'fsdp' in axes]
  if not over_fsdp:
    # No axis to scatter along, so every device keeps the whole sum.
    return jax.lax.psum(dw, ROWS[0])
  # fsdp first: the sum over `data` then moves only a shard.
  dw = jax.lax.psum_scatter(
      dw, 'fsdp', scatter_dimension=over_fsdp[0], tiled=True)
  return jax.lax.psum(dw, 'data')
