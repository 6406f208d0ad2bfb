r"""Weights that follow phi = log p + H: idft and its variants.

  idft              w = p^gamma(phi)
  phi_mask          idft's where |phi| < bound, else 0
  idft_information  idft's, times min(1, -ln p) where phi > 0
  idft_z            w = p^gamma(z), z = phi / sqrt(varentropy)

IDFT gives natural tokens (phi > 0) a weight near 1, so it also sharpens what the
model does anyway. The last two change one thing about that each.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors

# The paper's settings of IDFT.
BETA, GAMMA_MIN, GAMMA_MAX = 1.0, 0.1, 2.0


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

  gamma = 0 is SFT and gamma = 1 is DFT. Gradients do not pass through gamma, under
  either `weight_grad` of `token_loss`.

  Args:
    stats: TokenStats of [...]; reads log_p and entropy (by phi).
    beta, gamma_min, gamma_max, curriculum: see `idft_exponent`.

  Returns:
    w [...], float32, in [0, 1].

  Raises:
    errors.InputError: see `idft_exponent`.

  Source: arXiv:2602.12222, section on In-Distribution Finetuning.
  """
  return _power(
      stats.log_p, stats.phi, beta=beta, gamma_min=gamma_min, gamma_max=gamma_max,
      curriculum=curriculum)


def _power(log_p: jax.Array, phi: jax.Array, **options: Any) -> jax.Array:
  """p^gamma, gamma a constant; `options` of `idft_exponent`."""
  gamma = jax.lax.stop_gradient(idft_exponent(phi, **options))
  # From log p: p itself underflows to 0, and 0^gamma has no useful gradient.
  return jnp.exp(gamma * log_p)


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
  # exp may overflow to inf for a very unlikely token; the clip bounds it.
  gamma = jnp.clip(jnp.exp(-phi / beta), gamma_min, gamma_max)
  return 1.0 + curriculum * (gamma - 1.0)


def _check_exponent(beta: float, gamma_min: float, gamma_max: float) -> None:
  if not beta > 0:
    raise errors.InputError(f'loss.beta={beta}: must be > 0')
  if not 0 <= gamma_min <= gamma_max:
    raise errors.InputError(
        f'loss.gamma_min={gamma_min}, loss.gamma_max={gamma_max}: must be'
        ' 0 <= gamma_min <= gamma_max'
    )


def idft_clipped(
    stats: ddt.TokenStats,
    *,
    beta: float,
    gamma_min: float,
    gamma_max: float,
    curriculum: float | jax.Array,
) -> jax.Array:
  r"""Marks the tokens whose gamma was clipped.

  .. math:: e^{-\phi/\beta} \notin [\gamma_{min}, \gamma_{max}]

  Args:
    stats, beta, gamma_min, gamma_max, curriculum: see `idft`.

  Returns:
    bool [...].
  """
  del curriculum  # clipping comes before the curriculum
  gamma = jnp.exp(-stats.phi / beta)
  return (gamma < gamma_min) | (gamma > gamma_max)


def phi_mask(
    stats: ddt.TokenStats,
    *,
    bound: float = 5.0,
    one_sided: bool = False,
    beta: float = BETA,
    gamma_min: float = GAMMA_MIN,
    gamma_max: float = GAMMA_MAX,
    curriculum: float | jax.Array = 1.0,
) -> jax.Array:
  r"""IDFT without the tokens whose phi is extreme.

  .. math:: w_t = p_t(x_t)^{\gamma_t}\,1[|\phi_t| < \mathrm{bound}]

  With one_sided the tokens with phi > -bound are trained: only unnatural ones are
  left out.

  Args:
    stats: TokenStats of [...]; reads log_p and entropy.
    bound: nats, a Python number > 0.
    one_sided: whether natural tokens are kept, however large their phi.
    beta, gamma_min, gamma_max, curriculum: see `idft_exponent`.

  Returns:
    w [...], float32, in [0, 1].

  Raises:
    errors.InputError: bound is out of range; see also `idft_exponent`.

  Source: the history of the official code of arXiv:2602.12222; one_sided is this
  project's.
  """
  if not bound > 0:
    raise errors.InputError(f'loss.bound={bound}: must be > 0')
  kept = (stats.phi if one_sided else -jnp.abs(stats.phi)) > -bound
  weight = idft(
      stats, beta=beta, gamma_min=gamma_min, gamma_max=gamma_max,
      curriculum=curriculum)
  return jnp.where(kept, weight, 0.0)


def idft_information(
    stats: ddt.TokenStats,
    *,
    beta: float = BETA,
    gamma_min: float = GAMMA_MIN,
    gamma_max: float = GAMMA_MAX,
    curriculum: float | jax.Array = 1.0,
) -> jax.Array:
  r"""IDFT's weight; that of natural tokens is scaled by their information.

  .. math:: w_t = p_t(x_t)^{\gamma_t} \cdot \begin{cases}
            \min(1, -\ln p_t(x_t)) & \phi_t > 0 \\ 1 & \text{else} \end{cases}

  A token that the model is sure of then has a weight near 0, not near 1.

  Args:
    stats: TokenStats of [...]; reads log_p and entropy (by phi).
    beta, gamma_min, gamma_max, curriculum: see `idft_exponent`.

  Returns:
    w [...], float32, in [0, 1].

  Raises:
    errors.InputError: see `idft_exponent`.

  Source: this project.
  """
  weight = idft(
      stats, beta=beta, gamma_min=gamma_min, gamma_max=gamma_max,
      curriculum=curriculum)
  information = jnp.minimum(-stats.log_p, 1.0)  # nats
  return weight * jnp.where(stats.phi > 0, information, 1.0)


def idft_z(
    stats: ddt.TokenStats,
    *,
    beta: float = BETA,
    gamma_min: float = GAMMA_MIN,
    gamma_max: float = GAMMA_MAX,
    curriculum: float | jax.Array = 1.0,
) -> jax.Array:
  r"""IDFT with phi in units of its own standard deviation under the model.

  .. math:: w_t = p_t(x_t)^{\gamma(z_t)}, \qquad z_t = \phi_t / \sqrt{\nu_t}

  A phi of -1 is common where the model is undecided and rare where it is certain;
  a z of -1 is as unusual everywhere. A token without varentropy has z = 0.

  Args:
    stats: TokenStats of [...]; reads log_p, entropy and varentropy.
    beta: as of `idft_exponent`, of z, hence without a unit.
    gamma_min, gamma_max, curriculum: see `idft_exponent`.

  Returns:
    w [...], float32, in [0, 1].

  Raises:
    errors.InputError: see `idft_exponent`.

  Source: this project.
  """
  z, _ = ddt.z_test(stats.phi, stats.varentropy)
  return _power(
      stats.log_p, z, beta=beta, gamma_min=gamma_min, gamma_max=gamma_max,
      curriculum=curriculum)
