r"""Token weights: every objective is -sum_t w_t log p_t / N with its own w_t.

  sft   w = 1
  dft   w = p                      arXiv:2508.05629
  idft  w = p^gamma(phi)           arXiv:2602.12222

A new objective takes three steps:

  1. write one public function here: `weights(stats, *, options) -> [...]`. Keyword
     arguments are its options; the ones that a training step computes anew, like
     `curriculum`, are offered by `training.train_step` and passed if they are
     among them.
  2. add its line to `WEIGHTS`. Every other part (denominator, metrics,
     sharding, both ways through the vocabulary head) then works with it.
  3. if it has metrics of its own, add them to `METRICS`.
"""

from collections.abc import Callable
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors

# The paper's settings of IDFT.
BETA, GAMMA_MIN, GAMMA_MAX = 1.0, 0.1, 2.0
WEIGHT_GRADS = ('stop', 'through')

# The schemes ---------------------------------------------------------------------


def sft(stats: ddt.TokenStats) -> jax.Array:
  r"""Supervised fine-tuning: every token has the same weight.

  .. math:: w_t = 1

  Args:
    stats: TokenStats of [...]; only its shape is read.

  Returns:
    w [...], float32, 1.

  Source: the plain negative log-likelihood.
  """
  return jnp.ones_like(stats.log_p)


def dft(stats: ddt.TokenStats) -> jax.Array:
  r"""Dynamic fine-tuning: every token is weighted by its own probability.

  .. math:: w_t = p_t(x_t)

  The gradient of w log p by the logits then has the size p (1 - p) at the token,
  so tokens that the model finds impossible no longer dominate it.

  Args:
    stats: TokenStats of [...]; reads log_p.

  Returns:
    w [...], float32, in [0, 1].

  Source: arXiv:2508.05629.
  """
  return jnp.exp(stats.log_p)


def idft(
    stats: ddt.TokenStats,
    *,
    beta: float = BETA,
    gamma_min: float = GAMMA_MIN,
    gamma_max: float = GAMMA_MAX,
    curriculum: float | jax.Array = 1.0,
) -> jax.Array:
  r"""In-distribution fine-tuning: DFT with an exponent that follows phi.

  .. math:: w_t = p_t(x_t)^{\gamma_t}, \qquad \gamma_t \text{ of `idft_exponent`}

  gamma = 0 is SFT and gamma = 1 is DFT. The exponent is a constant for the
  gradient, under either `weight_grad` of `token_loss`.

  Args:
    stats: TokenStats of [...]; reads log_p and entropy (by phi).
    beta, gamma_min, gamma_max, curriculum: see `idft_exponent`.

  Returns:
    w [...], float32, in [0, 1].

  Raises:
    errors.InputError: see `idft_exponent`.

  Source: arXiv:2602.12222, section on In-Distribution Finetuning.
  """
  gamma = jax.lax.stop_gradient(idft_exponent(
      stats.phi, beta=beta, gamma_min=gamma_min, gamma_max=gamma_max,
      curriculum=curriculum,
  ))
  return jnp.exp(gamma * stats.log_p)


