"""The loss of a batch: token weights, their weighted mean, and its metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax.objectives import scheme_options
from ddt_jax.objectives import schemes

# Edges of the phi histogram, nats; the outer bins also count the values beyond.
PHI_EDGES = np.linspace(-10.0, 4.0, 57)  # bins of 1/4 nat, so that 0 is an edge
DENOMINATORS = ('tokens', 'kept')
WEIGHT_GRADS = ('stop', 'through')


def token_weights(
    name: str, stats: ddt.TokenStats, **options: Any
) -> jax.Array:
  """Weights w_t of an objective, not yet stop-gradiented.

  Args:
    name: a key of `WEIGHTS`.
    stats: TokenStats of [...].
    **options: keyword arguments of the scheme's function.

  Returns:
    weights [...], float32, >= 0.

  Raises:
    errors.InputError: an unknown name, or an option out of range.
    TypeError: an option that the scheme does not have.
  """
  scheme_options.check_options(name, options)
  return schemes.WEIGHTS[name](stats, **options)


def constant_weights(
    name: str, *, weight_grad: str = 'stop', **options: Any
) -> Callable[[ddt.TokenStats, Any], tuple[jax.Array, jax.Array]]:
  r"""Builds the function (stats, traced) -> (w, v) for `vocab_head.weighted_nll`.

  w weights the loss, v the gradient:

  .. math:: v_t = \partial (w_t \log p_t) / \partial \log p_t

  Under 'stop' w is a constant, so v = w. Under 'through' v = w (1 + gamma log p)
  for w = p^gamma.

  Args:
    name, weight_grad: see `token_loss`.
    **options: static options of the scheme.

  Returns:
    A function (stats, traced) -> (w, v), both [...]. `traced` is a dict of further
    options of the scheme, as JAX arrays, or None. The function's attribute `needs`
    names the statistics beyond log_p and entropy, see `needs`.

  Raises:
    errors.InputError: an unknown name or weight_grad.
    TypeError: an option that the scheme does not have.
    ValueError: the weight reads a whole sequence.
  """
  scheme_options.check_options(name, options)
  _check_weight_grad(weight_grad)
  if name in schemes.SEQUENCE:
    # Tiles hold tokens of several sequences, in another order.
    raise ValueError(
        f'{name} weighs whole sequences: use vocab_head.token_stats and token_loss')

  def weights(stats, traced):
    def weight_of(log_p):
      return token_weights(
          name, stats.replace(log_p=log_p), **options, **(traced or {}))

    w = weight_of(stats.log_p)
    if weight_grad == 'stop':
      return w, w
    # Of a sum: w depends on its own token alone, so the Jacobian is diagonal.
    through = jax.grad(lambda log_p: jnp.sum(weight_of(log_p) * log_p))
    return w, through(stats.log_p)

  weights.needs = scheme_options.needs(name, **options)
  return weights


def token_loss(
    name: str,
    stats: ddt.TokenStats,
    mask: jax.Array,
    *,
    denominator: str = 'tokens',
    weight_grad: str = 'stop',
    **options: Any,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
  r"""Weighted negative log-likelihood as a sum and the count to divide it by.

  .. math:: L = -\sum_t m_t w_t \log p_t \;/\; N

  The caller divides once, over the global batch: sums and counts are added over
  micro-batches and devices first.

  Args:
    name: a key of `WEIGHTS`.
    stats: TokenStats of [...].
    mask: [...], 1 (or a float weight) where the token is supervised.
    denominator: 'tokens' counts supervised tokens; 'kept' counts only those
      with a weight above 0.
    weight_grad: 'stop' treats w as a constant (the paper's formula). 'through'
      also differentiates p in p^gamma, as the official code did until March
      2026. It lowers p of tokens with p < e^(-1/gamma), which unlearns them.
    **options: keyword arguments of the scheme's function, without `mask`.

  Returns:
    (sum, count, metrics): float32 scalars, and sums over the mask by name, which
    `summarise` turns into means.

  Raises:
    errors.InputError: an unknown name, denominator or weight_grad, or an option
      out of range.
    TypeError: an option that the scheme does not have.

  Example:
    >>> stats = ddt.token_stats(jnp.zeros([3, 4]), jnp.arange(3))  # p = 1/4
    >>> total, count, _ = token_loss('dft', stats, jnp.array([1.0, 1.0, 0.0]))
    >>> float(total / count)  # ln 4 / 4
    0.34657...

  Source: arXiv:2602.12222, section on In-Distribution Finetuning; reference
  figures of the official code are in tests/golden/loss.
  """
  if denominator not in DENOMINATORS:
    raise errors.no_choice('loss.denominator', denominator, DENOMINATORS)
  _check_weight_grad(weight_grad)
  # Masked tokens may hold -inf: 0 * -inf would be NaN.
  stats = stats.map(lambda x: jnp.where(
      (mask > 0).reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, 0))
  # A weight of a whole sequence averages over its supervised tokens.
  if 'mask' in scheme_options.options_of(name):
    options['mask'] = mask
  weight = token_weights(name, stats, **options)
  if weight_grad == 'stop':
    weight = jax.lax.stop_gradient(weight)
  counted = mask if denominator == 'tokens' else mask * (weight > 0)
  # Weight 0 times a log p of -inf is 0, in the value and in the gradient.
  log_p = jnp.where(weight > 0, stats.log_p, 0.0)
  loss = -jnp.sum(mask * weight * log_p)
  metrics = _metric_sums(stats, weight, mask)
  # A metric of a scheme takes all options, given or default.
  options = scheme_options.options_of(name) | options
  for metric, per_token in schemes.METRICS.get(name, {}).items():
    metrics[metric] = jnp.sum(mask * per_token(stats, **options))
  return loss, jnp.sum(counted), jax.lax.stop_gradient(metrics)


def _check_weight_grad(weight_grad: str) -> None:
  if weight_grad not in WEIGHT_GRADS:
    raise errors.no_choice('loss.weight_grad', weight_grad, WEIGHT_GRADS)


def _metric_sums(stats, weight, mask) -> dict[str, jax.Array]:
  low, high, bins = PHI_EDGES[0], PHI_EDGES[-1], len(PHI_EDGES) - 1
  place = jnp.floor((stats.phi - low) * (bins / (high - low)))
  # [..., bins]; comparisons and a sum fuse, a scatter does not.
  one_hot = jnp.clip(place, 0, bins - 1)[..., None] == jnp.arange(bins)
  return {
      'tokens': jnp.sum(mask),
      'nll': -jnp.sum(mask * stats.log_p),
      'phi': jnp.sum(mask * stats.phi),
      'entropy': jnp.sum(mask * stats.entropy),
      'weight': jnp.sum(mask * weight),
      'weight_squared': jnp.sum(mask * weight**2),
      'phi_histogram': jnp.sum(
          mask[..., None] * one_hot, range(mask.ndim), dtype=jnp.float32
      ),
  }


def summarise(sums: dict[str, Any]) -> dict[str, Any]:
  r"""Means per supervised token from sums of `token_loss`.

  .. math:: \mathrm{ess} = \frac{(\sum_t w_t)^2}{\sum_t w_t^2} \Big/ \sum_t m_t

  Args:
    sums: metrics of `token_loss`, added over micro-batches, steps and devices.

  Returns:
    nll, phi, entropy (nats per token), weight; the scheme's own metrics (idft:
    clipped, the share of tokens with a clipped gamma); kl, the KL of a reference
    to the model (nats per token), where the loss has it; ess, the effective sample
    size as a share of the tokens; tokens, their number.
  """
  tokens = max(float(sums['tokens']), 1.0)
  own = [metric for metrics in schemes.METRICS.values() for metric in metrics]
  means = {
      name: float(sums[name]) / tokens
      for name in ('nll', 'phi', 'entropy', 'weight', *own, 'kl')
      if name in sums
  }
  # All weights may be 0, for p^gamma underflows where p is tiny.
  squares = float(sums['weight_squared'])
  ess = float(sums['weight']) ** 2 / squares / tokens if squares else 0.0
  return means | {'ess': ess, 'tokens': float(sums['tokens'])}
