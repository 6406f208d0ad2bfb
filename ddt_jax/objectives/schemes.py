r"""Token weights: an objective here is -sum_t w_t log p_t / N with its own w_t.

The losses of pairs and of distillation are in `training/pair_loss.py` and
`training/distill.py`.

  sft        w = 1
  dft        w = p                                   arXiv:2508.05629
  idft       w = p^gamma(phi)                        arXiv:2602.12222
  phi_mask   idft's where |phi| < bound, else 0      the official code's history
  idft_information, idft_z: variants of idft's       this project, see `by_phi`
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
from ddt_jax.objectives import by_entropy
from ddt_jax.objectives import by_phi
from ddt_jax.objectives import by_probability
from ddt_jax.objectives import by_reference


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


# The tables ----------------------------------------------------------------------

WEIGHTS: dict[str, Callable[..., jax.Array]] = {
    'sft': sft,
    'dft': dft,
    'idft': by_phi.idft,
    'phi_mask': by_phi.phi_mask,
    'idft_information': by_phi.idft_information,
    'idft_z': by_phi.idft_z,
    'power': by_probability.power,
    'threshold': by_probability.threshold,
    'chord': by_probability.chord,
    'eaft': by_entropy.eaft,
    'deft': by_entropy.deft,
    'psft': by_reference.psft,
    'iw_sft': by_reference.iw_sft,
}
# Statistics beyond log_p and entropy: name -> function of all options, which gives
# collision, varentropy (bool) and top_k (int) by name.
NEEDS: dict[str, Callable[..., dict[str, Any]]] = {
    'eaft': lambda *, k, **_: {'top_k': k or 0},
    'deft': lambda **_: {'collision': True},
    'idft_z': lambda **_: {'varentropy': True},
}
# Options that are another model's log p of the tokens, without a gradient.
REFERENCE_OPTIONS = ('old_log_p', 'reference_log_p')
# Schemes whose weight reads its whole sequence, the last axis.
SEQUENCE = ('iw_sft',)
# Metrics of a scheme beside those of every objective: name -> function of
# (stats, **all its options), per token. `token_loss` sums them over the mask.
METRICS: dict[str, dict[str, Callable[..., jax.Array]]] = {
    'idft': {'clipped': by_phi.idft_clipped},
}
