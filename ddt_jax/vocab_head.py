r"""The vocabulary head without its logits: hidden states -> token statistics.

IDFT wants the entropy of the whole vocabulary at every token. Neither way to it
holds an array of tokens x vocabulary:

  token_stats   goes through the vocabulary in chunks. Its backward computes the
                logits again: 8 T D V FLOPs for T tokens, memory of one chunk.
                For any function of the statistics, and for a head that is split
                over devices.
  weighted_nll  goes through the tokens in tiles and leaves out those that are
                not supervised. The gradient is formed in the forward: 6 T D V
                FLOPs, the least there can be, and memory of one tile. For weights
                that the gradient takes as constants, as in training.

The gradient of -log p(x) by the hidden state h is g = W^T (p - onehot(x)), and
phi = log p(x) + H = z_x - E_p[z] = -<h, g> for logits z = W h: the entropy comes
out of a product that SFT needs as well, so that IDFT costs what SFT costs.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ddt_jax import ddt
from ddt_jax import sharding

WeightsFn = Callable[[ddt.TokenStats, Any], tuple[jax.Array, jax.Array]]

# On a mesh: rows over data and fsdp, the vocabulary over tensor.
_ROWS = P(('data', 'fsdp'))
_CHUNK_LOGITS = 2**25  # held at a time by token_stats: 128 MiB
_TILE = 2048  # tokens; the gradient of the head is read and written once a tile
_NOTHING = -1e10  # the largest logit among none


# Through the vocabulary --------------------------------------------------------


def token_stats(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    *,
    chunk: int | None = None,
    temperature: float = 1.0,
    mesh: jax.sharding.Mesh | None = None,
) -> ddt.TokenStats:
  r"""`ddt.token_stats` of the logits `hidden head^T`, which are never held.

  Every statistic has its exact gradient, elementwise in the logits as they are
  computed again. Products take the dtype of `hidden`; sums are float32.

  Args:
    hidden: [..., D].
    head: [V, D].
    targets: [...], integer token ids.
    chunk: of the vocabulary, held at a time as [tokens, chunk]; default 4096,
      less where there are more than 8192 tokens on a device.
    temperature: > 0; the distribution is softmax(logits / temperature).
    mesh: where the first axis of `hidden` is spread over `data` and `fsdp` and
      the head over `tensor`: each device goes through its part of the vocabulary,
      and one sum over `tensor` puts them together.

  Returns:
    TokenStats of float32 [...].
  """
  if not temperature > 0:
    raise ValueError(f'temperature must be positive, not {temperature}')
  return _stats((chunk, temperature, _several(mesh)), hidden, head, targets)


def supervised_stats(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> ddt.TokenStats:
  """`token_stats` where mask > 0, at the cost of these tokens alone; else 0.

  For scoring: it cannot be differentiated.
  """
  mesh = _several(mesh)
  split = _split(mesh, head)

  def local(hidden, head, targets, mask):
    rows, ids = _flat(hidden), targets.reshape(-1)
    tiles = _Tiles.of(mask.reshape(-1), _TILE)

    def step(i, out):
      here = tiles.rows(i)
      stats, _ = _local_stats(
          tiles.take(rows, here), head, tiles.take(ids, here), chunk, 1.0, split)
      return tiles.put(out, stats, i)

    zeros = ddt.TokenStats(*[tiles.empty(jnp.float32)] * 4)
    found = jax.lax.fori_loop(0, tiles.count, step, zeros)
    return jax.tree.map(
        lambda x: jnp.where(mask > 0, tiles.back(x).reshape(mask.shape), 0.0),
        found,
    )

  return _on(mesh, local, (_ROWS, split, _ROWS, _ROWS), _ROWS)(
      hidden, _gathered(mesh, head, hidden.dtype), targets, mask)


@struct.dataclass
class _Sums:
  """Sums over a part of the vocabulary, all [T], with u = z - top.

  Relative to the largest logit they cannot overflow, and their differences do
  not cancel: what counts has a u near 0.
  """

  top: jax.Array  # max z
  mass: jax.Array  # sum e^u
  first: jax.Array  # sum e^u u
  second: jax.Array  # sum e^u u^2
  pairs: jax.Array  # sum e^2u
  target: jax.Array  # z of the target if it is in this part, else 0

  @classmethod
  def of(cls, z: jax.Array, targets: jax.Array) -> '_Sums':
    """Of logits z [T, C]; targets [T] are columns of z or outside it."""
    top = jnp.max(z, -1)
    u = z - top[:, None]
    e = jnp.exp(u)
    return cls(
        top, jnp.sum(e, -1), jnp.sum(e * u, -1), jnp.sum(e * u * u, -1),
        jnp.sum(e * e, -1), _at(z, targets),
    )

  def moved(self, top: jax.Array) -> '_Sums':
    """The same sums relative to another `top`, not below this one."""
    d = self.top - top
    scale = jnp.exp(d)
    return _Sums(
        top,
        scale * self.mass,
        scale * (self.first + d * self.mass),
        scale * (self.second + 2 * d * self.first + d * d * self.mass),
        scale * scale * self.pairs,
        self.target,
    )

  def plus(self, other: '_Sums') -> '_Sums':
    top = jnp.maximum(self.top, other.top)
    both = jax.tree.map(jnp.add, self.moved(top), other.moved(top))
    return both.replace(top=top)

  def finished(self) -> tuple[ddt.TokenStats, jax.Array]:
    """The statistics, and log sum e^z."""
    log_mass, mean = jnp.log(self.mass), self.first / self.mass
    return ddt.TokenStats(
        log_p=self.target - self.top - log_mass,
        entropy=log_mass - mean,
        varentropy=jnp.maximum(self.second / self.mass - mean * mean, 0.0),
        collision=self.pairs / (self.mass * self.mass),
    ), self.top + log_mass


def _local_stats(rows, head, ids, chunk, temperature, split):
  """(statistics, log sum e^z) of one device's rows [T, D]."""
  ids = ids - _offset(head, split)
  zeros = jnp.zeros(ids.shape, jnp.float32)

  def step(sums, start, size):
    z = _logits(rows, _part(head, start, size), temperature)
    return sums.plus(_Sums.of(z, ids - start))

  sums = _over_chunks(
      step, _Sums(zeros + _NOTHING, *[zeros] * 5), head, _chunk(chunk, rows))
  if split:
    top = jax.lax.pmax(sums.top, 'tensor')
    sums = jax.lax.psum(sums.moved(top), 'tensor').replace(top=top)
  return sums.finished()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(how, hidden, head, targets):
  return _stats_forward(how, hidden, head, targets)[0]


