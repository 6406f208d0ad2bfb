r"""Weights relative to another model's log-probability of the token: psft, iw_sft.

  psft    w = r 1[r <= high]                          r = p / p_old
  iw_sft  w = clip(exp(T mean_t log(p / p_ref)), 0, most)    one for a sequence

The other model's log p is computed without a gradient and comes as an option.
"""

import math

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors


def psft(
    stats: ddt.TokenStats, *, old_log_p: jax.Array, high: float = 1.28
) -> jax.Array:
  r"""Proximal SFT: PPO's clipped ratio with an advantage of 1.

  .. math:: w_t = r_t\,1[r_t \le \mathrm{high}], \qquad
            r_t = p_t(x_t) / p^{old}_t(x_t)

  The paper's loss -min(r, clip(r, 0.8, high)) has the gradient of this weight. Its
  lower bound never acts, since the minimum takes r below it.

  Args:
    stats: TokenStats of [...]; reads log_p.
    old_log_p: [...], log p of the token under the parameters of some steps ago,
      nats.
    high: the largest ratio that is still trained, a Python number > 0.

  Returns:
    w [...], float32, in [0, high].

  Raises:
    errors.InputError: high is out of range.

  Source: arXiv:2508.17784; there the old parameters are 8 steps old at most.
  """
  if not high > 0:
    raise errors.InputError(f'loss.high={high}: must be > 0')
  gap = stats.log_p - old_log_p
  # Before exp, so that a ratio beyond the range of float32 is no inf * 0.
  return jnp.exp(jnp.where(gap <= math.log(high), gap, -jnp.inf))


def iw_sft(
    stats: ddt.TokenStats,
    *,
    reference_log_p: jax.Array,
    mask: jax.Array,
    segment_ids: jax.Array | None = None,
    temperature: float = 1.0,
    most: float = 16.0,
) -> jax.Array:
  r"""Importance-weighted SFT: one weight for each sequence.

  .. math:: w = \mathrm{clip}\Big(\exp\big(T\,\mathrm{mean}_t\,
            (\log p_t - \log p^{ref}_t)\big), 0, \mathrm{most}\Big)

  The mean is over the supervised tokens of the last axis. A weight reads the whole
  sequence, so it takes the route by `vocab_head.token_stats`.

  Args:
    stats: TokenStats of [..., T]; reads log_p.
    reference_log_p: [..., T], log p of the token under the reference model, nats.
    mask: [..., T], > 0 where the token is supervised.
    segment_ids: [..., T], from 0 to T: which sequence of a packed row a token
      belongs to. None if a row is one sequence.
    temperature: T > 0, a Python number.
    most: the largest weight, a Python number > 0.

  Returns:
    w [..., T], float32, in [0, most], the same at every token of a sequence.

  Raises:
    errors.InputError: temperature or most is out of range.

  Source: arXiv:2507.12856.
  """
  for name, value in (('temperature', temperature), ('most', most)):
    if not value > 0:
      raise errors.InputError(f'loss.{name}={value}: must be > 0')
  # where, not a product: a token that is not supervised may hold -inf.
  gap = jnp.where(mask > 0, mask * (stats.log_p - reference_log_p), 0.0)
  weight = _sequence_sum(mask, segment_ids)
  mean = _sequence_sum(gap, segment_ids) / jnp.where(weight > 0, weight, 1.0)
  # min before exp, which may overflow.
  return jnp.exp(jnp.minimum(temperature * mean, math.log(most))) * jnp.ones_like(
      stats.log_p)


def _sequence_sum(x, segment_ids):
  """The sum over each token's sequence: [..., T], or [..., 1] for one a row."""
  if segment_ids is None:
    return jnp.sum(x, -1, keepdims=True)
  time = x.shape[-1]

  def of_row(x, ids):
    return jax.ops.segment_sum(x, ids, time + 1)[ids]

  return jax.vmap(of_row)(
      x.reshape(-1, time), segment_ids.reshape(-1, time)).reshape(x.shape)
