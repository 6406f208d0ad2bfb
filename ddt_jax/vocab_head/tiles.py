"""Through the tokens in tiles: supervised ones alone, the gradient formed at once."""

from collections.abc import Callable
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ddt_jax import ddt
from ddt_jax.vocab_head import parts
from ddt_jax.vocab_head import stream

WeightsFn = Callable[[ddt.TokenStats, Any], tuple[jax.Array, jax.Array]]

TILE = 2048  # tokens; the gradient of the head is read and written once a tile
# Of what is left beyond whole tiles, where there is no gradient to write: about as
# many as it takes for the products to last as long as reading the head.
REST = 256


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
  """`token_stats` where mask > 0, at the cost of these tokens alone; else 0.

  For scoring: it cannot be differentiated.
  """
  mesh = parts.several(mesh)
  split = parts.split(mesh, head)
  how = stream.How(temperature, tail, min(top_k, len(head)), chunk)

  def local(hidden, head, targets, mask):
    rows, ids, m = parts.flat(hidden), targets.reshape(-1), mask.reshape(-1)
    tiles = _Tiles.of(m, REST)

    def stats(tiles, i):
      here = tiles.rows(i)
      return stream.local_stats(
          tiles.take(rows, here), head, tiles.take(ids, here), how, split)[0]

    def loop(tiles, first, last, out):
      return jax.lax.fori_loop(
          first, last, lambda i, o: tiles.put(o, stats(tiles, i), i), out)

    found = jax.tree.map(
        lambda x: tiles.empty(x.dtype, *x.shape[1:]),
        jax.eval_shape(functools.partial(stats, tiles), 0))
    done = 0
    # Not for one tile: XLA would take it out of the loop, to be done in any case.
    if len(ids) > TILE:
      whole = jnp.sum(m > 0) // TILE
      found = loop(_Tiles.of(m, TILE), 0, whole, found)
      done = whole * (TILE // REST)
    found = loop(tiles, done, tiles.count, found)
    return jax.tree.map(lambda x: tiles.back(x, mask), found)

  return parts.on(
      mesh, local, (parts.ROWS, split, parts.ROWS, parts.ROWS), parts.ROWS
  )(hidden, parts.gathered(mesh, head, hidden.dtype), targets, mask)


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

  for a loss weight w and a gradient weight v, both functions of the token's own
  statistics that are not differentiated. Tokens with m = 0 cost nothing.

  Args:
    hidden: [..., D].
    head: [V, D].
    targets: [...], integer token ids.
    mask: [...], float32.
    weights_fn: (TokenStats, extras) -> (w, v), each like the statistics, of which
      log_p and entropy are given.
    extras: what is traced and weights_fn needs; leaves that begin with the shape
      of `targets` are cut with the tokens.
    chunk: tokens in a tile, held at a time as [chunk, V]; default up to 2048.
    mesh: where the first axis of `hidden` is spread over `data` and `fsdp`; the
      head must not be split over `tensor`.

  Returns:
    (L, sum of the mask, TokenStats of log_p and entropy, 0 where m = 0). Only
    L has a gradient.

  Raises:
    ValueError: the head is split: a tile would be summed up over the devices at
      every turn, which `token_stats` does once.
  """
  if parts.is_split(mesh, head):
    raise ValueError(
        'weighted_nll takes a head that is whole; token_stats one that is split')
  how = weights_fn, chunk, parts.several(mesh)
  total, stats = _tiled(how, hidden, head, targets, mask, extras)
  return total, jnp.sum(mask), jax.lax.stop_gradient(stats)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tiled(how, hidden, head, targets, mask, extras):
  weights_fn, _, mesh = how
  stats = supervised_stats(hidden, head, targets, mask, mesh=mesh)
  stats = ddt.TokenStats(stats.log_p, stats.entropy)
  weight, _ = weights_fn(stats, extras)
  return -jnp.sum(jnp.where(mask > 0, mask * weight * stats.log_p, 0.0)), stats


def _forward(how, hidden, head, targets, mask, extras):
  weights_fn, chunk, mesh = how
  lies = parts.table(mesh, head)
  leaves, tree = jax.tree.flatten(extras)
  per_token = [
      jnp.shape(x)[:targets.ndim] == targets.shape and targets.ndim > 0
      for x in leaves
  ]

  def local(hidden, head, targets, mask, leaves):
    rows, ids, m = parts.flat(hidden), targets.reshape(-1), mask.reshape(-1)
    tiles = _Tiles.of(m, chunk or TILE)
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
          h, head, y, weight, lambda stats: weights_fn(stats, taken), dw)

    def step(i, carry):
      loss, dw, out = carry
      more, dw, of_rows = tile(i, dw)
      return loss + more, dw, tiles.put(out, of_rows, i)

    if tiles.most == 1:
      loss, dw, out = tile(0, None)
    else:
      _, dw, of_rows = jax.eval_shape(tile, 0, None)
      zeros = jax.tree.map(
          lambda x: tiles.empty(x.dtype, *x.shape[1:]), of_rows)
      loss, dw, out = jax.lax.fori_loop(
          0, tiles.count, step,
          (jnp.float32(0), jnp.zeros(dw.shape, dw.dtype), zeros))
    stats, dh = jax.tree.map(lambda x: tiles.back(x, mask), out)
    if mesh is not None:
      loss = jax.lax.psum(loss, parts.ROWS[0])
    return loss, stats, dh, parts.summed(mesh, dw, lies)

  of_leaves = [parts.ROWS if cut else P() for cut in per_token]
  loss, stats, dh, dw = parts.on(
      mesh, local, (parts.ROWS, P(), parts.ROWS, parts.ROWS, of_leaves),
      (P(), parts.ROWS, parts.ROWS, lies),
  )(hidden, parts.gathered(mesh, head, hidden.dtype), targets, mask, leaves)
  return (loss, stats), (dh, dw.astype(head.dtype))


def _tile(h, head, y, mask, weights, dw):
  """One tile: (loss, dW, (statistics, dh)).

  Goes over the vocabulary twice, a part at a time: what one product leaves, the
  next operation finds in the cache. The logits of the tile are held in between.

  Args:
    h, y, mask: [T, D], [T], [T].
    head: [V, D].
    weights: TokenStats -> (w, v).
    dw: what is added to, [V, D]; None for nothing.
  """
  size = parts.chunk_size(None, h, head)

  def forward(carry, start, size):
    z, sums = carry
    new = parts.logits(h, parts.part(head, start, size))
    z = jax.lax.dynamic_update_slice_in_dim(z, new, start, 1)
    return z, sums.plus(parts.Sums.of(new, y - start))

  z = jax.lax.empty((len(y), len(head)), jnp.float32)
  z, sums = parts.over_chunks(
      forward, (z, parts.Sums.of_nothing(len(y))), head, size)
  stats = ddt.TokenStats(sums.stats.log_p, sums.stats.entropy)
  w, v = weights(stats)
  loss = -jnp.sum(jnp.where(mask > 0, mask * w * stats.log_p, 0.0))
  v, lse = jnp.where(mask > 0, mask * v, 0.0)[:, None], sums.lse[:, None]

  def backward(carry, start, size):
    dh, out = carry
    realised = jnp.arange(size) == (y - start)[:, None]
    p = jnp.exp(jax.lax.dynamic_slice_in_dim(z, start, size, 1) - lse)
    # In the operands' type, or the products would be taken in float32.
    dz = (v * (p - realised)).astype(h.dtype)
    dh += parts.product(
        'tv,vd->td', dz, parts.part(head, start, size).astype(h.dtype))
    new = parts.product('tv,td->vd', dz, h)
    if dw is not None:
      new += parts.part(out, start, size)
    return dh, jax.lax.dynamic_update_slice_in_dim(out, new, start, 0)

  out = jax.lax.empty(head.shape, jnp.float32) if dw is None else dw
  dh, dw = parts.over_chunks(
      backward, (jnp.zeros(h.shape, jnp.float32), out), head, size)
  return loss, dw, (stats, dh.astype(h.dtype))


def _backward(how, saved, g):
  del how
  dh, dw = saved
  g, _ = g  # of the loss; the statistics are constants
  return (g * dh).astype(dh.dtype), (g * dw).astype(dw.dtype), None, None, None


_tiled.defvjp(_forward, _backward)


@struct.dataclass
class _Tiles:
  """Supervised tokens first, cut into tiles; the others are never reached."""

  order: jax.Array  # of the rows; filled up with one that does not exist
  inverse: jax.Array  # place in `order` of each row
  count: jax.Array  # tiles with a supervised token
  size: int = struct.field(pytree_node=False)

  @classmethod
  def of(cls, mask: jax.Array, size: int) -> '_Tiles':
    n = len(mask)
    size = min(size, n)
    order = jnp.argsort(mask <= 0, stable=True)
    return cls(
        jnp.pad(order, (0, -n % size), constant_values=n), jnp.argsort(order),
        -(-jnp.sum(mask > 0) // size), size,
    )

  @property
  def most(self) -> int:
    return len(self.order) // self.size

  def rows(self, i) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(self.order, i * self.size, self.size)

  def take(self, x, here):
    return jnp.asarray(x).at[here].get(mode='fill', fill_value=0)

  def empty(self, dtype, *shape) -> jax.Array:
    return jnp.zeros((len(self.order), *shape), dtype)

  def put(self, out, x, i):
    """Tile i's rows into an array in the tiles' order."""
    return jax.tree.map(
        lambda o, x: jax.lax.dynamic_update_slice_in_dim(o, x, i * self.size, 0),
        out, x,
    )

  def back(self, out, mask) -> jax.Array:
    """From the tiles' order to the rows' own; 0 where nothing is supervised."""
    out = out[self.inverse].reshape(*mask.shape, *out.shape[1:])
    there = mask.reshape(*mask.shape, *[1] * (out.ndim - mask.ndim)) > 0
    return jnp.where(there, out, 0)
