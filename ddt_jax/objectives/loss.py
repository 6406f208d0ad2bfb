"""The loss of a batch: weighted mean of the negative log-likelihood, and metrics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax.objectives import schemes

# Edges of the phi histogram, nats; the outer bins also count the values beyond.
PHI_EDGES = np.linspace(-10.0, 4.0, 57)
DENOMINATORS = ('tokens', 'kept')


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

  Divide once, over the global batch: sum and count add over micro-batches and
  devices.

  Args:
    name: a key of `WEIGHTS`.
    stats: TokenStats of [...].
    mask: [...], 1 (or a float weight) where the token is supervised.
    denominator: 'tokens' counts supervised tokens; 'kept' counts only those
      with a weight above 0.
    weight_grad: 'stop' treats w as a constant (the paper's formula). 'through'
      also differentiates p in p^gamma, as the official code did until March
      2026; it unlearns tokens with p < e^(-1/gamma).
    **options: keyword arguments of the scheme's function.

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
    raise errors.InputError(
        f'loss.denominator={denominator!r}: choose from {DENOMINATORS}')
  schemes.check_weight_grad(weight_grad)
  # Masked tokens may hold -inf: 0 * -inf would be NaN.
  stats = stats.map(lambda x: jnp.where(mask > 0, x, 0.0))
  weight = schemes.token_weights(name, stats, **options)
  if weight_grad == 'stop':
    weight = jax.lax.stop_gradient(weight)
  counted = mask if denominator == 'tokens' else mask * (weight > 0)
  loss = -jnp.sum(mask * weight * stats.log_p)
  metrics = _metric_sums(stats, weight, mask)
  options = schemes.options_of(name) | options
  for metric, per_token in schemes.METRICS.get(name, {}).items():
    metrics[metric] = jnp.sum(mask * per_token(stats, **options))
  return loss, jnp.sum(counted), jax.lax.stop_gradient(metrics)


def _metric_sums(stats, weight, mask) -> dict[str, jax.Array]:
  low, high, bins = PHI_EDGES[0], PHI_EDGES[-1], len(PHI_EDGES) - 1
  place = jnp.floor((stats.phi - low) * (bins / (high - low)))
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
    clipped, the share of tokens with a clipped gamma); ess, the effective sample
    size as a share of the tokens; tokens, their number.
  """
  tokens = max(float(sums['tokens']), 1.0)
  own = [metric for of in schemes.METRICS.values() for metric in of]
  means = {
      name: float(sums[name]) / tokens
      for name in ('nll', 'phi', 'entropy', 'weight', *own)
      if name in sums
  }
  squares = float(sums['weight_squared'])
  ess = float(sums['weight']) ** 2 / squares / tokens if squares else 0.0
  return means | {'ess': ess, 'tokens': float(sums['tokens'])}


def pick(name: str, **options: Any) -> dict[str, Any]:
  """Arguments of one objective out of options that all objectives share.

  A config changes its objective by the name alone: `configs/sft.py` keeps beta,
  which only idft has. Commands pass `**objectives.pick(**c.loss)`.

  Args:
    name: a key of `WEIGHTS`.
    **options: of `token_loss` and of any scheme.

  Returns:
    Keyword arguments of `token_loss`: name, its own options, the scheme's.

  Raises:
    errors.InputError: an unknown name, or an option that no objective has.

  Example:
    >>> pick('sft', beta=0.5, denominator='kept')
    {'name': 'sft', 'denominator': 'kept'}
  """
  common = ('denominator', 'weight_grad')
  taken = {*common, *schemes.options_of(name)}
  known = {*common, *(o for s in schemes.WEIGHTS for o in schemes.options_of(s))}
  for option in options:
    if option not in known:
      raise errors.InputError(
          f'loss has {option!r}, an option of no objective; known are'
          f' {", ".join(sorted(known))}'
      )
  return {'name': name} | {k: v for k, v in options.items() if k in taken}
