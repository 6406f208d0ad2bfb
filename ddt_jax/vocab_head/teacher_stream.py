"""A divergence by vocabulary chunks: values, then gradients in a second sweep.

Each device streams its part of the head. The sums over `tensor` stand after the
loops: a collective inside would be waited for in every chunk.
"""

import jax
import jax.numpy as jnp

from ddt_jax.vocab_head import chunks
from ddt_jax.vocab_head import divergences
from ddt_jax.vocab_head import meshes

ROWS = meshes.ROWS


def values(
    of: divergences.Divergence, mesh, hidden, head, teacher_hidden, teacher_head
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """(divergence, centre of `divergences.dz`, both log-normalisers), each [...]."""
  split = meshes.head_spec(mesh, head)

  def local(hidden, head, teacher_hidden, teacher_head):
    flat = _local_values(
        of, bool(split), chunks.flatten_rows(hidden), head,
        chunks.flatten_rows(teacher_hidden), teacher_head)
    return jax.tree.map(lambda x: x.reshape(hidden.shape[:-1]), flat)

  return meshes.shard_map_rows(mesh, local, (ROWS, split, ROWS, split), ROWS)(
      hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), teacher_hidden,
      meshes.cast_for_gather(mesh, teacher_head, teacher_hidden.dtype))


def _local_values(of, split, rows, head, teacher_rows, teacher_head):
  size, logits = _chunks(of, rows, head, teacher_rows, teacher_head)

  def add(sums, start, size):
    return sums.merge(
        divergences.PairSums.of_logits(*logits(start, size), of.kind), of.kind)

  sums = chunks.fold(add, divergences.PairSums.empty(len(rows)), head, size)
  if split:
    tops = jax.lax.pmax((sums.top, sums.teacher_top), 'tensor')
    sums = jax.lax.psum(sums.relative_to(*tops, of.kind), 'tensor').replace(
        top=tops[0], teacher_top=tops[1])
  of_student, of_teacher = sums.normalisers
  if of.kind != 'jsd':
    value = sums.kl(of.kind)
    return value, value, of_student, of_teacher

  def add_kl(carry, start, size):
    z, y = logits(start, size)
    return jax.tree.map(jnp.add, carry, divergences.kl_to_mixture(
        z - of_student[:, None], y - of_teacher[:, None], of.beta))

  zeros = jnp.zeros(len(rows), jnp.float32)
  student, teacher = chunks.fold(add_kl, (zeros, zeros), head, size)
  if split:
    student, teacher = jax.lax.psum((student, teacher), 'tensor')
  value = of.beta * teacher + (1 - of.beta) * student
  return value, student, of_student, of_teacher


def _chunks(of, rows, head, teacher_rows, teacher_head):
  """Ids per chunk, and a function of (start, size): logits of both [T, size]."""
  # Two arrays of logits are held, so a chunk is half of that of the statistics.
  size = of.chunk or max(chunks.chunk_size(None, rows, head) // 256 * 128, 128)

  def logits(start, size):
    return (
        chunks.logits(rows, chunks.slice_rows(head, start, size), of.temperature),
        chunks.logits(
            teacher_rows, chunks.slice_rows(teacher_head, start, size),
            of.temperature))

  return size, logits


def gradients(
    of: divergences.Divergence, mesh, hidden, head, teacher_hidden, teacher_head,
    mask, value, centre, of_student, of_teacher
) -> tuple[jax.Array, jax.Array]:
  """Gradients of the sum by hidden and head; the logits are computed again."""
  split = meshes.head_spec(mesh, head)
  grad_spec = meshes.head_grad_spec(mesh, head)

  def local(hidden, head, teacher_hidden, teacher_head, *per_token):
    rows = chunks.flatten_rows(hidden)
    weight, centre, of_student, of_teacher = (x.reshape(-1) for x in per_token)
    size, logits = _chunks(
        of, rows, head, chunks.flatten_rows(teacher_hidden), teacher_head)

    def step(carry, start, size):
      dh, dw = carry
      z, y = logits(start, size)
      dz = weight[:, None] * divergences.dz(
          z - of_student[:, None], y - of_teacher[:, None], centre, of)
      # In the dtype of the operands: the products would run in float32 otherwise.
      dz = dz.astype(rows.dtype)
      part = chunks.slice_rows(head, start, size).astype(rows.dtype)
      # Each row of dw belongs to one chunk, so it is written once and never read.
      dw = jax.lax.dynamic_update_slice_in_dim(
          dw, chunks.product('tv,td->vd', dz, rows), start, 0)
      return dh + chunks.product('tv,vd->td', dz, part), dw

    zeros = jnp.zeros(rows.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    dh, dw = chunks.fold(step, zeros, head, size)
    if split:
      dh = jax.lax.psum(dh, 'tensor')
    dh = dh.reshape(hidden.shape).astype(hidden.dtype)
    return dh, meshes.reduce_head_grad(mesh, dw, grad_spec)

  dh, dw = meshes.shard_map_rows(
      mesh, local, (ROWS, split, ROWS, split, *[ROWS] * 4), (ROWS, grad_spec)
  )(hidden, meshes.cast_for_gather(mesh, head, hidden.dtype), teacher_hidden,
    meshes.cast_for_gather(mesh, teacher_head, teacher_hidden.dtype),
    of.grad_weight(value, mask), centre, of_student, of_teacher)
  return dh, dw.astype(head.dtype)
