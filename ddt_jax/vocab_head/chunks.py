"""The vocabulary in chunks: slices of the head and their products with rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_CHUNK_LOGITS = 2**25  # [T, chunk] of float32 takes at most 128 MiB


def flatten_rows(hidden: jax.Array) -> jax.Array:
  """[..., D] -> [T, D]."""
  return hidden.reshape(-1, hidden.shape[-1])


def chunk_size(chunk: int | None, rows: jax.Array, head: jax.Array) -> int:
  """Vocabulary ids per chunk.

  Args:
    chunk: the caller's choice; None for the default, which is large enough to
      amortise an iteration and small enough to bound memory: 4096, or less for
      a small vocabulary or more than 8192 rows.
    rows: [T, D].
    head: [V, D].
  """
  # Multiples of 128, the lanes of a TPU's vector unit.
  within_memory = _CHUNK_LOGITS // max(len(rows), 1) // 128 * 128
  # A small vocabulary: a sixteenth of all logits at a time, but 2048 ids or more.
  sixteenth = len(head) // 16 // 128 * 128
  return chunk or min(4096, max(within_memory, 1024), max(sixteenth, 2048))


def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """`jnp.einsum` in the operands' dtype, accumulated and returned in float32."""
  return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def logits(
    rows: jax.Array, head: jax.Array, temperature: float = 1.0
) -> jax.Array:
  """rows [T, D] head [C, D]^T / temperature: [T, C], float32."""
  z = product('td,vd->tv', rows, head.astype(rows.dtype))
  return z if temperature == 1.0 else z / temperature


def realised_logits(
    rows: jax.Array, head: jax.Array, targets: jax.Array, split: bool
) -> jax.Array:
  """The logit of each row's target [T], float32.

  Args:
    rows: [T, D].
    head: [V, D], or a device's part of it.
    targets: [T], rows of `head`; where it is split, other values are targets
      that another device holds.
    split: whether the head is split over `tensor`.
  """
  # Row 0 stands in for a target of another device; the mask below removes it.
  inside = (targets >= 0) & (targets < len(head))
  own = head[jnp.where(inside, targets, 0)].astype(rows.dtype)
  z = jnp.where(inside, product('td,td->t', rows, own), 0.0)
  return jax.lax.psum(z, 'tensor') if split else z


def slice_rows(x: jax.Array, start: int | jax.Array, size: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x, start, size)


def fold(
    step: Callable[[Any, Any, int], Any], carry: Any, head: jax.Array, size: int
) -> Any:
  """Folds step(carry, start, size) over the rows of the head.

  The chunks of `size` rows run in a loop. The remainder is a step of its own,
  because the size of a slice is static.
  """
  # Qwen's 151936 = 128 x 1187, 1187 a prime: no useful size divides it.
  full, rest = divmod(len(head), size)
  if full:
    # fori_loop, not scan: `step` slices the head itself, so no copy of it in chunks.
    carry = jax.lax.fori_loop(
        0, full, lambda i, c: step(c, i * size, size), carry)
  return step(carry, full * size, rest) if rest else carry


def gradients(
    dz: Callable[[Any, int], jax.Array],
    rows: jax.Array,
    head: jax.Array,
    size: int,
    dw: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Gradients of rows and head from those of their logits, chunk by chunk.

  Args:
    dz: (start, size) -> gradient of the logits of these rows of the head [T, size].
    rows: [T, D].
    head: [V, D].
    size: vocabulary ids per chunk.
    dw: [V, D] float32, the sum so far, which the result adds to; None for none.

  Returns:
    (gradient of the rows [T, D] float32, of the head [V, D] float32).
  """

  def add_chunk(carry, start, size):
    dh, out = carry
    # In the dtype of the operands: the products would run in float32 otherwise.
    part = dz(start, size).astype(rows.dtype)
    dh += product('tv,vd->td', part, slice_rows(head, start, size).astype(rows.dtype))
    new = product('tv,td->vd', part, rows)
    if dw is not None:
      new += slice_rows(out, start, size)
    return dh, jax.lax.dynamic_update_slice_in_dim(out, new, start, 0)

  # Uninitialised: every row is written before it is read.
  out = jax.lax.empty(head.shape, jnp.float32) if dw is None else dw
  return fold(add_chunk, (jnp.zeros(rows.shape, jnp.float32), out), head, size)
