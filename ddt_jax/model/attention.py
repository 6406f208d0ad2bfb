"""Softmax attention of a few queries, or of long rows in blocks.

Which keys a query sees follows from positions and segments. They come down to
this module, and only here do they become a mask: a kernel that works in blocks
(splash attention, cuDNN) takes the same arguments and needs no [T, S] mask.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax.model import cudnn
from ddt_jax.model import flash
from ddt_jax.model import kernels
from ddt_jax.model import splash

PADDING = -1  # position of padding and of unwritten cache columns
_BLOCK = 512  # queries of a long row whose scores are held at once, at most
# Longest rows, in tokens, that are one block. With a backward, short rows are
# cheaper without recomputation; a prefill has no backward to save for.
TRAINED, PREFILLED = 1024, 384


def wide(dtype: Any) -> jnp.dtype:
  """Returns the dtype of sums: float32, or float64 for float64 inputs."""
  return jnp.promote_types(dtype, jnp.float32)


def visible(
    positions: jax.Array,
    key_positions: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None = None,
    window: int | None = None,
) -> jax.Array:
  """Mask of causal attention within segments, padding left out.

  Args:
    positions: [B, T], of the queries.
    key_positions: [B, S]; keys at PADDING are seen by no query.
    segments: ids of the queries [B, T] and of the keys [B, S]; None: one
      segment.
    window: positions that a query sees, its own included; None: all before it.

  Returns:
    bool [B, T, S], true where a query sees a key.

  Example:
    >>> visible(jnp.array([[0, 1]]), jnp.array([[0, 1, -1]])).astype(int)
    Array([[[1, 0, 0],
            [1, 1, 0]]], dtype=int32)
  """
  keys = key_positions[:, None]  # [B, 1, S]
  # `keys >= 0` drops padding and the cache columns that nothing has written.
  mask = (keys >= 0) & (keys <= positions[..., None])
  if window is not None:
    mask &= keys > positions[..., None] - window
  if segments is not None:
    of_queries, of_keys = segments
    mask &= of_keys[:, None] == of_queries[..., None]
  return mask


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    key_positions: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None = None,
    window: int | None = None,
) -> jax.Array:
  r"""Softmax attention with grouped queries; scores and softmax in float32.

  .. math:: y_t = \sum_s \mathrm{softmax}_s(q_t k_s / \sqrt{H}) \, v_s

  over the keys s that t sees. A query that sees no key (padding) gets the mean
  of all values, which no later computation uses.

  Args:
    q: [B, T, N, H].
    k, v: [B, K, H, S], [B, K, S, H]; query head n reads kv head n // (N / K).
    positions, key_positions, segments, window: see `visible`.

  Returns:
    y [B, T, N, H].
  """
  batch, time, heads, dim = q.shape
  groups, keys = heads // k.shape[1], k.shape[3]
  # [B, T, N, H] -> [B, K, N / K, T, H]
  q = q.reshape(batch, time, -1, groups, dim).transpose(0, 2, 3, 1, 4)
  # Heads of a group share their keys: one matrix product for all of them.
  # The queries are scaled, not the scores: they are the smaller array.
  q = q.reshape(batch, -1, groups * time, dim) * dim**-0.5
  # float32 scores: bfloat16 would round them before the softmax sees them.
  scores = jnp.matmul(q, k, preferred_element_type=wide(q.dtype))
  scores = scores.reshape(batch, -1, groups, time, keys)  # [B, K, N / K, T, S]
  # A finite floor: a row of -inf would make the softmax and its gradient NaN.
  mask = visible(positions, key_positions, segments, window)
  scores = jnp.where(mask[:, None, None], scores, -1e30)
  p = jax.nn.softmax(scores).astype(v.dtype)
  y = p.reshape(batch, -1, groups * time, keys) @ v
  # [B, K, N / K, T, H] -> [B, T, K, N / K, H]
  y = y.reshape(batch, -1, groups, time, dim).transpose(0, 3, 1, 2, 4)
  return y.reshape(batch, time, heads, dim)


def attend_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array | None = None,
    *,
    window: int | None = None,
    whole: int = TRAINED,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
  """`attend` of rows to themselves that never holds [T, T] for long rows.

  `kernels.choose` names the program. Without a kernel the queries of a long row come
  in blocks. A block leaves out the keys after it and those before its window, and
  its backward recomputes its scores and its mask.

  Args:
    q, k, v: see `attend`; S = T.
    positions: [B, T], rising along each segment by one a token, so that no query
      sees a later key. With a mesh, padding is at the end of a row.
    segment_ids: [B, T]; None: one segment.
    window: see `visible`; None: all keys before a query.
    whole: rows of at most this many tokens are one block.
    mesh: rows are sharded over data and fsdp, heads over tensor; None: unknown.

  Returns:
    y [B, T, N, H]; undefined at padding.
  """
  choice = kernels.choose(
      mesh, dtype=q.dtype, time=q.shape[1], head_dim=q.shape[3],
      kv_heads=k.shape[1], segmented=segment_ids is not None)
  shared = dict(window=window, mesh=mesh)
  if choice.name == 'splash':
    return splash.attend_rows(q, k, v, positions, segment_ids, **shared)
  if choice.name == 'triton':
    return flash.attend_rows(q, k, v, positions, segment_ids, **shared)
  if choice.name == 'cudnn':
    return cudnn.attend_rows(q, k, v, positions, **shared)

  def segments(queries, keys):
    if segment_ids is None:
      return None
    return segment_ids[:, queries], segment_ids[:, keys]

  time = q.shape[1]
  if time <= whole:
    every = slice(None)
    return attend(q, k, v, positions, positions, segments(every, every), window)
  # Four blocks or more: they compute at most 5/8 of the scores.
  size = min(_BLOCK, -(-time // 4))
  # Without it the backward would keep the scores of all blocks: [T, T] again.
  block = jax.checkpoint(functools.partial(attend, window=window))
  parts = []
  # A Python loop: the number of keys grows by block, and shapes are static.
  for start in range(0, time, size):
    first = 0 if window is None else max(0, start + 1 - window)
    queries, keys = slice(start, start + size), slice(first, start + size)
    parts.append(block(
        q[:, queries], k[..., keys], v[..., keys, :], positions[:, queries],
        positions[:, keys], segments(queries, keys),
    ))
  return jnp.concatenate(parts, 1)
