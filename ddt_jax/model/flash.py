r"""Attention of rows to themselves by a kernel for GPUs (Pallas, Triton).

It keeps scores on the chip as flash attention does (arXiv:2307.08691):

.. math:: y_t = \sum_s p_{ts} v_s, \quad p_{ts} = e^{z_{ts} - L_t}, \quad
          L_t = \ln \sum_s e^{z_{ts}}

and its backward recomputes p from the kept L. A packed row is mostly pairs of tokens
from different segments. So each block of queries starts at the first block of keys
that may share a segment with it, and the time grows with the segments' lengths, not
with the row's.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddt_jax.model import flash_kernels
from ddt_jax.model import kernels
from ddt_jax.model.flash_kernels import Blocks

_PADDING = jnp.iinfo(jnp.int32).max  # id of padding, its own segment


class Tiles(NamedTuple):
  """Blocks of the kernels for y, for dq, and for dk with dv."""

  y: Blocks = Blocks(128, 64, 4, 3)
  dq: Blocks = Blocks(64, 64, 4, 3)
  dkv: Blocks = Blocks(64, 64, 4, 3)

  @property
  def multiple(self) -> int:
    """Tokens that the length of a row must be a multiple of."""
    return math.lcm(*(n for blocks in self for n in blocks[:2]))


def attend_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array | None = None,
    *,
    window: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    tiles: Tiles = Tiles(),
    interpret: bool = False,
) -> jax.Array:
  """Computes what `attention.attend_rows` does; rows at padding are undefined.

  Args:
    q: [B, T, N, H]; H is a power of two, from 16 on.
    k, v: [B, K, H, T], [B, K, T, H].
    positions: [B, T]; `attention.PADDING` marks padding.
    segment_ids: [B, T], each below the largest int32; None: one segment.
    window: tokens that a token sees, itself included; None: all before it.
    mesh: rows are sharded over data and fsdp, heads over tensor.
    tiles: sizes of the kernels' blocks.
    interpret: run the kernels' Python on any device, for tests.

  Returns:
    y [B, T, N, H].
  """
  time = q.shape[1]
  ids = jnp.where(
      positions < 0, _PADDING, 1 if segment_ids is None else segment_ids)
  # [B, T, heads, H]: as the projections wrote them, so XLA copies nothing.
  k, v = k.transpose(0, 3, 1, 2), v.swapaxes(1, 2)
  # Whole blocks: rows are filled up with padding.
  more = -time % tiles.multiple
  pad = lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0)))
  ids = jnp.pad(
      ids.astype(jnp.int32), ((0, 0), (0, more)), constant_values=_PADDING)
  # No token sees further back than the row is long.
  local = functools.partial(
      _attend, tiles, window or q.shape[1] + more, interpret)
  y = kernels.on_each_device(local, mesh)(pad(q), pad(k), pad(v), ids)
  return y[:, :time]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(tiles, window, interpret, q, k, v, ids):
  return _forward(tiles, window, interpret, q, k, v, ids)[0]


def _forward(tiles, window, interpret, q, k, v, ids):
  """y [B, T, N, H], and what the backward needs."""
  batch, time, heads, _ = q.shape
  first, _ = block_ranges(ids, tiles.y, window)
  log_sum = jax.ShapeDtypeStruct((batch, heads, time), jnp.float32)
  y, log_sum = _call(
      flash_kernels.output, 'queries', tiles.y, window, interpret, (q, k, v), ids,
      first, outputs=(q, log_sum))
  return y, (q, k, v, ids, y, log_sum)


def _backward(tiles, window, interpret, kept, dy):
  q, k, v, ids, y, log_sum = kept
  batch, time, _, dim = q.shape
  # Softmax: dz = p (dp - delta), where delta_t = sum_s p_ts dp_ts = y_t dy_t.
  delta = jnp.einsum(
      'btnh,btnh->bnt', y, dy, preferred_element_type=jnp.float32)
  rows = (log_sum, delta)
  first, _ = block_ranges(ids, tiles.dq, window)
  dq, = _call(
      flash_kernels.query_gradient, 'queries', tiles.dq, window, interpret,
      (q, k, v, dy), ids, first, rows, outputs=(q,))
  _, last = block_ranges(ids, tiles.dkv, window)
  # One result a query head: heads that share keys would have to wait for each
  # other to add up in place. float32, since the sum over them comes after.
  wide = jax.ShapeDtypeStruct(q.shape, jnp.float32)
  dk, dv = _call(
      flash_kernels.key_gradients, 'keys', tiles.dkv, window, interpret,
      (q, k, v, dy), ids, last, rows, outputs=(wide, wide))
  grouped = (batch, time, k.shape[2], -1, dim)
  dk, dv = (
      jnp.sum(d.reshape(grouped), 3).astype(x.dtype)
      for d, x in ((dk, k), (dv, v)))
  return dq, dk, dv, None


_attend.defvjp(_forward, _backward)


def block_ranges(
    ids: jax.Array, blocks: Blocks, window: int
) -> tuple[jax.Array, jax.Array]:
  """Ranges of blocks beyond which no token sees another.

  Args:
    ids: [B, T], segments.
    blocks: sizes.
    window: tokens that a token sees.

  Returns:
    first: [B, query blocks], the first block of keys for each block of queries.
    last: [B, key blocks], the last block of queries for each block of keys.
  """
  def bounds(size):
    x = ids.reshape(len(ids), -1, size)
    return x.min(-1), x.max(-1)

  (q_low, q_high), (k_low, k_high) = bounds(blocks.queries), bounds(blocks.keys)
  # True also for some blocks that share no segment: right for any order of ids.
  meet = (q_low[:, :, None] <= k_high[:, None]) & (
      k_low[:, None] <= q_high[:, :, None])
  first_query = jnp.arange(q_low.shape[1]) * blocks.queries
  last_key = (jnp.arange(k_low.shape[1]) + 1) * blocks.keys - 1
  meet &= last_key > first_query[:, None] - window
  last = meet.shape[1] - 1 - jnp.argmax(meet[:, ::-1], 1)
  return jnp.argmax(meet, 2).astype(jnp.int32), last.astype(jnp.int32)


def _call(
    kernel: Callable[..., None], own: str, blocks: Blocks, window: int,
    interpret: bool, arrays, ids, border, rows=(), *, outputs,
):
  """Calls a kernel for every block of tokens, row of the batch and query head.

  Args:
    kernel: gets `arrays`, ids, border, `rows`, then the outputs.
    own: queries | keys; a call has a block of these, and sees the others whole.
    blocks, window, interpret: see `Tiles` and `attend_rows`.
    arrays: q, k, v and perhaps dy, each [B, T, heads, H].
    ids: [B, T].
    border: [B, blocks], one of `block_ranges`.
    rows: [B, N, T] each, of the queries.
    outputs: their shapes, [B, T, N, H] or [B, N, T]; a call writes its own block.
  """
  # Here, since importing Pallas takes a second that only GPUs have a use for.
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  q, k = arrays[:2]
  batch, time, heads, _ = q.shape
  size = getattr(blocks, own)

  def spec(x, *, mine):
    length, at = (size, lambda i: i) if mine else (time, lambda i: 0)
    if len(x.shape) == 3:
      return pl.BlockSpec((None, None, length), lambda i, b, n: (b, n, at(i)))
    # Keys are read where they stand, by all query heads of their group.
    shared = heads // x.shape[2]
    return pl.BlockSpec(
        (None, length, None, x.shape[3]),
        lambda i, b, n: (b, at(i), n // shared, 0))

  in_specs = [
      spec(x, mine=(x is k or x is arrays[2]) == (own == 'keys')) for x in arrays]
  in_specs += [
      pl.BlockSpec((None, x.shape[1]), lambda i, b, n: (b, 0))
      for x in (ids, border)]
  in_specs += [spec(x, mine=own == 'queries') for x in rows]
  return pl.pallas_call(
      functools.partial(kernel, blocks, window, q.shape[3]**-0.5),
      grid=(time // size, batch, heads),
      in_specs=in_specs,
      out_specs=[spec(x, mine=True) for x in outputs],
      out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
      compiler_params=triton.CompilerParams(
          num_warps=blocks.warps, num_stages=blocks.stages),
      interpret=interpret,
  )(*arrays, ids, border, *rows)
