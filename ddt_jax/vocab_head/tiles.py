r"""The supervised tokens in tiles: the gradient is formed in the forward.

A stable sort puts the supervised tokens first, and the loop ends behind the last
of them, so the others cost nothing. With weights that are constants for the
gradient, a tile's logits z give loss and gradient at once:

  L = -sum_t m_t w_t log p_t,    dL / dz_tv = m_t v_t (p_tv - 1[v = x_t])

(v = w where w is a constant). A second pass, which would compute z again as
`stream` does, is not needed: 6 T D V FLOPs instead of 8.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ddt_jax import ddt
from ddt_jax.vocab_head import chunks
from ddt_jax.vocab_head import meshes
from ddt_jax.vocab_head import partial_sums
from ddt_jax.vocab_head import stream
from ddt_jax.vocab_head import tiling

WeightsFn = Callable[[ddt.TokenStats, Any], tuple[jax.Array, jax.Array]]

# Tokens per tile. The gradient of the head is read and written once per tile, so
# small tiles are bound by memory.
TILE = 2048
# Tokens per tile of the remainder when scoring, where no gradient is written:
# about where the time of the products equals that of reading the head.
REMAINDER_TILE = 256


def supervised_stats(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    chunk: int | None = None,
    temperature: float = 1.0,
    tail: bool = False,
    top_k: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> ddt.TokenStats:
  """`token_stats` of the supervised tokens alone, for scoring.

  Tokens with mask <= 0 cost nothing and get 0 in every field. The result has no
  gradient.

  Args:
    hidden: [..., D].
    head: [V, D].
    targets: [...], integer token ids.
    mask: [...], > 0 where the token is supervised.
    chunk, temperature, tail, top_k, mesh: see `token_stats`.

  Returns:
    TokenStats of float32 [...].

  Raises:
    errors.InputError: the temperature is not positive.
  """
  mesh = meshes.multi_device(mesh)
  split = meshes.head_spec(mesh, head)
  options = stream.stats_options(
      head, chunk=chunk, temperature=temperature, tail=tail, top_k=top_k)

  def local(hidden, head, targets, mask):
    rows, ids = chunks.flatten_rows(hidden), targets.reshape(-1)
    m = mask.reshape(-1)
    tiles = tiling.Tiling.of(m, REMAINDER_TILE)

    def stats(tiles, i):
      here = tiles.rows(i)
      return stream.local_stats(
          tiles.take(rows, here), head, tiles.take(ids, here), options, split
      )[0]

    def loop(tiles, first, last, out):
      return jax.lax.fori_loop(
          first, last, lambda i, o: tiles.put(o, stats(tiles, i), i), out)

    out = jax.tree.map(
        lambda x: tiles.empty(x.dtype, *x.shape[1:]),
        jax.eval_shape(functools.partial(stats, tiles), 0))
    done = 0
    # Whole tiles first, then the remainder in small ones. One tile gets no loop of
    # its own: XLA hoists a single iteration and runs it even when it is empty.
    if len(ids) > TILE:
      whole = jnp.sum(m > 0) // TILE
      out = loop(tiling.Tiling.of(m, TILE), 0, whole, out)
      done = whole * (TILE // REMAINDER_TILE)
    out = loop(tiles, done, tiles.count, out)
    return jax.tree.map(lambda x: tiles.restore(x, mask), out)

  rows = meshes.ROWS
  return meshes.shard_map_rows(mesh, local, (rows, split, rows, rows), rows)(
      hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), targets, mask)


def weighted_nll(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    weights_fn: WeightsFn,
    extras: Any = None,
    *,
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array, ddt.TokenStats]:
  r"""Weighted negative log-likelihood, its gradient formed in the forward.

  .. math:: L = -\sum_t m_t w_t \log p_t, \qquad
            \partial L / \partial z_t = m_t v_t (p_t - \mathrm{onehot}(x_t))

  for a loss weight w and a gradient weight v, functions of the token's own
  statistics. Neither is differentiated. Tokens with m = 0 cost nothing.

  Args:
    hidden: [..., D].
    head: [V, D].
    targets: [...], integer token ids.
    mask: [...], float32, 1 (or a float weight) where the token is supervised.
    weights_fn: (TokenStats, extras) -> (w, v), each shaped like log_p. The
      statistics hold log_p and entropy. An attribute `needs` of the function, a
      dict, asks for more: collision=True, varentropy=True, or top_k=k for
      top_log_p.
    extras: pytree of all traced values that weights_fn needs; a closure over one
      breaks under `jax.checkpoint`. Leaves that begin with the shape of `targets`
      are cut into tiles with the tokens.
    chunk: tokens per tile; [chunk, V] logits are held. Default: at most 2048.
    mesh: None for one device. Otherwise the first axis of `hidden` is sharded
      over `data` and `fsdp`; the head must not be split over `tensor`.

  Returns:
    (L, sum of the mask, the TokenStats that weights_fn got, 0 where m = 0). Only
    L has a gradient.

  Raises:
    ValueError: the head is split over `tensor`. Every tile would need a sum over
      devices; `token_stats` needs one in all.

  Example:
    >>> hidden, head = jnp.ones([3, 2]), jnp.zeros([4, 2])  # uniform over 4
    >>> sft = lambda stats, extras: (jnp.ones_like(stats.log_p),) * 2
    >>> total, count, _ = weighted_nll(
    ...     hidden, head, jnp.arange(3), jnp.array([1.0, 1.0, 0.0]), sft)
    >>> float(total / count)  # ln 4
    1.38629...
  """
  if meshes.is_split(mesh, head):
    raise ValueError(
        'weighted_nll needs a head that is not split over `tensor`; use'
        ' token_stats')
  options = TileOptions(weights_fn, chunk, meshes.multi_device(mesh))
  total, stats = _tiled(options, hidden, head, targets, mask, extras)
  return total, jnp.sum(mask), jax.lax.stop_gradient(stats)


class Needs(NamedTuple):
  """Statistics that a weights_fn reads beyond log_p and entropy."""

  collision: bool = False
  varentropy: bool = False
  top_k: int = 0

  @classmethod
  def of(cls, weights_fn: WeightsFn, head: jax.Array) -> 'Needs':
    """What `weights_fn.needs` asks for; top_k is at most V."""
    needs = cls(**getattr(weights_fn, 'needs', {}))
    return needs._replace(top_k=min(needs.top_k, len(head)))

  def select(self, stats: ddt.TokenStats) -> ddt.TokenStats:
    """log_p, entropy and these, and no other field."""
    return ddt.TokenStats(
        stats.log_p, stats.entropy, vocab_size=stats.vocab_size,
        collision=stats.collision if self.collision else None,
        varentropy=stats.varentropy if self.varentropy else None,
        top_log_p=stats.top_log_p if self.top_k else None)


class TileOptions(NamedTuple):
  """Static options of `weighted_nll`."""

  weights_fn: WeightsFn
  chunk: int | None
  mesh: jax.sharding.Mesh | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tiled(options, hidden, head, targets, mask, extras):
  # Called only where no gradient is taken: one product, as in scoring.
  needs = Needs.of(options.weights_fn, head)
  stats = needs.select(supervised_stats(
      hidden, head, targets, mask, top_k=needs.top_k, mesh=options.mesh))
  weight, _ = options.weights_fn(stats, extras)
  return -jnp.sum(jnp.where(mask > 0, mask * weight * stats.log_p, 0.0)), stats


def _forward(options, hidden, head, targets, mask, extras):
  # Runs where a gradient is taken: saves dh and dw, not what they come from.
  weights_fn, chunk, mesh = options
  grad_spec = meshes.head_grad_spec(mesh, head)
  leaves, tree = jax.tree.flatten(extras)
  per_token = [
      jnp.shape(x)[:targets.ndim] == targets.shape and targets.ndim > 0
      for x in leaves
  ]

  def local(hidden, head, targets, mask, leaves):
    rows, ids = chunks.flatten_rows(hidden), targets.reshape(-1)
    m = mask.reshape(-1)
    tiles = tiling.Tiling.of(m, chunk or TILE)
    leaves = [
        x.reshape(-1, *x.shape[targets.ndim:]) if cut else x
        for x, cut in zip(leaves, per_token, strict=True)
    ]

    def tile(i, dw):
      here = tiles.rows(i)
      h, y, weight = (tiles.take(x, here) for x in (rows, ids, m))
      taken = jax.tree.unflatten(tree, [
          tiles.take(x, here) if cut else x
          for x, cut in zip(leaves, per_token, strict=True)
      ])
      return _tile(
          h, head, y, weight, lambda stats: weights_fn(stats, taken), dw,
          Needs.of(weights_fn, head))

    def step(i, carry):
      loss, dw, out = carry
      more, dw, of_rows = tile(i, dw)
      return loss + more, dw, tiles.put(out, of_rows, i)

    # One tile needs no zeros of [V, D] to add to, and no loop.
    if tiles.most == 1:
      loss, dw, out = tile(0, None)
    else:
      _, dw, of_rows = jax.eval_shape(tile, 0, None)
      zeros = jax.tree.map(
          lambda x: tiles.empty(x.dtype, *x.shape[1:]), of_rows)
      loss, dw, out = jax.lax.fori_loop(
          0, tiles.count, step,
          (jnp.float32(0), jnp.zeros(dw.shape, dw.dtype), zeros))
    stats, dh = jax.tree.map(lambda x: tiles.restore(x, mask), out)
    # Devices differ in their number of tiles: a collective in the loop would hang.
    if mesh is not None:
      loss = jax.lax.psum(loss, meshes.ROWS[0])
    return loss, stats, dh, meshes.reduce_head_grad(mesh, dw, grad_spec)

  rows = meshes.ROWS
  leaf_specs = [rows if cut else P() for cut in per_token]
  loss, stats, dh, dw = meshes.shard_map_rows(
      mesh, local, (rows, P(), rows, rows, leaf_specs),
      (P(), rows, rows, grad_spec),
  )(hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), targets, mask,
    leaves)
  return (loss, stats), (dh, dw.astype(head.dtype))


def _tile(h, head, y, mask, weights, dw, needs):
  """Loss, head gradient, statistics and hidden gradient of one tile.

  Two passes over the vocabulary in chunks, so that each product's output is still
  in cache for the elementwise work. The tile's logits are held in between.

  Args:
    h, y, mask: [T, D], [T], [T].
    head: [V, D].
    weights: TokenStats -> (w, v).
    dw: [V, D], the sum so far, to which this tile adds; None for the first.
    needs: of `weights`.

  Returns:
    (loss, dw, (TokenStats, dh)).
  """
  size = chunks.chunk_size(None, h, head)

  def forward(carry, start, size):
    z, sums, top = carry
    new = chunks.logits(h, chunks.slice_rows(head, start, size))
    z = jax.lax.dynamic_update_slice_in_dim(z, new, start, 1)
    if needs.top_k:
      top = top.merge(partial_sums.TopK.of_logits(new, needs.top_k, start))
    return z, sums.merge(partial_sums.Sums.of_logits(new, y - start)), top

  # Uninitialised: every column is written before it is read.
  z = jax.lax.empty((len(y), len(head)), jnp.float32)
  top = partial_sums.TopK.empty(len(y), needs.top_k) if needs.top_k else None
  z, sums, top = chunks.fold(
      forward, (z, partial_sums.Sums.empty(len(y)), top), head, size)
  stats = needs.select(sums.stats.replace(
      vocab_size=len(head), top_log_p=top and top.log_p(sums)))
  w, v = weights(stats)  # each [T]
  loss = -jnp.sum(jnp.where(mask > 0, mask * w * stats.log_p, 0.0))
  # where, not a product: 0 times a weight that is not finite is NaN.
  v = jnp.where(mask > 0, mask * v, 0.0)[:, None]
  log_normaliser = sums.log_normaliser[:, None]

  def dz(start, size):
    realised = jnp.arange(size) == (y - start)[:, None]
    p = jnp.exp(
        jax.lax.dynamic_slice_in_dim(z, start, size, 1) - log_normaliser)
    return v * (p - realised)

  dh, dw = chunks.gradients(dz, h, head, size, dw)
  return loss, dw, (stats, dh.astype(h.dtype))


def _backward(options, saved, g):
  del options
  dh, dw = saved
  g, _ = g  # of the loss; the statistics are constants
  # L is a scalar, so its cotangent g scales gradients that exist already.
  return (g * dh).astype(dh.dtype), (g * dw).astype(dw.dtype), None, None, None


_tiled.defvjp(_forward, _backward)
