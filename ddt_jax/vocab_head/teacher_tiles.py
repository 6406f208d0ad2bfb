"""A divergence by token tiles: the gradient is formed in the forward.

As in `tiles`, supervised tokens come first and the others cost nothing. A tile holds
the logits of both distributions, [tile, V] each.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ddt_jax.vocab_head import chunks
from ddt_jax.vocab_head import divergences
from ddt_jax.vocab_head import meshes
from ddt_jax.vocab_head import tiling

# Tokens per tile: half of those of `tiles`, since two arrays of logits are held.
TILE = 1024


def gradients(
    of: divergences.Divergence, mesh, hidden, head, teacher_hidden, teacher_head,
    mask
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(divergence [...], gradients of the sum by hidden and head)."""
  grad_spec = meshes.head_grad_spec(mesh, head)

  def local(hidden, head, teacher_hidden, teacher_head, mask):
    rows, m = chunks.flatten_rows(hidden), mask.reshape(-1)
    teacher_rows = chunks.flatten_rows(teacher_hidden)
    tiles = tiling.Tiling.of(m, of.chunk or TILE)

    def tile(i, dw):
      here = tiles.rows(i)
      h, teacher_h, weight = (
          tiles.take(x, here) for x in (rows, teacher_rows, m))
      return _tile(of, h, head, teacher_h, teacher_head, weight, dw)

    def step(i, carry):
      dw, out = carry
      dw, of_rows = tile(i, dw)
      return dw, tiles.put(out, of_rows, i)

    # One tile needs no zeros of [V, D] to add to, and no loop.
    if tiles.most == 1:
      dw, out = tile(0, None)
    else:
      dw, of_rows = jax.eval_shape(tile, 0, None)
      zeros = jax.tree.map(
          lambda x: tiles.empty(x.dtype, *x.shape[1:]), of_rows)
      dw, out = jax.lax.fori_loop(
          0, tiles.count, step, (jnp.zeros(dw.shape, dw.dtype), zeros))
    value, dh = jax.tree.map(lambda x: tiles.restore(x, mask), out)
    return value, dh, meshes.reduce_head_grad(mesh, dw, grad_spec)

  rows = meshes.ROWS
  value, dh, dw = meshes.shard_map_rows(
      mesh, local, (rows, P(), rows, P(), rows), (rows, rows, grad_spec)
  )(hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), teacher_hidden,
    meshes.cast_for_gather(mesh, teacher_head, teacher_hidden.dtype), mask)
  return value, dh, dw.astype(head.dtype)


def _tile(of, h, head, teacher_h, teacher_head, mask, dw):
  """Head gradient, and (divergence, hidden gradient), of one tile.

  Passes over the vocabulary in chunks, so that each product's output is still in
  cache for the elementwise work.

  Args:
    of: the divergence.
    h, teacher_h, mask: [T, D], [T, E], [T].
    head, teacher_head: [V, D], [V, E].
    dw: [V, D], the sum so far, to which this tile adds; None for the first.

  Returns:
    (dw, (divergence [T], dh [T, D])).
  """
  size = chunks.chunk_size(None, h, head)

  def logits(rows, table, start, size):
    return chunks.logits(
        rows, chunks.slice_rows(table, start, size), of.temperature)

  def forward(carry, start, size):
    z, y, sums = carry
    new_z = logits(h, head, start, size)
    new_y = logits(teacher_h, teacher_head, start, size)
    sums = sums.merge(
        divergences.PairSums.of_logits(new_z, new_y, of.kind), of.kind)
    return (jax.lax.dynamic_update_slice_in_dim(z, new_z, start, 1),
            jax.lax.dynamic_update_slice_in_dim(y, new_y, start, 1), sums)

  # Uninitialised: every column is written before it is read.
  empty = jax.lax.empty((len(h), len(head)), jnp.float32)
  z, y, sums = chunks.fold(
      forward, (empty, empty, divergences.PairSums.empty(len(h))), head, size)
  of_student, of_teacher = (x[:, None] for x in sums.normalisers)

  def log_probabilities(start, size):
    return (jax.lax.dynamic_slice_in_dim(z, start, size, 1) - of_student,
            jax.lax.dynamic_slice_in_dim(y, start, size, 1) - of_teacher)

  if of.kind == 'jsd':
    def add_kl(carry, start, size):
      return jax.tree.map(jnp.add, carry, divergences.kl_to_mixture(
          *log_probabilities(start, size), of.beta))

    zeros = jnp.zeros(len(h), jnp.float32)
    centre, teacher = chunks.fold(add_kl, (zeros, zeros), head, size)
    value = of.beta * teacher + (1 - of.beta) * centre
  else:
    value = centre = sums.kl(of.kind)
  weight = of.grad_weight(value, mask)[:, None]

  def dz(start, size):
    return weight * divergences.dz(*log_probabilities(start, size), centre, of)

  dh, dw = chunks.gradients(dz, h, head, size, dw)
  return dw, (value, dh.astype(h.dtype))
