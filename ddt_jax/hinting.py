r"""Hinted Decoding's mixture of two next-token distributions.

The hinted stream p has read the reference solution, the student stream q the
question alone. Where p is sure of itself it decides; where p has a choice, q's
habits do. Source: arXiv:2602.12222, section on Hinted Decoding.
"""

import math

import jax
import jax.numpy as jnp

SCHEDULES = ('linear', 'sigmoid', 'piecewise')


def entropy(logits: jax.Array) -> jax.Array:
  r"""Shannon entropy of softmax(logits), with one exponential a token.

  .. math:: H = \ln Z - \frac{1}{Z} \sum_v e^{x_v} x_v, \quad
    Z = \sum_v e^{x_v}, \quad x = logits - \max logits

  Args:
    logits: [..., V]; -inf rules a token out.

  Returns:
    H [...], nats.
  """
  # At -inf the product is 0, not 0 times -inf.
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
  r"""The student's share of the mixture, from the entropy of the hinted stream.

  With h = H[p] / ln V, the normalised entropy:

  .. math::
    \text{linear:} \quad & \lambda = \mathrm{clip}(\beta h, 0, 1) \\
    \text{sigmoid:} \quad & \lambda = 1 / (1 + e^{-\beta (h - center)}) \\
    \text{piecewise:} \quad & \lambda = \mathrm{clip}(
        (h - low) / (high - low), 0, 1)

  Args:
    entropy_p: [...], H[p] at temperature 1, nats.
    vocab_size: V, that of the model (padded rows included).
    schedule: linear | sigmoid | piecewise.
    beta: slope; linear with 0 leaves p alone. Not used by piecewise.
    center: the h where sigmoid is 1/2.
    bounds: (low, high) of piecewise.

  Returns:
    lam [...], in [0, 1].

  Example:
    >>> entropy_p = jnp.array([0.0, math.log(16.0)])  # h = 0 and 1/2
    >>> hint_weight(entropy_p, 256, beta=1.0)
    Array([0. , 0.5], dtype=float32)

  Source: arXiv:2602.12222; sigmoid and piecewise are the official code's.
  """
  h = entropy_p / math.log(vocab_size)
  if schedule == 'linear':
    return jnp.clip(beta * h, 0.0, 1.0)
  if schedule == 'sigmoid':
    return jax.nn.sigmoid(beta * (h - center))
  if schedule == 'piecewise':
    low, high = bounds
    if not low < high:
      raise ValueError(f'hint.bounds {bounds}: the first must be the smaller')
    return jnp.clip((h - low) / (high - low), 0.0, 1.0)
  raise ValueError(f'hint.schedule {schedule!r}: choose from {SCHEDULES}')


def mix(log_p: jax.Array, log_q: jax.Array, lam: jax.Array) -> jax.Array:
  r"""The geometric mixture of two distributions, not normalised.

  .. math:: \log m = (1 - \lambda) \log p + \lambda \log q

  A token that a stream rules out (-inf) is ruled out of the mixture, unless
  that stream has no say.

  Args:
    log_p: [..., V], the hinted stream, up to a constant (logits will do).
    log_q: [..., V], the student stream, likewise.
    lam: [...], the student's share, see `hint_weight`.

  Returns:
    log m [..., V]; a softmax follows, so no normaliser is subtracted.

  Source: arXiv:2602.12222, Hinted Decoding.
  """
  lam = jnp.asarray(lam)[..., None]
  # 0 * -inf is NaN: a stream without a share adds exactly nothing.
  from_p = jnp.where(lam < 1, (1 - lam) * log_p, 0.0)
  from_q = jnp.where(lam > 0, lam * log_q, 0.0)
  return from_p + from_q
