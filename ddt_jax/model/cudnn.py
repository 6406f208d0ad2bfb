"""Attention of rows to themselves by cuDNN, through JAX.

JAX's function knows no segment ids: it would attend across the segments of a packed
row. So rows with segments never come here, see `kernels`.

cuDNN's backward pass may add in another order each time, and last bits differ then.
XLA_FLAGS=--xla_gpu_exclude_nondeterministic_ops=true asks for its repeatable one.
"""

import jax
import jax.numpy as jnp

from ddt_jax.model import kernels


def attend_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    *,
    window: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
  """Computes what `attention.attend_rows` does for rows of one segment.

  Args:
    q: [B, T, N, H], bfloat16 or float16.
    k, v: [B, K, H, T], [B, K, T, H].
    positions: [B, T]; padding is at the end of a row, where no token sees it.
    window: see `attention.visible`.
    mesh: rows are sharded over data and fsdp, heads over tensor.

  Returns:
    y [B, T, N, H]; undefined at padding. NaN in rows that begin with padding, since
    their tokens would see it.
  """
  def local(q, k, v, positions):
    y = jax.nn.dot_product_attention(
        q, k, v, is_causal=True, implementation='cudnn',
        local_window_size=None if window is None else (window - 1, 0))
    padded = (positions[:, 0] < 0) & (positions[:, -1] >= 0)
    return jnp.where(padded[:, None, None, None], jnp.nan, y)

  # [B, T, heads, H]: as the projections wrote them, so XLA copies nothing.
  k, v = k.transpose(0, 3, 1, 2), v.swapaxes(1, 2)
  return kernels.on_each_device(local, mesh)(q, k, v, positions)
