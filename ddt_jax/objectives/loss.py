"""Token weights: every objective is -sum w_t log p_t / N with its own w_t.

  sft   w = 1
  dft   w = p                      arXiv:2508.05629
  idft  w = p^gamma(phi)           arXiv:2602.12222

A weighting scheme is one function of `ddt.TokenStats`; add it to `WEIGHTS` and
every trainer option (denominator, statistics, sharding) works with it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import ddt

# Edges of the phi histogram, nats; the outer bins also take what lies beyond.
PHI_EDGES = np.linspace(-10.0, 4.0, 57)


def curriculum(
    step: int | jax.Array,
    total: int | None,
    *,
    warmup_ratio: float,
    transition_ratio: float,
) -> jax.Array:
  r"""Strength lam of IDFT at a step: 0, then rising linearly, then 1.

  .. math:: \lambda = \mathrm{clip}((\mathrm{step}/\mathrm{total} - a) / b, 0, 1)

  for a warm-up ratio a and a transition ratio b; a step at a where b = 0.

  Args:
    step: counted from 0 over the whole run, also across resumes.
    total: steps of the run; None: always 1.
    warmup_ratio: a, the share of steps at lam = 0 (where IDFT is DFT).
    transition_ratio: b.

  Returns:
    lam, float32 scalar.
  """
  if total is None:
    return jnp.float32(1.0)
  past = jnp.float32(step) / total - warmup_ratio
  # The first steps past a ratio must not fall back by a rounding error.
  past = jnp.where(jnp.abs(past) < 1e-6, 0.0, past)
  if transition_ratio == 0:
    return jnp.where(past >= 0, 1.0, 0.0)
  return jnp.clip(past / transition_ratio, 0.0, 1.0)


def idft_exponent(
    phi: jax.Array,
    *,
    beta: float = 1.0,
    gamma_min: float = 0.1,
    gamma_max: float = 2.0,
    curriculum: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Exponent gamma of IDFT's weight p^gamma.

  .. math:: \gamma = 1 + \lambda\,(\mathrm{clip}(e^{-\phi/\beta},
            \gamma_{min}, \gamma_{max}) - 1)

  Natural tokens (phi > 0) get a gamma below 1 and a weight nearer to SFT's;
  unnatural ones (phi < 0) a gamma above 1 and a weight below DFT's. Clipping
  comes before the curriculum, so that lam = 0 is DFT.

  Args:
    phi: [...], nats.
    beta: > 0, temperature of the map.
    gamma_min, gamma_max: bounds.
    curriculum: lam in [0, 1].

  Returns:
    gamma [...], float32.
  """
  gamma = jnp.clip(jnp.exp(-phi / beta), gamma_min, gamma_max)
  return 1.0 + curriculum * (gamma - 1.0)


# Options are shared, so that a config changes its objective by the name alone;
# a scheme takes what it knows.
def _sft(stats: ddt.TokenStats, **_: Any) -> jax.Array:
  return jnp.ones_like(stats.log_p)


def _dft(stats: ddt.TokenStats, **_: Any) -> jax.Array:
  return jnp.exp(stats.log_p)


def _idft(stats: ddt.TokenStats, **options: Any) -> jax.Array:
  # The exponent is a constant under either `weight_grad`.
  gamma = jax.lax.stop_gradient(idft_exponent(stats.phi, **options))
  return jnp.exp(gamma * stats.log_p)


WEIGHTS: dict[str, Callable[..., jax.Array]] = {
    'sft': _sft, 'dft': _dft, 'idft': _idft,
}


def token_weights(
    name: str, stats: ddt.TokenStats, **options: Any
) -> jax.Array:
  """Weights w_t of an objective, not yet stop-gradiented.

  Args:
    name: a key of `WEIGHTS`.
    stats: TokenStats of [...].
    **options: the scheme's own; idft: those of `idft_exponent`.

  Returns:
    weights [...], float32, >= 0.
  """
  if name not in WEIGHTS:
    raise ValueError(f'objective {name!r}: choose from {sorted(WEIGHTS)}')
  return WEIGHTS[name](stats, **options)


