"""Storage of keys and values: floats, or int8 with a scale a head and token."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

_LARGEST = 127  # int8 reaches from -128; a symmetric range needs no zero point


@struct.dataclass
class Int8:
  r"""Keys or values in 8 bits.

  .. math:: x_{bkst} \approx s_{bks} \, n_{bkst}, \quad
            s_{bks} = \max_t |x_{bkst}| / 127

  with one scale for each head k of each token s, over the H channels t: tokens
  differ in size by far more than the channels of one head do.

  Attributes:
    values: int8, laid out as the float array would be.
    scale: float32, the same layout with one channel.
  """

  values: jax.Array
  scale: jax.Array

  @property
  def dtype(self) -> jnp.dtype:
    return self.values.dtype


Stored = jax.Array | Int8


def empty(shape: tuple[int, ...], channels: int, dtype: Any) -> Stored:
  """Returns zeros.

  Args:
    shape: of the float array.
    channels: its axis of H.
    dtype: a float, or int8.
  """
  x = jnp.zeros(shape, dtype)
  if x.dtype != jnp.int8:
    return x
  return Int8(x, jnp.zeros(_one_channel(shape, channels)))


def append(old: Stored, new: jax.Array, column: jax.Array, tokens: int) -> Stored:
  """Writes the keys or values of new tokens over columns of `old`.

  Args:
    old: [B, K, ...] with axes of tokens and of channels, in either order.
    new: likewise, floats.
    column: scalar, the first column that they fill.
    tokens: axis of the tokens, 2 or 3; the other one is that of the channels.
  """
  stored = (
      quantise(new, 5 - tokens) if isinstance(old, Int8) else new.astype(old.dtype))
  # A slice update at one column for all rows: XLA does it in place.
  return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, column, tokens),
      old, stored)


def read(stored: Stored, dtype: Any) -> jax.Array:
  """Returns the array in the dtype of the products."""
  if isinstance(stored, Int8):
    # Multiplied in float32: a scale in bfloat16 would be off for a whole head.
    stored = stored.values.astype(jnp.float32) * stored.scale
  return stored.astype(dtype)


def quantise(x: jax.Array, channels: int) -> Int8:
  """Rounds an array to 8 bits; the error is at most half a scale.

  Args:
    x: floats.
    channels: axis that shares a scale.

  Example:
    >>> q = quantise(jnp.array([[1.0, -0.5], [0.0, 254.0]]), channels=1)
    >>> q.values.tolist(), q.scale[1].tolist()
    ([[127, -64], [0, 127]], [2.0])
  """
  x = x.astype(jnp.float32)
  scale = jnp.max(jnp.abs(x), channels, keepdims=True) / _LARGEST
  # A head of zeros has scale 0: any divisor will do.
  values = jnp.round(x / jnp.where(scale > 0, scale, 1))
  return Int8(values.astype(jnp.int8), scale)


def _one_channel(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
  return (*shape[:channels], 1, *shape[channels + 1:])
