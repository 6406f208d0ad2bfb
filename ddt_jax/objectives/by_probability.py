r"""Weights of the token's own probability p: power, threshold, chord.

  power      w = p^a
  threshold  w = 1[p >= q], or p 1[p >= q]
  chord      w = p (1 - p)
"""

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors


def power(stats: ddt.TokenStats, *, a: float = 1.0) -> jax.Array:
  r"""A power of the probability, between SFT (a = 0) and beyond DFT (a = 1).

  .. math:: w_t = p_t(x_t)^a

  With a constant a the loss (1 - p^a) / a has the same gradient.

  Args:
    stats: TokenStats of [...]; reads log_p.
    a: a Python number >= 0; the paper compares 0, 1 and 10.

  Returns:
    w [...], float32, in [0, 1].

  Raises:
    errors.InputError: a is out of range.

  Source: arXiv:2510.00526.
  """
  if not a >= 0:
    raise errors.InputError(f'loss.a={a}: must be >= 0')
  # 0 * -inf would be NaN.
  return jnp.exp(a * stats.log_p) if a else jnp.ones_like(stats.log_p)


def threshold(
    stats: ddt.TokenStats, *, q: float = 0.5, keep_p: bool = False
) -> jax.Array:
  r"""Trains only the tokens that the model finds likely enough.

  .. math:: w_t = 1[p_t(x_t) \ge q] \quad\text{or}\quad
            p_t(x_t)\,1[p_t(x_t) \ge q]

  The paper divides by the number of tokens kept: `denominator='kept'`.

  Args:
    stats: TokenStats of [...]; reads log_p.
    q: the least probability, a Python number in [0, 1].
    keep_p: whether kept tokens are weighted by p.

  Returns:
    w [...], float32, 0 or 1; with keep_p 0 or in [q, 1].

  Raises:
    errors.InputError: q is out of range.

  Source: arXiv:2510.00526.
  """
  if not 0 <= q <= 1:
    raise errors.InputError(f'loss.q={q}: must be in [0, 1]')
  p = jnp.exp(stats.log_p)
  return jnp.where(p >= q, p if keep_p else 1.0, 0.0)


def chord(stats: ddt.TokenStats) -> jax.Array:
  r"""Trains most where the model is undecided about the token.

  .. math:: w_t = p_t(x_t)\,(1 - p_t(x_t))

  Tokens that it never writes and tokens that it always writes have a weight of 0.

  Args:
    stats: TokenStats of [...]; reads log_p.

  Returns:
    w [...], float32, in [0, 1/4].

  Source: arXiv:2508.11408.
  """
  # expm1: 1 - p cancels where p is near 1.
  return jnp.exp(stats.log_p) * -jnp.expm1(stats.log_p)
