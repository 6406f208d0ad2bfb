"""Attention of rows to themselves by JAX's splash kernel for TPUs.

The kernel (Pallas) keeps scores on the chip, skips the blocks above the diagonal,
and reads grouped keys without repeating them. It knows nothing of positions, so
segment ids say it all: tokens see the tokens before them in their own segment, and
padding is a segment of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddt_jax.model import kernels

_LANES = 128  # rows are cut into blocks of a multiple of it
_BLOCK = 512  # the kernel's default of 128 leaves the matrix unit idle


def attend_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array | None = None,
    *,
    window: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    interpret: bool = False,
) -> jax.Array:
  """Computes what `attention.attend_rows` does; rows at padding are undefined.

  Args:
    q: [B, T, N, H].
    k, v: [B, K, H, T], [B, K, T, H].
    positions: [B, T]; `attention.PADDING` marks padding.
    segment_ids: [B, T], from 0 on; None: one segment.
    window: tokens that a token sees, itself included; None: all before it. The
      kernel skips the blocks outside of it.
    mesh: rows are sharded over data and fsdp, heads over tensor.
    interpret: run the kernel's Python on any device, for tests.

  Returns:
    y [B, T, N, H].
  """
  time, dim = q.shape[1], q.shape[-1]
  segments = 1 if segment_ids is None else segment_ids + 1
  segments = jnp.where(positions < 0, 0, segments).astype(jnp.int32)
  # The kernel has no softmax scale.
  q, k, v = (q * dim**-0.5).swapaxes(1, 2), k.swapaxes(2, 3), v
  # Whole blocks: rows are filled up with padding. [B, heads, T, H]
  block = min(_BLOCK, -(-time // _LANES) * _LANES)
  more = -time % block
  pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))
  q, k, v = pad(q), pad(k), pad(v)
  segments = jnp.pad(segments, ((0, 0), (0, more)))

  def local(q, k, v, segments):
    kernel = _kernel(q.shape[1], time + more, block, window, interpret)
    return kernel(q, k, v, segments)

  y = kernels.on_each_device(local, mesh, heads_at=1)(q, k, v, segments)
  return y[:, :, :time].swapaxes(1, 2)


def _kernel(
    heads: int, time: int, block: int, window: int | None, interpret: bool
) -> Callable[..., jax.Array]:
  """Builds the causal kernel of a batch of rows, with blocks for its backward."""
  # Here, since importing Pallas takes a second that only TPUs have a use for.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  names = (
      'block_q', 'block_kv', 'block_kv_compute', 'block_q_dkv', 'block_kv_dkv',
      'block_kv_dkv_compute', 'block_q_dq', 'block_kv_dq')
  sizes = splash.BlockSizes(
      **dict.fromkeys(names, block),
      # Keys come transposed, see `attend_rows`; the kernel may read them so.
      k_layout=splash.QKVLayout.SEQ_MINOR)
  shape = time, time
  mask = splash.CausalMask(shape) if window is None else splash.LocalMask(
      shape, window_size=(window - 1, 0), offset=0)
  one_row = splash.make_splash_mha(
      splash.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1,
      q_seq_shards=1, interpret=interpret)
  return jax.vmap(lambda q, k, v, segments: one_row(
      q, k, v, splash.SegmentIds(segments, segments)))
