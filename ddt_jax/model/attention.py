"""Softmax attention of a few queries, or of long rows in blocks."""

from typing import Any

import jax
import jax.numpy as jnp

_BLOCK = 512  # queries of a long row whose scores are held at once, at most
TRAINED, READ = 1024, 384  # tokens of a row that is not long: with a backward, without


def wide(dtype: Any) -> jnp.dtype:
  """In which sums are taken: float32, or float64 where that is asked for."""
  return jnp.promote_types(dtype, jnp.float32)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array
) -> jax.Array:
  """Softmax attention with grouped queries; scores and softmax in float32.

  Args:
    q: [B, T, N, H].
    k, v: [B, K, H, S], [B, K, S, H]; query head n reads kv head n // (N / K).
    mask: [B, T, S], true where a query sees a key. A query that sees none
      (padding) gets a mean of all values, which nobody reads.

  Returns:
    [B, T, N, H].
  """
  batch, time, heads, dim = q.shape
  groups, keys = heads // k.shape[1], k.shape[3]
  q = q.reshape(batch, time, -1, groups, dim).transpose(0, 2, 3, 1, 4)
  # Heads of a group share their keys: one matrix product for all of them.
  q = q.reshape(batch, -1, groups * time, dim) * dim**-0.5
  scores = jnp.matmul(q, k, preferred_element_type=wide(q.dtype))
  scores = scores.reshape(batch, -1, groups, time, keys)
  # A finite floor: a row of -inf would make the softmax and its gradient NaN.
  scores = jnp.where(mask[:, None, None], scores, -1e30)
  p = jax.nn.softmax(scores).astype(v.dtype)
  y = p.reshape(batch, -1, groups * time, keys) @ v
  y = y.reshape(batch, -1, groups, time, dim).transpose(0, 3, 1, 2, 4)
  return y.reshape(batch, time, heads, dim)


def attend_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    whole: int = TRAINED,
) -> jax.Array:
  """`attend` of rows to themselves, which never holds the [T, T] of long ones.

  Their queries come in blocks that leave out the keys after them; the backward
  computes a block's scores again.

  Args:
    q, k, v, mask: see `attend`; S = T, and no query sees a later key.
    whole: rows of up to so many tokens are one block.
  """
  time = q.shape[1]
  if time <= whole:
    return attend(q, k, v, mask)
  size = min(_BLOCK, -(-time // 4))
  block = jax.checkpoint(attend)
  parts = []
  for start in range(0, time, size):
    end = min(start + size, time)
    parts.append(block(
        q[:, start:end], k[..., :end], v[..., :end, :],
        mask[:, start:end, :end],
    ))
  return jnp.concatenate(parts, 1)
