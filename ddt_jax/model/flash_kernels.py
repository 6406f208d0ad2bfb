"""The kernels of `flash`, in Pallas for Triton.

A kernel is called for one block of tokens of one row and query head. It sees that
block of its own arrays, and the whole row of the others. `first` and `last` bound the
blocks of the others that may share a segment with it.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_LOG2_E = math.log2(math.e)  # GPUs have an instruction for 2^x, none for e^x
# A finite floor: -inf - -inf is NaN in rows whose first block is masked as a whole.
_FLOOR = -1e30


class Blocks(NamedTuple):
  """Block sizes of one kernel, and its share of a multiprocessor.

  Attributes:
    queries, keys: tokens of a block, powers of two.
    warps: of one block.
    stages: loads in flight.
  """

  queries: int
  keys: int
  warps: int
  stages: int


# float32 sums; the factors stay in 16 bits, as tensor cores take them.
_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


def _visible(ids, q_start, k_start, blocks, window):
  """[queries, keys]: whether a query of one block sees a key of another."""
  from jax.experimental import pallas as pl

  q_at = q_start + jnp.arange(blocks.queries)
  k_at = k_start + jnp.arange(blocks.keys)
  q_ids, k_ids = ids[pl.ds(q_start, blocks.queries)], ids[pl.ds(k_start, blocks.keys)]
  back = q_at[:, None] - k_at[None]
  return (back >= 0) & (back < window) & (q_ids[:, None] == k_ids[None])


def output(
    blocks: Blocks, window: int, scale: float, q, k, v, ids, first, y, log_sum):
  """Writes y and L / ln 2 of a block of queries, see `flash`."""
  from jax.experimental import pallas as pl

  own = pl.program_id(0)
  queries = q[...]

  def add_block(j, carry):
    total, top, weight = carry
    at = pl.ds(j * blocks.keys, blocks.keys)
    z = _dot(queries, k[at, :].T) * (scale * _LOG2_E)
    seen = _visible(ids, own * blocks.queries, j * blocks.keys, blocks, window)
    z = jnp.where(seen, z, _FLOOR)
    higher = jnp.maximum(top, z.max(1))
    # All sums so far were relative to the old maximum.
    shrink, p = jnp.exp2(top - higher), jnp.exp2(z - higher[:, None])
    total = total * shrink[:, None] + _dot(p.astype(v.dtype), v[at, :])
    return total, higher, weight * shrink + p.sum(1)

  start = (
      jnp.zeros(q.shape, jnp.float32),
      jnp.full(blocks.queries, _FLOOR, jnp.float32),
      jnp.zeros(blocks.queries, jnp.float32))
  end = pl.cdiv((own + 1) * blocks.queries, blocks.keys)  # causal
  total, top, weight = jax.lax.fori_loop(first[own], end, add_block, start)
  y[...] = (total / weight[:, None]).astype(y.dtype)
  log_sum[...] = top + jnp.log2(weight)


def query_gradient(
    blocks: Blocks, window: int, scale: float, q, k, v, dy, ids, first, log_sum,
    delta, dq):
  """Writes dq of a block of queries."""
  from jax.experimental import pallas as pl

  own = pl.program_id(0)
  queries, gradient, log_sum, delta = q[...], dy[...], log_sum[...], delta[...]

  def add_block(j, total):
    at = pl.ds(j * blocks.keys, blocks.keys)
    keys = k[at, :]
    z = _dot(queries, keys.T) * (scale * _LOG2_E)
    seen = _visible(ids, own * blocks.queries, j * blocks.keys, blocks, window)
    p = jnp.where(seen, jnp.exp2(z - log_sum[:, None]), 0.0)
    dz = p * (_dot(gradient, v[at, :].T) - delta[:, None])
    return total + _dot(dz.astype(keys.dtype), keys)

  end = pl.cdiv((own + 1) * blocks.queries, blocks.keys)
  start = jnp.zeros(q.shape, jnp.float32)
  total = jax.lax.fori_loop(first[own], end, add_block, start)
  dq[...] = (total * scale).astype(dq.dtype)


def key_gradients(
    blocks: Blocks, window: int, scale: float, q, k, v, dy, ids, last, log_sum,
    delta, dk, dv):
  """Writes a query head's share of dk and dv of a block of keys, in float32."""
  from jax.experimental import pallas as pl

  own = pl.program_id(0)
  keys, values = k[...], v[...]

  # Scores are transposed, [keys, queries], so that no factor in registers is.
  def add_block(i, carry):
    dk, dv = carry
    at = pl.ds(i * blocks.queries, blocks.queries)
    queries, gradient = q[at, :], dy[at, :]
    z = _dot(keys, queries.T) * (scale * _LOG2_E)
    seen = _visible(ids, i * blocks.queries, own * blocks.keys, blocks, window).T
    p = jnp.where(seen, jnp.exp2(z - log_sum[at][None]), 0.0)
    dv += _dot(p.astype(gradient.dtype), gradient)
    dz = p * (_dot(values, gradient.T) - delta[at][None])
    return dk + _dot(dz.astype(queries.dtype), queries), dv

  begin = own * blocks.keys // blocks.queries  # causal
  start = (jnp.zeros(k.shape, jnp.float32),) * 2
  total, dv[...] = jax.lax.fori_loop(begin, last[own] + 1, add_block, start)
  dk[...] = total * scale
