r"""Losses on pairs of a chosen and a rejected response to the same prompt.

Both losses push up a *margin* h between the two:

  DPO    h = beta [(log pi_c - log ref_c) - (log pi_r - log ref_r)]
  SimPO  h = beta [log pi_c / |c| - log pi_r / |r|] - gamma

pi is the model, ref its reference, c the chosen and r the rejected response, and
|.| a number of tokens. The log-probabilities are sums over a response's tokens.

The metrics have the names that TRL users know. They are values per pair, so that
sums over micro-batches and devices divide by the number of pairs once.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import errors

# Stands for log 0. Finite, since the difference of two -inf is NaN.
_LOG_ZERO = -1e30


def dpo(
    chosen: jax.Array,
    rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  r"""Direct preference optimisation.

  .. math:: L = -(1 - e) \log \sigma(h) - e \log \sigma(-h)

  .. math:: h = \beta \left[\log \frac{\pi(c)}{\mathrm{ref}(c)}
      - \log \frac{\pi(r)}{\mathrm{ref}(r)}\right]

  Args:
    chosen, rejected: log-probabilities of the responses under the model [B], nats,
      summed over their tokens.
    reference_chosen, reference_rejected: likewise under the reference [B].
    beta: > 0; the larger, the closer the model stays to the reference.
    label_smoothing: e in [0, 0.5), the share of pairs believed to be labelled the
      wrong way round.

  Returns:
    (losses [B], metrics [B] by name). A reward is beta log(pi / ref).

  Raises:
    errors.InputError: beta or label_smoothing out of range.

  Example:
    >>> losses, metrics = dpo(*jnp.array([[-1.0], [-9.0], [-2.0], [-2.0]]))
    >>> round(float(metrics['rewards/margins'][0]), 4)  # 0.1 (1 + 7)
    0.8
    >>> round(float(losses[0]), 4)  # -log sigmoid(0.8)
    0.3711

  Source: arXiv:2305.18290, equation 7; label smoothing as in the authors' note
  on conservative DPO.
  """
  _check('beta', beta, beta > 0, 'above 0')
  _check('label_smoothing', label_smoothing, 0 <= label_smoothing < 0.5,
         'in [0, 0.5)')
  reward_chosen = beta * (_finite(chosen) - _finite(reference_chosen))
  reward_rejected = beta * (_finite(rejected) - _finite(reference_rejected))
  h = reward_chosen - reward_rejected
  losses = -(1 - label_smoothing) * jax.nn.log_sigmoid(h)
  if label_smoothing:
    losses -= label_smoothing * jax.nn.log_sigmoid(-h)
  return losses, _metrics(reward_chosen, reward_rejected)


def simpo(
    chosen: jax.Array,
    rejected: jax.Array,
    chosen_tokens: jax.Array,
    rejected_tokens: jax.Array,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  r"""Simple preference optimisation: a mean log-probability, and no reference.

  .. math:: L = -\log \sigma\left(\beta \left[\frac{\log \pi(c)}{|c|}
      - \frac{\log \pi(r)}{|r|}\right] - \gamma\right)

  Args:
    chosen, rejected: log-probabilities of the responses under the model [B], nats,
      summed over their tokens.
    chosen_tokens, rejected_tokens: numbers of tokens in the sums [B].
    beta: > 0; the authors use 2.0 to 2.5.
    gamma: >= 0, the margin asked for; the authors use about half of beta.

  Returns:
    (losses [B], metrics [B] by name). A reward is beta log(pi) / |.|, and the
    margins are those before gamma.

  Raises:
    errors.InputError: beta or gamma out of range.

  Example:
    >>> losses, _ = simpo(*jnp.array([[-2.0], [-8.0], [4.0], [4.0]]))
    >>> round(float(losses[0]), 4)  # -log sigmoid(2 (-0.5 + 2) - 1)
    0.1269

  Source: arXiv:2405.14734, equation 6.
  """
  _check('beta', beta, beta > 0, 'above 0')
  _check('gamma', gamma, gamma >= 0, 'at least 0')
  # An empty response has log-probability 0; its mean is 0 too.
  reward_chosen = beta * _finite(chosen) / jnp.maximum(chosen_tokens, 1)
  reward_rejected = beta * _finite(rejected) / jnp.maximum(rejected_tokens, 1)
  losses = -jax.nn.log_sigmoid(reward_chosen - reward_rejected - gamma)
  return losses, _metrics(reward_chosen, reward_rejected)


def _finite(log_p: jax.Array) -> jax.Array:
  return jnp.maximum(log_p, _LOG_ZERO)


def _metrics(
    reward_chosen: jax.Array, reward_rejected: jax.Array
) -> dict[str, jax.Array]:
  margins = reward_chosen - reward_rejected
  return jax.lax.stop_gradient({
      'rewards/chosen': reward_chosen,
      'rewards/rejected': reward_rejected,
      'rewards/margins': margins,
      # A tie is no success: a model that prefers neither has accuracy 0.
      'rewards/accuracies': (margins > 0).astype(jnp.float32),
  })


def _check(name: str, value: Any, valid: bool, wanted: str) -> None:
  if not valid:
    raise errors.InputError(f'preference.{name}={value}: must be {wanted}')