def constant_weights(
    name: str, *, weight_grad: str = 'stop', denominator: str = 'tokens',
    **options: Any,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  r"""What `vocab_head.weighted_nll` asks for: (w, v) of a token's statistics.

  .. math:: v_t = -\partial (-w_t \log p_t) / \partial \log p_t

  which is w where it is taken as a constant, and w (1 + gamma log p) for
  p^gamma under weight_grad='through'.

  Args:
    name, weight_grad, **options: as in `token_loss`.
    denominator: of no concern here.

  Returns:
    A function of (stats, extras); extras are further options, traced.
  """
  del denominator

  def weights(stats, extras):
    def of(log_p):
      return token_weights(
          name, stats.replace(log_p=log_p), **options, **(extras or {}))

    w = of(stats.log_p)
    if weight_grad == 'stop':
      return w, w
    through = jax.grad(lambda log_p: jnp.sum(of(log_p) * log_p))
    return w, through(stats.log_p)

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

  Divide once, over the global batch: sum and count add over micro-batches and
  devices.

  Args:
    name: a key of `WEIGHTS`.
    stats: TokenStats of [...].
    mask: [...], 1 (or a float weight) where the token is supervised.
    denominator: 'tokens' counts supervised tokens; 'kept' those among them
      whose weight is not 0.
    weight_grad: 'stop' treats w as a constant (the paper's formula); 'through'
      also differentiates p in p^gamma, as the official code did at first,
      which unlearns tokens with p < e^(-1/gamma).
    **options: the scheme's own, see `token_weights`.

  Returns:
    (sum, count, metrics): float32 scalars; metrics are sums over the mask, to
    be read with `summarise`.
  """
  # Of what is masked nothing may leak, not even 0 * -inf.
  stats = stats.map(lambda x: jnp.where(mask > 0, x, 0.0))
  weight = token_weights(name, stats, **options)
  if weight_grad == 'stop':
    weight = jax.lax.stop_gradient(weight)
  elif weight_grad != 'through':
    raise ValueError(f"weight_grad {weight_grad!r}: 'stop' or 'through'")
  if denominator == 'tokens':
    counted = mask
  elif denominator == 'kept':
    counted = mask * (weight > 0)
  else:
    raise ValueError(f"denominator {denominator!r}: 'tokens' or 'kept'")
  loss = -jnp.sum(mask * weight * stats.log_p)
  metrics = _sums(stats, weight, mask)
  if name == 'idft':
    metrics['clipped'] = _clipped(stats.phi, mask, **options)
  return loss, jnp.sum(counted), jax.lax.stop_gradient(metrics)


def _sums(stats, weight, mask) -> dict[str, jax.Array]:
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


def _clipped(
    phi, mask, *, beta=1.0, gamma_min=0.1, gamma_max=2.0, curriculum=1.0
) -> jax.Array:
  del curriculum  # clipping comes first
  gamma = jnp.exp(-phi / beta)
  return jnp.sum(mask * ((gamma < gamma_min) | (gamma > gamma_max)))


def summarise(sums: dict[str, Any]) -> dict[str, Any]:
  """Sums of `token_loss`, added up over anything, as numbers to read.

  Returns:
    nll, phi, entropy, weight: means per supervised token;
    ess: effective sample size (sum w)^2 / sum w^2 as a share of the tokens;
    clipped: share of gamma outside its bounds (idft); tokens.
  """
  tokens = max(float(sums['tokens']), 1.0)
  means = {
      name: float(sums[name]) / tokens
      for name in ('nll', 'phi', 'entropy', 'weight', 'clipped')
      if name in sums
  }
  squares = float(sums['weight_squared'])
  ess = float(sums['weight']) ** 2 / squares / tokens if squares else 0.0
  return means | {'ess': ess, 'tokens': float(sums['tokens'])}
