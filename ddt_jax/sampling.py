"""From logits to a token: nucleus, temperature, one draw.

Sorting and cumulative sums over the vocabulary would take longer than the forward
pass of a small model. `nucleus` and `draw` therefore use sums alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import errors

ORDERS = ('top_p_first', 'temperature_first')


def nucleus(p: jax.Array, top_p: float) -> jax.Array:
  r"""The nucleus: the smallest set of likeliest tokens with a mass above `top_p`.

  .. math:: \{v : p_v > t\} \text{ and the first of } p_v = t, \quad
            t = \max \{t : P(p \ge t) > \text{top\_p}\}

  Args:
    p: [..., V], probabilities, float32.
    top_p: in [0, 1). The token that crosses it is kept, so at least one is.

  Returns:
    bool [..., V]. Among equally likely tokens at the border lower ids are kept.

  Example:
    >>> nucleus(jnp.array([0.15, 0.5, 0.05, 0.3]), 0.75)
    Array([False,  True, False,  True], dtype=bool)
  """
  # Bisection for t over bit patterns: non-negative floats are ordered as their
  # bits are. 31 sums are faster than a sort.
  bits = jax.lax.bitcast_convert_type(p, jnp.int32)

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    mass = jnp.sum(jnp.where(bits >= middle, p, 0), -1, keepdims=True)
    holds = mass > top_p
    return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

  # mass(low) > top_p >= mass(high) throughout: 0 holds all of p, 1.5 nothing.
  low = jnp.zeros((*p.shape[:-1], 1), jnp.int32)
  # Above any probability, rounding included.
  high = jnp.full_like(low, np.float32(1.5).view(np.int32))
  # Fewer than 2^31 bit patterns lie between: 31 halvings make the two adjacent.
  low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
  t = jax.lax.bitcast_convert_type(low, jnp.float32)
  # All above t, and of the ties as many as the mass still needs, by id.
  above, tied = bits > low, bits == low
  mass = jnp.sum(jnp.where(above, p, 0), -1, keepdims=True)
  last = _first_beyond(jnp.where(tied, t, 0), (top_p - mass)[..., 0])
  return above | (tied & (jnp.arange(p.shape[-1]) <= last[..., None]))


def check_order(order: str) -> None:
  """Raises InputError for an unknown `order` of `distribution`."""
  if order not in ORDERS:
    raise errors.no_choice('order', order, ORDERS)


def distribution(
    logits: jax.Array,
    *,
    temperature: float,
    top_p: float,
    order: str = 'top_p_first',
) -> jax.Array:
  """Probabilities from which a token is drawn: nucleus and temperature.

  Args:
    logits: [..., V], normalised or not.
    temperature: > 0.
    top_p: in [0, 1]; 1 keeps all tokens.
    order: 'top_p_first' finds the nucleus at temperature 1 and then applies the
      temperature within it, as the paper's code does. 'temperature_first' is the
      order of other libraries; below temperature 1 it keeps fewer tokens.

  Returns:
    p [..., V], float32, 0 outside the nucleus.

  Raises:
    errors.InputError: an unknown order.

  Example:
    >>> logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    >>> for order in ORDERS:
    ...   p = distribution(logits, temperature=0.5, top_p=0.9, order=order)
    ...   print(int((p > 0).sum()))
    3
    2

  Source: the official code of arXiv:2602.12222.
  """
  return jax.nn.softmax(_scaled(logits, temperature, top_p, order))


def log_distribution(
    logits: jax.Array, *, temperature: float, top_p: float,
    order: str = 'top_p_first',
) -> jax.Array:
  """Logarithm of `distribution`, exact where that rounds to 0.

  Args:
    logits, temperature, top_p, order: see `distribution`.

  Returns:
    log p [..., V], float32, nats; -inf outside the nucleus.

  Example:
    >>> logits = jnp.array([0.0, 200.0])
    >>> log_distribution(logits, temperature=1.0, top_p=1.0)
    Array([-200.,    0.], dtype=float32)
  """
  return jax.nn.log_softmax(_scaled(logits, temperature, top_p, order))


def _scaled(
    logits: jax.Array, temperature: float, top_p: float, order: str
) -> jax.Array:
  """Logits [..., V] of `distribution`; -inf outside the nucleus."""
  check_order(order)
  logits = logits.astype(jnp.float32)
  if top_p < 1:
    # At 1 nothing is cut, and rounding of the sums could cut the least likely.
    base = logits if order == 'top_p_first' else logits / temperature
    kept = nucleus(jax.nn.softmax(base), top_p)
    logits = jnp.where(kept, logits, -jnp.inf)
  return logits / temperature


def draw(keys: jax.Array, p: jax.Array) -> jax.Array:
  r"""Draws one token per row by inversion.

  .. math:: \min \{v : p_0 + \dots + p_v > u \sum_w p_w\}, \quad u \sim U[0, 1)

  Args:
    keys: [B] random keys, one per row; a row's token depends on its key alone.
    p: [B, V], probabilities; rows need not sum to 1.

  Returns:
    tokens [B], int32.
  """
  # One uniform per row; a Gumbel draw would need V random numbers.
  u = jax.vmap(jax.random.uniform)(keys)
  # Scaled by the sum, so that rounding of p does not favour the last token.
  return _first_beyond(p, u * jnp.sum(p, -1))


def _first_beyond(x: jax.Array, bound: jax.Array) -> jax.Array:
  """Index at which the running sum of x [..., V] >= 0 first exceeds bound [...].

  Where it never does: the last index at which the sum grows. Sums of blocks find
  the block, and only that block gets a cumulative sum.
  """
  width = 128  # lanes of a TPU's vector unit
  blocks = -(-x.shape[-1] // width)
  unused = blocks * width - x.shape[-1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, unused)])
  x = x.reshape(*x.shape[:-1], blocks, width)

  def first(sums, bound):
    # Rounding can put the bound at or above the last sum; argmax would be 0 then.
    reached = jnp.minimum(bound, jnp.nextafter(sums[..., -1], -jnp.inf))
    return jnp.argmax(sums > reached[..., None], -1)

  sums = jnp.cumsum(x.sum(-1), -1)
  block = first(sums, bound)
  before = jnp.where(
      block > 0,
      jnp.take_along_axis(sums, jnp.maximum(block - 1, 0)[..., None], -1)[..., 0],
      0.0,
  )
  # [..., 128], the block in which the sum crosses the bound.
  inside = jnp.take_along_axis(x, block[..., None, None], -2)[..., 0, :]
  place = first(jnp.cumsum(inside, -1), bound - before)
  return (block * width + place).astype(jnp.int32)
