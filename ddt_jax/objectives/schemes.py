r"""Token weights: an objective here is -sum_t w_t log p_t / N with its own w_t.

The losses of pairs and of distillation are in `training/pair_loss.py` and
`training/distill.py`.

  sft        w = 1
  dft        w = p                                   arXiv:2508.05629
  idft       w = p^gamma(phi)                        arXiv:2602.12222
  phi_mask   idft's where |phi| < bound, else 0      the official code's history
  power      w = p^a                                 arXiv:2510.00526
  threshold  w = 1[p >= q], or p 1[p >= q]           arXiv:2510.00526
  chord      w = p (1 - p)                           arXiv:2508.11408
  eaft       w = (entropy of the top k / ln k)^alpha arXiv:2601.02151
  deft       w = p^C, C = sum_v p_v^2                arXiv:2602.11424
  psft       w = r 1[r <= high], r = p / p_old       arXiv:2508.17784
  iw_sft     w of a sequence, by p / p_reference     arXiv:2507.12856

To add an objective, here the focal weight w = (1 - p)^power as an example:

  1. Write a function. Its keyword arguments are its options.

       def focal(stats, *, power: float = 2.0):  # -> w [...]
         return (1 - jnp.exp(stats.log_p)) ** power

  2. Add it to the table: `WEIGHTS = {..., 'focal': focal}`. Metrics of its own go
     to `METRICS`, statistics beyond log_p and entropy to `NEEDS`.
  3. Add its options to `c.loss` of the config (`power=2.0`), then train with
     `--config.loss.name=focal`.

Rules for such a function:

  - It reads `log_p`, `entropy` and the statistics of its line in `NEEDS`: training
    on one device computes no other.
  - w depends on the statistics of its own token alone: tokens come in any order.
    One that reads its whole sequence, as `iw_sft` does, is listed in `SEQUENCE`.
  - Masked tokens come as zeros and must give a finite w.
  - An option that changes in training must be traceable, and `train_step` must
    offer it, as it offers `curriculum`.
  - weight_grad='through' differentiates w by log_p. Stop the gradient of all that
    reads another statistic, as `idft` does: the two routes through the vocabulary
    head differ in it otherwise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax.objectives import by_entropy
from ddt_jax.objectives import by_probability
from ddt_jax.objectives import by_reference

# The paper's settings of IDFT.
BETA, GAMMA_MIN, GAMMA_MAX = 1.0, 0.1, 2.0


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
  gamma = jax.lax.stop_gradient(idft_exponent(
      stats.phi, beta=beta, gamma_min=gamma_min, gamma_max=gamma_max,
      curriculum=curriculum,
  ))
  # From log p: p itself underflows to 0, and 0^gamma has no useful gradient.
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


# The tables ----------------------------------------------------------------------

WEIGHTS: dict[str, Callable[..., jax.Array]] = {
    'sft': sft,
    'dft': dft,
    'idft': idft,
    'phi_mask': phi_mask,
    'power': by_probability.power,
    'threshold': by_probability.threshold,
    'chord': by_probability.chord,
    'eaft': by_entropy.eaft,
    'deft': by_entropy.deft,
    'psft': by_reference.psft,
    'iw_sft': by_reference.iw_sft,
}
# Statistics beyond log_p and entropy: name -> function of all options, which gives
# collision (bool) and top_k (int) by name.
NEEDS: dict[str, Callable[..., dict[str, Any]]] = {
    'eaft': lambda *, k, **_: {'top_k': k or 0},
    'deft': lambda **_: {'collision': True},
}
# Options that are another model's log p of the tokens, without a gradient.
REFERENCE_OPTIONS = ('old_log_p', 'reference_log_p')
# Schemes whose weight reads its whole sequence, the last axis.
SEQUENCE = ('iw_sft',)
# Metrics of a scheme beside those of every objective: name -> function of
# (stats, **all its options), per token. `token_loss` sums them over the mask.
METRICS: dict[str, dict[str, Callable[..., jax.Array]]] = {
    'idft': {'clipped': idft_clipped},
}
