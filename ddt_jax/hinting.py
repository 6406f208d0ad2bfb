r"""Hinted Decoding's mixture of two next-token distributions.

The hinted stream p has read the question and the reference solution, the student
stream q the question alone. Each token is drawn from a mixture m of both:

  log m = (1 - lam) log p + lam log q + const,    lam = clip(beta H[p] / ln V, 0, 1)

Where p is certain (H[p] near 0), p decides. Where p has a choice, q decides, so
that the text follows the student's own habits.

Source: arXiv:2602.12222, section on Hinted Decoding.
"""

import math

import jax
import jax.numpy as jnp

from ddt_jax import errors

SCHEDULES = ('linear', 'sigmoid', 'piecewise')


def entropy(logits: jax.Array) -> jax.Array:
  r"""Shannon entropy of softmax(logits), with one exponential per logit.

  .. math:: H = \ln Z - \frac{1}{Z} \sum_v e^{x_v} x_v, \quad
    Z = \sum_v e^{x_v}, \quad x = logits - \max logits

  It follows from H = -E[log p] with log p = x - ln Z.

  Args:
    logits: [..., V], normalised or not; -inf rules a token out.

  Returns:
    H [...], nats.

  Example:
    >>> entropy(jnp.array([0.0, 0.0, -jnp.inf]))  # ln 2
    Array(0.6931472, dtype=float32)
  """
  # A finite bound instead of -inf: e^x x is then 0, not 0 * -inf = NaN.
  x = jnp.maximum(logits - jnp.max(logits, -1, keepdims=True), -1e30)
  e = jnp.exp(x)
  z = jnp.sum(e, -1)
  return jnp.log(z) - jnp.sum(e * x, -1) / z


def hint_weight(
    entropy_p: jax.Array,
    vocab_size: int,
    *,
    schedule: str = 'linear',
    beta: float = 0.7,
    center: float = 0.5,
    bounds: tuple[float, float] = (0.3, 0.7),
) -> jax.Array:
  r"""Weight lam of the student stream, from the entropy of the hinted stream.

  With h = H[p] / ln V, the normalised entropy:

  .. math::
    \text{linear:} \quad & \lambda = \mathrm{clip}(\beta h, 0, 1) \\
    \text{sigmoid:} \quad & \lambda = 1 / (1 + e^{-\beta (h - center)}) \\
    \text{piecewise:} \quad & \lambda = \mathrm{clip}(
        (h - low) / (high - low), 0, 1)

  Args:
    entropy_p: [...], H[p] at temperature 1, nats.
    vocab_size: V of the model, padded rows included.
    schedule: linear | sigmoid | piecewise.
    beta: slope of linear and sigmoid; linear with beta = 0 is p alone.
    center: h at which sigmoid is 1/2.
    bounds: (low, high) of piecewise, in units of h.

  Returns:
    lam [...], in [0, 1].

  Raises:
    errors.InputError: an unknown schedule, or bounds out of order.

  Example:
    >>> entropy_p = jnp.array([0.0, math.log(16.0)])  # h = 0 and 1/2
    >>> hint_weight(entropy_p, 256, beta=1.0)
    Array([0. , 0.5], dtype=float32)

  Source: arXiv:2602.12222; sigmoid and piecewise are the official code's.
  """
  # ln V is the largest entropy there is, so h is in [0, 1] for any vocabulary.
  h = entropy_p / math.log(vocab_size)
  if schedule == 'linear':
    return jnp.clip(beta * h, 0.0, 1.0)
  if schedule == 'sigmoid':
    return jax.nn.sigmoid(beta * (h - center))
  if schedule == 'piecewise':
    low, high = bounds
    if not low < high:
      raise errors.InputError(
          f'hint.bounds={bounds}: the first must be below the second')
    return jnp.clip((h - low) / (high - low), 0.0, 1.0)
  raise errors.no_choice('hint.schedule', schedule, SCHEDULES)


def mix(log_p: jax.Array, log_q: jax.Array, lam: jax.Array) -> jax.Array:
  r"""Geometric mixture of two distributions, not normalised.

  .. math:: \log m = (1 - \lambda) \log p + \lambda \log q

  A token that one stream rules out (-inf) is ruled out of the mixture, unless
  that stream has weight 0.

  Args:
    log_p: [..., V], the hinted stream, up to a constant per row (logits work).
    log_q: [..., V], the student stream, likewise.
    lam: [...], weight of the student stream, see `hint_weight`.

  Returns:
    log m [..., V], up to a constant per row; a softmax follows.

  Example:
    >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
    >>> m = jnp.exp(mix(jnp.log(p), jnp.log(q), 0.5))  # sqrt(p q)
    >>> bool(jnp.allclose(m, jnp.sqrt(p * q)))
    True

  Source: arXiv:2602.12222, Hinted Decoding.
  """
  lam = jnp.asarray(lam)[..., None]
  # A stream of weight 0 adds exactly 0; 0 * -inf would be NaN.
  from_p = jnp.where(lam < 1, (1 - lam) * log_p, 0.0)
  from_q = jnp.where(lam > 0, lam * log_q, 0.0)
  return from_p + from_q
