r"""The vocabulary in chunks: every statistic, with its exact gradient.

The forward merges `partial_sums` of one chunk after the other. The backward
computes each chunk's logits again and applies the closed forms below, for
p = softmax(z), phi_v = log p_v + H, and x the target:

  d log p_x / dz_v = 1[v = x] - p_v
  dH / dz_v        = -p_v phi_v
  dnu / dz_v       = p_v (phi_v^2 + 2 phi_v - nu)
  dC / dz_v        = 2 p_v (p_v - C)
  d tail / dz_v    = p_v (1[p_v > p_x] - tail)
  d ties / dz_v    = p_v (1[p_v = p_x] - ties)
  d log p_k / dz_v = 1[v = k] - p_v            for each k of the top-k ids

All follow from dp_u / dz_v = p_u (1[u = v] - p_v) and E[phi] = 0. For tail and
ties the sets {p_v > p_x} and {p_v = p_x} are constants, as they are in almost
every point. With a temperature z is logits / temperature, and dz is divided by it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax.vocab_head import chunks
from ddt_jax.vocab_head import meshes
from ddt_jax.vocab_head import partial_sums


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
  r"""`ddt.token_stats` of the logits `hidden head^T`, which are never held whole.

  Every field has its exact gradient with respect to hidden and head. Matrix
  products take the dtype of `hidden`; sums are float32.

  Args:
    hidden: [..., D].
    head: [V, D].
    targets: [...], integer token ids.
    chunk: vocabulary ids per step; [tokens, chunk] logits are held. Default
      4096, less for a small vocabulary or for more than 8192 tokens per device.
    temperature: > 0, divides the logits.
    tail: whether to fill in the fields tail and ties.
    top_k: number of likeliest tokens to return; 0 for none.
    mesh: None for one device. Otherwise the first axis of `hidden` is sharded
      over `data` and `fsdp`, and the head over `tensor` if V divides: each device
      streams its part, and one sum over `tensor` merges them.

  Returns:
    TokenStats of float32 [...].

  Raises:
    errors.InputError: the temperature is not positive.

  Example:
    >>> hidden, head = jnp.ones([3, 2]), jnp.zeros([4, 2])  # uniform over 4
    >>> jnp.exp(token_stats(hidden, head, jnp.arange(3)).log_p)
    Array([0.25, 0.25, 0.25], dtype=float32)
  """
  options = stats_options(
      head, chunk=chunk, temperature=temperature, tail=tail, top_k=top_k)
  return _stats(options, meshes.multi_device(mesh), hidden, head, targets)


class StatsOptions(NamedTuple):
  """Static options of `token_stats`, hashable for jit."""

  temperature: float
  tail: bool
  top_k: int
  chunk: int | None


def stats_options(
    head: jax.Array, *, chunk: int | None, temperature: float, tail: bool,
    top_k: int,
) -> StatsOptions:
  """Checked options; top_k is at most V. See `token_stats`."""
  ddt.check_temperature(temperature)
  return StatsOptions(temperature, tail, min(top_k, len(head)), chunk)


def local_stats(
    rows: jax.Array, head: jax.Array, targets: jax.Array, options: StatsOptions,
    split: bool,
) -> tuple[ddt.TokenStats, jax.Array]:
  """Statistics and log-normaliser (log sum e^z) of one device's rows.

  Args:
    rows: [T, D].
    head: [V, D], or this device's part of it.
    targets: [T], token ids.
    options: see `token_stats`.
    split: whether the head is split over `tensor`.

  Returns:
    (TokenStats of [T], [T]).
  """
  first_id = meshes.first_id(head, split)
  # From token ids to rows of this device's part of the head.
  targets = targets - first_id
  realised = None
  if options.tail:
    realised = chunks.realised_logits(rows, head, targets, split)

  def step(carry, start, size):
    sums, top = carry
    # z: [T, chunk]
    z = chunks.logits(rows, chunks.slice_rows(head, start, size))
    # Before the temperature: `realised` is without it, too.
    above_and_equal = options.tail and partial_sums.compare(
        z, targets - start, realised)
    z = z / options.temperature
    if options.top_k:
      top = top.merge(partial_sums.TopK.of_logits(z, options.top_k, start))
    sums = sums.merge(
        partial_sums.Sums.of_logits(z, targets - start, above_and_equal))
    return sums, top

  empty = partial_sums.Sums.empty(len(rows), options.tail), None
  if options.top_k:
    empty = empty[0], partial_sums.TopK.empty(len(rows), options.top_k)
  sums, top = chunks.fold(
      step, empty, head, chunks.chunk_size(options.chunk, rows, head))
  if split:
    # One pmax and one psum for all fields, after the loop over chunks.
    highest = jax.lax.pmax(sums.top, 'tensor')
    sums = jax.lax.psum(
        sums.relative_to(highest), 'tensor').replace(top=highest)
  ways = jax.lax.axis_size('tensor') if split else 1
  stats = sums.stats.replace(vocab_size=ways * len(head))
  if options.top_k:
    if split:
      # k logits of each device, not its part of the vocabulary.
      all_devices = jax.lax.all_gather(
          top.replace(ids=top.ids + first_id), 'tensor', axis=1, tiled=True)
      top = all_devices.largest(options.top_k)
    stats = stats.replace(top_ids=top.ids, top_log_p=top.log_p(sums))
  return stats, sums.log_normaliser


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _stats(options, mesh, hidden, head, targets):
  return _forward(options, mesh, hidden, head, targets)[0]


def _forward(options, mesh, hidden, head, targets):
  split = meshes.head_spec(mesh, head)

  def local(hidden, head, targets):
    flat = local_stats(
        chunks.flatten_rows(hidden), head, targets.reshape(-1), options, split)
    return jax.tree.map(
        lambda x: x.reshape(*targets.shape, *x.shape[1:]), flat)

  stats, log_normaliser = meshes.shard_map_rows(
      mesh, local, (meshes.ROWS, split, meshes.ROWS), meshes.ROWS
  )(hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), targets)
  # [T] log-normalisers give p in the backward; saving p would take [T, V].
  return stats, (hidden, head, targets, stats, log_normaliser)


def _backward(options, mesh, saved, g):
  """Gradients of hidden and head; g: those of each field. See the module."""
  hidden, head, targets, stats, log_normaliser = saved
  g = g.replace(top_ids=None)  # integers have no gradient
  split = meshes.head_spec(mesh, head)
  grad_spec = meshes.head_grad_spec(mesh, head)

  def local(hidden, head, targets, stats, log_normaliser, g):
    rows = chunks.flatten_rows(hidden)
    first_id = meshes.first_id(head, split)
    ids = targets.reshape(-1) - first_id
    stats, log_normaliser, g = jax.tree.map(
        lambda x: x.reshape(len(rows), -1), (stats, log_normaliser, g))

    def step(carry, start, size):
      dh, dw = carry
      part = chunks.slice_rows(head, start, size).astype(rows.dtype)
      log_p = chunks.logits(rows, part, options.temperature) - log_normaliser
      p, phi = jnp.exp(log_p), log_p + stats.entropy
      # A comparison fuses with the rest; a scatter of ones would not.
      realised = jnp.arange(size) == (ids - start)[:, None]
      dz = g.log_p * (realised - p) + p * (
          g.varentropy * (phi * phi + 2 * phi - stats.varentropy)
          - g.entropy * phi + 2 * g.collision * (p - stats.collision)
      )
      if options.tail:
        # ~realised: both sides are rounded, and a target is not above itself.
        above = (log_p > stats.log_p) & ~realised
        equal = (log_p == stats.log_p) | realised
        dz += p * (g.tail * (above - stats.tail) + g.ties * (equal - stats.ties))
      for k in range(options.top_k):
        here = jnp.arange(size) + start + first_id == stats.top_ids[:, k, None]
        dz += g.top_log_p[:, k, None] * (here - p)
      # In the dtype of the operands: the products would run in float32 otherwise.
      dz = (dz / options.temperature).astype(rows.dtype)
      # Each row of dw belongs to one chunk, so it is written once and never read.
      dw = jax.lax.dynamic_update_slice_in_dim(
          dw, chunks.product('tv,td->vd', dz, rows), start, 0)
      return dh + chunks.product('tv,vd->td', dz, part), dw

    zeros = jnp.zeros(rows.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    size = chunks.chunk_size(options.chunk, rows, head)
    dh, dw = chunks.fold(step, zeros, head, size)
    # Both sums stand after the loop: inside, every chunk would wait for one.
    if split:
      dh = jax.lax.psum(dh, 'tensor')
    dh = dh.reshape(hidden.shape).astype(hidden.dtype)
    return dh, meshes.reduce_head_grad(mesh, dw, grad_spec)

  in_specs = (meshes.ROWS, split, *[meshes.ROWS] * 4)
  dh, dw = meshes.shard_map_rows(
      mesh, local, in_specs, (meshes.ROWS, grad_spec)
  )(hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), targets, stats,
    log_normaliser, g)
  return dh, dw.astype(head.dtype), None


_stats.defvjp(_forward, _backward)
