"""Which program computes the attention of rows to themselves.

  splash   JAX's kernel for TPUs
  cudnn    NVIDIA's library; rows that are one segment
  triton   our kernel for GPUs, see `flash`; packed rows too
  blocks   XLA, in blocks of queries: everywhere

The choice follows from devices, dtype and shapes alone, so that it is known, and can
be said, before anything is compiled.
"""

from collections.abc import Callable
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

SHORTEST = 512  # tokens: kernels gain by the blocks they skip, shorter rows have none
_HALF = (jnp.bfloat16, jnp.float16)
_AMPERE = 8.0  # the first compute capability with bfloat16


class Choice(NamedTuple):
  """The program, and why no faster one: '' if it is the fastest."""

  name: str
  reason: str = ''

  def __str__(self):
    return f'{self.name} ({self.reason})' if self.reason else self.name


def choose(
    mesh: jax.sharding.Mesh | None, *, dtype: Any, time: int, head_dim: int,
    kv_heads: int, segmented: bool,
) -> Choice:
  """Chooses the program for rows of this shape.

  Args:
    mesh: of the rows. Without one it is unknown how they are sharded, and XLA
      cannot split a kernel: blocks.
    dtype: of queries, keys and values.
    time: tokens of a row.
    head_dim, kv_heads: H and K, over all devices.
    segmented: whether rows have segment ids.
  """
  if mesh is None:
    return Choice('blocks', 'the devices are unknown')
  # Not the default backend: a program may be compiled for devices elsewhere.
  device, shared = mesh.devices.flat[0], mesh.shape['tensor']
  if device.platform not in ('tpu', 'gpu', 'cuda'):
    return Choice('blocks')
  if time < SHORTEST:
    return Choice('blocks', f'rows are shorter than {SHORTEST} tokens')
  if kv_heads % shared:
    return Choice(
        'blocks', f'{shared} devices cannot share {kv_heads} key heads')
  if device.platform == 'tpu':
    return Choice('splash')
  return _on_gpu(device, jnp.dtype(dtype), head_dim, segmented)


def _on_gpu(device, dtype, head_dim, segmented) -> Choice:
  if dtype not in _HALF:
    return Choice(
        'blocks', f'kernels for GPUs take no {dtype}; model.dtype=bfloat16 is faster')
  capability = str(getattr(device, 'compute_capability', ''))
  # AMD's are no numbers.
  if not re.fullmatch(r'\d+\.\d+', capability) or float(capability) < _AMPERE:
    return Choice('blocks', f'no kernel for GPUs of this kind ({capability})')
  if not segmented and head_dim % 8 == 0 and head_dim <= 128:
    return Choice('cudnn')
  if head_dim in (16, 32, 64, 128):  # Triton's blocks are powers of two
    return Choice('triton')
  return Choice('blocks', f'no kernel for GPUs takes {head_dim} channels a head')


def on_each_device(
    local: Callable[..., jax.Array], mesh: jax.sharding.Mesh | None,
    heads_at: int = 2,
) -> Callable[..., jax.Array]:
  """Returns `local`, called by each device on its own rows and heads.

  XLA cannot split a kernel by itself.

  Args:
    local: q, k, v [B, T, heads, H] and ids [B, T] -> y [B, T, N, H].
    mesh: rows are sharded over data and fsdp, heads over tensor; None: one device.
    heads_at: axis of the heads; 1 for [B, heads, T, H].
  """
  if mesh is None:
    return local
  rows, axes = ('data', 'fsdp'), [None, None]
  axes.insert(heads_at - 1, 'tensor')
  spec = P(rows, *axes)
  return jax.shard_map(
      local, mesh=mesh, in_specs=(spec, spec, spec, P(rows, None)),
      out_specs=spec, check_vma=False)