def idft_exponent(
    phi: jax.Array,
    *,
    beta: float = BETA,
    gamma_min: float = GAMMA_MIN,
    gamma_max: float = GAMMA_MAX,
    curriculum: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Exponent gamma of IDFT's weight p^gamma.

  .. math:: \gamma = 1 + \lambda\,(\mathrm{clip}(e^{-\phi/\beta},
            \gamma_{min}, \gamma_{max}) - 1)

  Natural tokens (phi > 0) get a gamma below 1, so a weight nearer to SFT's.
  Unnatural tokens (phi < 0) get a gamma above 1, so a weight below DFT's.
  The clipping comes before the curriculum, so lam = 0 is DFT.

  Args:
    phi: [...], nats.
    beta: a Python number > 0, nats: temperature of the map from phi to gamma.
    gamma_min, gamma_max: bounds, Python numbers with 0 <= gamma_min <= gamma_max.
    curriculum: lam in [0, 1]; may be traced.

  Returns:
    gamma [...], float32.

  Raises:
    errors.InputError: beta or the bounds are out of range.

  Example:
    >>> phi = jnp.array([-9.0, 0.0, 9.0])  # unnatural, as expected, natural
    >>> idft_exponent(phi, gamma_min=0.125)
    Array([2.   , 1.   , 0.125], dtype=float32)

  Source: arXiv:2602.12222, section on In-Distribution Finetuning; the curriculum
  is the official code's.
  """
  _check_exponent(beta, gamma_min, gamma_max)
  gamma = jnp.clip(jnp.exp(-phi / beta), gamma_min, gamma_max)
  return 1.0 + curriculum * (gamma - 1.0)


def idft_clipped(
    stats: ddt.TokenStats,
    *,
    beta: float,
    gamma_min: float,
    gamma_max: float,
    curriculum: float | jax.Array,
) -> jax.Array:
  r"""Whether a token's gamma was clipped, bool [...].

  .. math:: e^{-\phi/\beta} \notin [\gamma_{min}, \gamma_{max}]

  Args:
    stats, beta, gamma_min, gamma_max, curriculum: see `idft`.

  Returns:
    bool [...].
  """
  del curriculum  # the clipping comes before it
  gamma = jnp.exp(-stats.phi / beta)
  return (gamma < gamma_min) | (gamma > gamma_max)


# The tables ----------------------------------------------------------------------

WEIGHTS: dict[str, Callable[..., jax.Array]] = {
    'sft': sft,
    'dft': dft,
    'idft': idft,
}
# Metrics of a scheme beside those of every objective: name -> function of
# (stats, **all its options), per token. `token_loss` sums them over the mask.
METRICS: dict[str, dict[str, Callable[..., jax.Array]]] = {
    'idft': {'clipped': idft_clipped},
}

# Their use -----------------------------------------------------------------------


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
  check_options(name, options)
  return WEIGHTS[name](stats, **options)


def constant_weights(
    name: str, *, weight_grad: str = 'stop', **options: Any
) -> Callable[[ddt.TokenStats, Any], tuple[jax.Array, jax.Array]]:
  r"""Loss weight w and gradient weight v for `vocab_head.weighted_nll`.

  .. math:: v_t = -\partial (-w_t \log p_t) / \partial \log p_t

  v is w where w is a constant ('stop'). Under 'through' it is
  w (1 + gamma log p) for w = p^gamma.

  Args:
    name, weight_grad, **options: see `token_loss`.

  Returns:
    A function (stats, extras) -> (w, v), both [...]. `extras` holds further
    options of the scheme, which may be traced; None for none.

  Raises:
    errors.InputError: an unknown name or weight_grad.
    TypeError: an option that the scheme does not have.
  """
  check_options(name, options)
  check_weight_grad(weight_grad)

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


def options_of(name: str) -> dict[str, Any]:
  """Options of an objective, with their defaults.

  Args:
    name: a key of `WEIGHTS`.

  Returns:
    {option: default}; `inspect.Parameter.empty` where there is no default.

  Raises:
    errors.InputError: an unknown name.

  Example:
    >>> options_of('idft')
    {'beta': 1.0, 'gamma_min': 0.1, 'gamma_max': 2.0, 'curriculum': 1.0}
  """
  if name not in WEIGHTS:
    raise errors.InputError(
        f'loss.name={name!r}: choose from {sorted(WEIGHTS)}')
  parameters = inspect.signature(WEIGHTS[name]).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def traced_options(name: str, **offered: Any) -> dict[str, Any]:
  """The offered values that an objective has an option for.

  A training step offers what it computes anew each time; `sft` takes none of it.

  Args:
    name: a key of `WEIGHTS`.
    **offered: values by option, which may be traced.

  Returns:
    A part of `offered`.

  Raises:
    errors.InputError: an unknown name.

  Example:
    >>> traced_options('idft', curriculum=0.5), traced_options('sft', curriculum=0.5)
    ({'curriculum': 0.5}, {})
  """
  known = options_of(name)
  return {key: value for key, value in offered.items() if key in known}


def check_options(name: str, options: dict[str, Any]) -> None:
  """Raises TypeError for an option that the objective does not have."""
  known = options_of(name)
  for option in options:
    if option not in known:
      raise TypeError(
          f'objective {name!r} has no option {option!r}; its options:'
          f' {", ".join(known) or "none"}'
      )


def check_weight_grad(weight_grad: str) -> None:
  """Raises InputError for an unknown `weight_grad` of `token_loss`."""
  if weight_grad not in WEIGHT_GRADS:
    raise errors.InputError(
        f'loss.weight_grad={weight_grad!r}: choose from {WEIGHT_GRADS}')


def _check_exponent(beta: float, gamma_min: float, gamma_max: float) -> None:
  if not beta > 0:
    raise errors.InputError(f'loss.beta={beta}: must be > 0')
  if not 0 <= gamma_min <= gamma_max:
    raise errors.InputError(
        f'loss.gamma_min={gamma_min}, loss.gamma_max={gamma_max}: must be'
        ' 0 <= gamma_min <= gamma_max'
    )
