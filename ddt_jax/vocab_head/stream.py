"""Through the vocabulary in chunks: every statistic, with its exact gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax.vocab_head import parts


def token_stats(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    *,
    chunk: int | None = None,
    temperature: float = 1.0,
    tail: bool = False,
    top_k: int = 0,
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
      less of a small vocabulary and for more than 8192 tokens on a device.
    temperature, tail, top_k: see `ddt.token_stats`.
    mesh: where the first axis of `hidden` is spread over `data` and `fsdp` and
      the head over `tensor`: each device goes through its part of the vocabulary,
      and one sum over `tensor` puts them together.

  Returns:
    TokenStats of float32 [...].
  """
  how = How(temperature, tail, min(top_k, len(head)), chunk)
  return _stats(how, parts.several(mesh), hidden, head, targets)


class How(NamedTuple):
  """What is asked of the vocabulary; see `token_stats`."""

  temperature: float = 1.0
  tail: bool = False
  top_k: int = 0
  chunk: int | None = None

  def check(self) -> None:
    if not self.temperature > 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')


def local_stats(
    rows, head, ids, how: How, split
) -> tuple[ddt.TokenStats, jax.Array]:
  """Statistics, and log sum e^z, of one device's rows [T, D]."""
  how.check()
  offset = parts.offset(head, split)
  ids = ids - offset
  realised = None
  if how.tail:
    realised = parts.realised_logits(rows, head, ids, split)

  def step(carry, start, size):
    sums, top = carry
    z = parts.logits(rows, parts.part(head, start, size))
    against = how.tail and parts.compared(z, ids - start, realised)
    z = z / how.temperature
    if how.top_k:
      top = top.plus(parts.Top.of(z, how.top_k, start))
    return sums.plus(parts.Sums.of(z, ids - start, against)), top

  nothing = parts.Sums.of_nothing(len(rows), how.tail), None
  if how.top_k:
    nothing = nothing[0], parts.Top.of_nothing(len(rows), how.top_k)
  sums, top = parts.over_chunks(
      step, nothing, head, parts.chunk_size(how.chunk, rows, head))
  if split:
    highest = jax.lax.pmax(sums.top, 'tensor')
    sums = jax.lax.psum(sums.moved(highest), 'tensor').replace(top=highest)
  stats = sums.stats
  if how.top_k:
    if split:
      everywhere = jax.lax.all_gather(
          top.replace(ids=top.ids + offset), 'tensor', axis=1, tiled=True)
      top = everywhere.first(how.top_k)
    # Large logits cancel first.
    log_p = top.z - sums.top[:, None] - jnp.log(sums.mass)[:, None]
    stats = stats.replace(top_ids=top.ids, top_log_p=log_p)
  return stats, sums.lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _stats(how, mesh, hidden, head, targets):
  return _forward(how, mesh, hidden, head, targets)[0]


def _forward(how, mesh, hidden, head, targets):
  split = parts.split(mesh, head)

  def local(hidden, head, targets):
    found = local_stats(
        parts.flat(hidden), head, targets.reshape(-1), how, split)
    return jax.tree.map(
        lambda x: x.reshape(*targets.shape, *x.shape[1:]), found)

  stats, lse = parts.on(
      mesh, local, (parts.ROWS, split, parts.ROWS), parts.ROWS
  )(hidden, parts.gathered(mesh, head, hidden.dtype), targets)
  return stats, (hidden, head, targets, stats, lse)


def _backward(how, mesh, saved, g):
  hidden, head, targets, stats, lse = saved
  g = g.replace(top_ids=None)  # integers have no gradient
  split, lies = parts.split(mesh, head), parts.table(mesh, head)

  def local(hidden, head, targets, stats, lse, g):
    rows = parts.flat(hidden)
    offset = parts.offset(head, split)
    ids = targets.reshape(-1) - offset
    stats, lse, g = jax.tree.map(
        lambda x: x.reshape(len(rows), -1), (stats, lse, g))

    def step(carry, start, size):
      dh, dw = carry
      part = parts.part(head, start, size).astype(rows.dtype)
      log_p = parts.logits(rows, part, how.temperature) - lse
      p, phi = jnp.exp(log_p), log_p + stats.entropy
      realised = jnp.arange(size) == (ids - start)[:, None]
      dz = g.log_p * (realised - p) + p * (
          g.varentropy * (phi * phi + 2 * phi - stats.varentropy)
          - g.entropy * phi + 2 * g.collision * (p - stats.collision)
      )
      if how.tail:
        above = (log_p > stats.log_p) & ~realised
        equal = (log_p == stats.log_p) | realised
        dz += p * (g.tail * (above - stats.tail) + g.ties * (equal - stats.ties))
      for k in range(how.top_k):
        here = jnp.arange(size) + start + offset == stats.top_ids[:, k, None]
        dz += g.top_log_p[:, k, None] * (here - p)
      dz = (dz / how.temperature).astype(rows.dtype)
      dw = jax.lax.dynamic_update_slice_in_dim(
          dw, parts.product('tv,td->vd', dz, rows), start, 0)
      return dh + parts.product('tv,vd->td', dz, part), dw

    zeros = jnp.zeros(rows.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    size = parts.chunk_size(how.chunk, rows, head)
    dh, dw = parts.over_chunks(step, zeros, head, size)
    if split:
      dh = jax.lax.psum(dh, 'tensor')
    dh = dh.reshape(hidden.shape).astype(hidden.dtype)
    return dh, parts.summed(mesh, dw, lies)

  specs = (parts.ROWS, split, *[parts.ROWS] * 4)
  dh, dw = parts.on(mesh, local, specs, (parts.ROWS, lies))(
      hidden, parts.gathered(mesh, head, hidden.dtype), targets, stats, lse, g)
  return dh, dw.astype(head.dtype), None


_stats.defvjp(_forward, _backward)