def _stats_forward(how, hidden, head, targets):
  chunk, temperature, mesh = how
  split = _split(mesh, head)

  def local(hidden, head, targets):
    found = _local_stats(
        _flat(hidden), head, targets.reshape(-1), chunk, temperature, split)
    return jax.tree.map(lambda x: x.reshape(targets.shape), found)

  stats, lse = _on(mesh, local, (_ROWS, split, _ROWS), _ROWS)(
      hidden, _gathered(mesh, head, hidden.dtype), targets)
  return stats, (hidden, head, targets, stats, lse)


def _stats_backward(how, saved, g):
  chunk, temperature, mesh = how
  hidden, head, targets, stats, lse = saved
  split = _split(mesh, head)

  def local(hidden, head, targets, stats, lse, g):
    rows, ids = _flat(hidden), targets.reshape(-1) - _offset(head, split)
    stats, lse, g = jax.tree.map(lambda x: x.reshape(-1, 1), (stats, lse, g))

    def step(carry, start, size):
      dh, dw = carry
      part = _part(head, start, size).astype(rows.dtype)
      log_p = _logits(rows, part, temperature) - lse
      p, phi = jnp.exp(log_p), log_p + stats.entropy
      realised = jnp.arange(size) == (ids - start)[:, None]
      dz = g.log_p * (realised - p) + p * (
          g.varentropy * (phi * phi + 2 * phi - stats.varentropy)
          - g.entropy * phi + 2 * g.collision * (p - stats.collision)
      )
      dz = (dz / temperature).astype(rows.dtype)
      dw = jax.lax.dynamic_update_slice_in_dim(
          dw, _product('tv,td->vd', dz, rows), start, 0)
      return dh + _product('tv,vd->td', dz, part), dw

    zeros = jnp.zeros(rows.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    dh, dw = _over_chunks(step, zeros, head, _chunk(chunk, rows))
    if split:
      dh = jax.lax.psum(dh, 'tensor')
    return dh.reshape(hidden.shape).astype(hidden.dtype), _summed(mesh, dw)

  specs = (_ROWS, split, _ROWS, _ROWS, _ROWS, _ROWS)
  dh, dw = _on(mesh, local, specs, (_ROWS, _table(mesh, head)))(
      hidden, _gathered(mesh, head, hidden.dtype), targets, stats, lse, g)
  return dh, dw.astype(head.dtype), None


_stats.defvjp(_stats_forward, _stats_backward)


# Through the tokens ------------------------------------------------------------


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
    mesh: where the first axis of `hidden` is spread over `data` and `fsdp`; its
      `tensor` axis must be 1.

  Returns:
    (L, sum of the mask, TokenStats of log_p and entropy, 0 where m = 0). Only
    L has a gradient.
  """
  if mesh is not None and mesh.shape['tensor'] > 1:
    raise ValueError(
        'weighted_nll takes a head that is whole; token_stats one that is split')
  total, stats = _tiled(
      (weights_fn, chunk, _several(mesh)), hidden, head, targets, mask, extras)
  return total, jnp.sum(mask), jax.lax.stop_gradient(stats)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tiled(how, hidden, head, targets, mask, extras):
  weights_fn, _, mesh = how
  stats = supervised_stats(hidden, head, targets, mask, mesh=mesh)
  stats = ddt.TokenStats(stats.log_p, stats.entropy)
  weight, _ = weights_fn(stats, extras)
  return -jnp.sum(jnp.where(mask > 0, mask * weight * stats.log_p, 0.0)), stats


def _tiled_forward(how, hidden, head, targets, mask, extras):
  weights_fn, chunk, mesh = how

  def local(hidden, head, targets, mask, extras):
    rows, ids, m = _flat(hidden), targets.reshape(-1), mask.reshape(-1)
    tiles = _Tiles.of(m, chunk or _TILE)
    leaves, tree = jax.tree.flatten(extras)
    cut = [_per_token(x, targets) for x in leaves]

    def tile(i, dw):
      """Adds to dW; also returns the loss and what there is of each token."""
      here = tiles.rows(i)
      h, y, weight = (tiles.take(x, here) for x in (rows, ids, m))
      log_p, g, dz_part = _tile_gradient(h, head, y)
      phi = -jnp.sum(h * g, -1)
      stats = ddt.TokenStats(log_p, phi - log_p)
      of_loss, of_gradient = weights_fn(stats, jax.tree.unflatten(tree, [
          tiles.take(x.reshape(-1, *x.shape[targets.ndim:]), here) if c else x
          for x, c in zip(leaves, cut, strict=True)
      ]))
      v = jnp.where(weight > 0, weight * of_gradient, 0.0)[:, None]
      dw = _add_to_head(dw, dz_part, (v * h).astype(h.dtype), len(head))
      loss = -jnp.sum(jnp.where(weight > 0, weight * of_loss * log_p, 0.0))
      return loss, dw, (stats, (v * g).astype(h.dtype))

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
    stats, dh = jax.tree.map(tiles.back, out)
    stats = jax.tree.map(
        lambda x: jnp.where(mask > 0, x.reshape(mask.shape), 0.0), stats)
    if mesh is not None:
      loss = jax.lax.psum(loss, _ROWS[0])
    return loss, stats, dh.reshape(hidden.shape), _summed(mesh, dw)

  of_extras = jax.tree.map(
      lambda x: _ROWS if _per_token(x, targets) else P(), extras)
  loss, stats, dh, dw = _on(
      mesh, local, (_ROWS, P(), _ROWS, _ROWS, of_extras),
      (P(), _ROWS, _ROWS, _table(mesh, head)),
  )(hidden, _gathered(mesh, head, hidden.dtype), targets, mask, extras)
  return (loss, stats), (dh, dw.astype(head.dtype))


def _tile_gradient(h, head, y):
  """log p [T], its negative's gradient g by h [T, D], and that by the logits.

  The last is a function (start, size) -> [T, size]. All goes over the vocabulary
  a part at a time: what one product leaves, the next operation finds in the cache.
  """
  size = _chunk(None, h)
  column = jnp.zeros((len(y), 1), jnp.float32)

  def forward(carry, start, size):
    z, top, mass, target = carry
    new = _logits(h, _part(head, start, size))
    higher = jnp.maximum(top, jnp.max(new, -1, keepdims=True))
    mass = mass * jnp.exp(top - higher) + jnp.sum(
        jnp.exp(new - higher), -1, keepdims=True)
    z = jax.lax.dynamic_update_slice_in_dim(z, new, start, 1)
    return z, higher, mass, target + _at(new, y - start)[:, None]

  z = jax.lax.empty((len(y), len(head)), jnp.float32)
  z, top, mass, target = _over_chunks(
      forward, (z, column + _NOTHING, column, column), head, size)
  lse = top + jnp.log(mass)

  def dz_part(start, size):
    part = jax.lax.dynamic_slice_in_dim(z, start, size, 1)
    realised = jnp.arange(size) == (y - start)[:, None]
    return (jnp.exp(part - lse) - realised).astype(h.dtype)

  def backward(g, start, size):
    part = _part(head, start, size).astype(h.dtype)
    return g + _product('tv,vd->td', dz_part(start, size), part)

  g = _over_chunks(backward, jnp.zeros(h.shape, jnp.float32), head, size)
  return (target - lse)[:, 0], g, dz_part


def _add_to_head(dw, dz_part, h, vocab):
  """dW + dz^T h; None stands for a dW of nothing."""

  def step(carry, start, size):
    new = _product('tv,td->vd', dz_part(start, size), h)
    if dw is not None:
      new += _part(carry, start, size)
    return jax.lax.dynamic_update_slice_in_dim(carry, new, start, 0)

  start = dw
  if dw is None:
    start = jax.lax.empty((vocab, h.shape[1]), jnp.float32)
  return _over_chunks(step, start, start, _chunk(None, h))


def _tiled_backward(how, saved, g):
  del how
  dh, dw = saved
  g, _ = g  # of the loss; the statistics are constants
  return (g * dh).astype(dh.dtype), (g * dw).astype(dw.dtype), None, None, None


_tiled.defvjp(_tiled_forward, _tiled_backward)


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

  def back(self, out) -> jax.Array:
    """From the tiles' order to the rows' own."""
    return out[self.inverse]


# Both --------------------------------------------------------------------------


def _flat(hidden):
  return hidden.reshape(-1, hidden.shape[-1])


def _per_token(x, targets) -> bool:
  return jnp.shape(x)[:targets.ndim] == targets.shape and targets.ndim > 0


def _chunk(chunk, rows) -> int:
  fits = _CHUNK_LOGITS // max(len(rows), 1) // 128 * 128
  return chunk or min(4096, max(fits, 1024))


def _logits(rows, head, temperature=1.0):
  z = _product('td,vd->tv', rows, head.astype(rows.dtype))
  return z if temperature == 1.0 else z / temperature


def _product(how, a, b):
  return jnp.einsum(how, a, b, preferred_element_type=jnp.float32)


def _at(z, ids):
  """z of the ids that are columns of it, 0 for others."""
  inside = (ids >= 0) & (ids < z.shape[1])
  column = jnp.where(inside, ids, 0)[:, None]
  return jnp.where(inside, jnp.take_along_axis(z, column, 1)[:, 0], 0.0)


def _part(head, start, size):
  return jax.lax.dynamic_slice_in_dim(head, start, size)


def _over_chunks(step, carry, head, size):
  """Folds step(carry, start, size) over rows of the head; the last are fewer."""
  full, rest = divmod(len(head), size)
  if full:
    carry = jax.lax.fori_loop(
        0, full, lambda i, c: step(c, i * size, size), carry)
  return step(carry, full * size, rest) if rest else carry


def _several(mesh):
  """None for a mesh of one device."""
  return mesh if mesh is not None and mesh.size > 1 else None


def _split(mesh, head) -> P:
  """How a device sees the head: P('tensor') or whole."""
  over = mesh is not None and mesh.shape['tensor'] > 1
  return P('tensor') if over and not len(head) % mesh.shape['tensor'] else P()


def _table(mesh, head) -> P | None:
  """How the gradient of the head leaves: as the parameter lies."""
  return mesh and sharding.spec('head/kernel', head.shape, mesh)


def _offset(head, split: P):
  return jax.lax.axis_index('tensor') * len(head) if split else 0


def _on(mesh, local, in_specs, out_specs):
  if mesh is None:
    return local
  return jax.shard_map(
      local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _gathered(mesh, head, dtype):
  """What is gathered over `fsdp`, once, is gathered in the type of the products."""
  if mesh is None or mesh.shape['fsdp'] == 1:
    return head
  return head.astype(dtype)


def _summed(mesh, dw):
  """The head's gradient over all rows; each device keeps its part over fsdp."""
  if mesh is None:
    return dw
  if dw.shape[1] % mesh.shape['fsdp']:
    return jax.lax.psum(dw, _ROWS[0])
  dw = jax.lax.psum_scatter(dw, 'fsdp', scatter_dimension=1, tiled=True)
  return jax.lax.psum(dw, 'data')
