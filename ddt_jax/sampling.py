"""From logits to a token: nucleus, temperature, one draw."""

import jax
import jax.numpy as jnp
import numpy as np

ORDERS = ('top_p_first', 'temperature_first')


def nucleus(p: jax.Array, top_p: float) -> jax.Array:
  """The smallest set of likeliest tokens whose mass exceeds `top_p`.

  Args:
    p: [..., V], probabilities, float32.
    top_p: the token that crosses it is kept; at least one always is.

  Returns:
    bool [..., V]; of equally likely tokens at the border, lower ids are kept.
  """
  # Bisection for the largest t with P(p >= t) > top_p, on the bits of floats,
  # which are ordered as the floats are: 31 sums are faster than a sort.
  bits = jax.lax.bitcast_convert_type(p, jnp.int32)

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    mass = jnp.sum(jnp.where(bits >= middle, p, 0), -1, keepdims=True)
    holds = mass > top_p
    return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

  low = jnp.zeros((*p.shape[:-1], 1), jnp.int32)
  high = jnp.full_like(low, np.float32(1.5).view(np.int32))
  low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
  t = jax.lax.bitcast_convert_type(low, jnp.float32)
  above, tied = bits > low, bits == low
  mass = jnp.sum(jnp.where(above, p, 0), -1, keepdims=True)
  last = _first_beyond(jnp.where(tied, t, 0), (top_p - mass)[..., 0])
  return above | (tied & (jnp.arange(p.shape[-1]) <= last[..., None]))


def check_order(order: str) -> None:
  """Raises ValueError where `distribution` does not know the order."""
  if order not in ORDERS:
    raise ValueError(f'order {order!r}: choose from {ORDERS}')


def distribution(
    logits: jax.Array,
    *,
    temperature: float,
    top_p: float,
    order: str = 'top_p_first',
) -> jax.Array:
  """Probabilities [..., V] that a token is drawn from.

  Args:
    logits: [..., V], normalised or not.
    temperature: > 0.
    top_p: in [0, 1]; 1 keeps all.
    order: 'top_p_first' finds the nucleus at temperature 1 and then applies the
      temperature to it (the paper's code); 'temperature_first' is the other
      libraries' order.
  """
  check_order(order)
  logits = logits.astype(jnp.float32)
  if top_p < 1:
    base = logits if order == 'top_p_first' else logits / temperature
    kept = nucleus(jax.nn.softmax(base), top_p)
    logits = jnp.where(kept, logits, -jnp.inf)
  return jax.nn.softmax(logits / temperature)


def draw(keys: jax.Array, p: jax.Array) -> jax.Array:
  """One token a row by inversion: the first id whose cumulative mass passes u.

  Args:
    keys: [B] random keys, one a row.
    p: [B, V].

  Returns:
    tokens [B], int32.
  """
  u = jax.vmap(jax.random.uniform)(keys)
  return _first_beyond(p, u * jnp.sum(p, -1))


def _first_beyond(x: jax.Array, bound: jax.Array) -> jax.Array:
  """Where the running sum of x [..., V] >= 0 first exceeds bound [...], int32.

  Where it never does, the last place at which it grows. Sums of blocks find the
  block, and one block is summed up: a cumulative sum of all would take longer
  than the forward pass of a small model.
  """
  width = 128
  blocks = -(-x.shape[-1] // width)
  unused = blocks * width - x.shape[-1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, unused)])
  x = x.reshape(*x.shape[:-1], blocks, width)

  def first(sums, bound):
    # Below the last, so that rounding cannot put the bound beyond it.
    reached = jnp.minimum(bound, jnp.nextafter(sums[..., -1], -jnp.inf))
    return jnp.argmax(sums > reached[..., None], -1)

  sums = jnp.cumsum(x.sum(-1), -1)
  block = first(sums, bound)
  before = jnp.where(
      block > 0,
      jnp.take_along_axis(sums, jnp.maximum(block - 1, 0)[..., None], -1)[..., 0],
      0.0,
  )
  inside = jnp.take_along_axis(x, block[..., None, None], -2)[..., 0, :]
  place = first(jnp.cumsum(inside, -1), bound - before)
  return (block * width + place).astype(jnp.int32)
