"""Through the vocabulary in chunks: every statistic, with its exact gradient."""

import functools

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import vocab_parts as parts


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
  how = chunk, temperature, parts.several(mesh)
  return _stats(how, hidden, head, targets)


def local_sums(rows, head, ids, chunk, temperature, split) -> parts.Sums:
  """Sums over the vocabulary for one device's rows [T, D]."""
  ids = ids - parts.offset(head, split)

  def step(sums, start, size):
    z = parts.logits(rows, parts.part(head, start, size), temperature)
    return sums.plus(parts.Sums.of(z, ids - start))

  sums = parts.over_chunks(
      step, parts.Sums.of_nothing(len(rows)), head,
      parts.chunk_size(chunk, rows))
  if split:
    top = jax.lax.pmax(sums.top, 'tensor')
    sums = jax.lax.psum(sums.moved(top), 'tensor').replace(top=top)
  return sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(how, hidden, head, targets):
  return _forward(how, hidden, head, targets)[0]


def _forward(how, hidden, head, targets):
  chunk, temperature, mesh = how
  split = parts.split(mesh, head)

  def local(hidden, head, targets):
    sums = local_sums(
        parts.flat(hidden), head, targets.reshape(-1), chunk, temperature, split)
    return jax.tree.map(
        lambda x: x.reshape(targets.shape), (sums.stats, sums.lse))

  stats, lse = parts.on(
      mesh, local, (parts.ROWS, split, parts.ROWS), parts.ROWS
  )(hidden, parts.gathered(mesh, head, hidden.dtype), targets)
  return stats, (hidden, head, targets, stats, lse)


def _backward(how, saved, g):
  chunk, temperature, mesh = how
  hidden, head, targets, stats, lse = saved
  split, lies = parts.split(mesh, head), parts.table(mesh, head)

  def local(hidden, head, targets, stats, lse, g):
    rows = parts.flat(hidden)
    ids = targets.reshape(-1) - parts.offset(head, split)
    stats, lse, g = jax.tree.map(lambda x: x.reshape(-1, 1), (stats, lse, g))

    def step(carry, start, size):
      dh, dw = carry
      part = parts.part(head, start, size).astype(rows.dtype)
      log_p = parts.logits(rows, part, temperature) - lse
      p, phi = jnp.exp(log_p), log_p + stats.entropy
      realised = jnp.arange(size) == (ids - start)[:, None]
      dz = g.log_p * (realised - p) + p * (
          g.varentropy * (phi * phi + 2 * phi - stats.varentropy)
          - g.entropy * phi + 2 * g.collision * (p - stats.collision)
      )
      dz = (dz / temperature).astype(rows.dtype)
      dw = jax.lax.dynamic_update_slice_in_dim(
          dw, parts.product('tv,td->vd', dz, rows), start, 0)
      return dh + parts.product('tv,vd->td', dz, part), dw

    zeros = jnp.zeros(rows.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    dh, dw = parts.over_chunks(step, zeros, head, parts.chunk_size(chunk, rows))
    if split:
      dh = jax.lax.psum(dh, 'tensor')
    dh = dh.reshape(hidden.shape).astype(hidden.dtype)
    return dh, parts.summed(mesh, dw, lies)

  specs = (parts.ROWS, split, *[parts.ROWS] * 4)
  dh, dw = parts.on(mesh, local, specs, (parts.ROWS, lies))(
      hidden, parts.gathered(mesh, head, hidden.dtype), targets, stats, lse, g)
  return dh, dw.astype(head.dtype), None


_stats.defvjp(_forward, _backward)
