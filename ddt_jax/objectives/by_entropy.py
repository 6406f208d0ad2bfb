r"""Weights of the whole next-token distribution: eaft, deft.

  eaft  w = (H_k / ln k)^alpha    the entropy H_k of the k likeliest tokens
  deft  w = p^C                   the collision probability C = sum_v p_v^2
"""

import math

import jax
import jax.numpy as jnp
import jax.scipy.special

from ddt_jax import ddt
from ddt_jax import errors


def eaft(
    stats: ddt.TokenStats,
    *,
    k: int | None = 20,
    alpha: float = 1.0,
    normalised: bool = True,
) -> jax.Array:
  r"""Entropy-adaptive fine-tuning: trains where the model is uncertain.

  .. math:: w_t = \Big(\frac{H_k}{\ln k}\Big)^{\alpha}, \qquad
            H_k = -\sum_{v \in \text{top } k} r_v \ln r_v, \qquad
            r_v = p_v \Big/ \sum_{u \in \text{top } k} p_u

  A confident model that meets another token than its own then learns little from
  it. With normalised=False r = p, as in axolotl. With k=None H_k is the entropy
  of the whole vocabulary, divided by ln V.

  Args:
    stats: TokenStats of [...]; reads top_log_p, or entropy where k is None.
    k: the number of likeliest tokens, 2 or more; at most V of them are taken.
      None or 0 for all.
    alpha: a Python number >= 0.
    normalised: whether r sums to 1.

  Returns:
    w [...], float32, in [0, 1]; for k = 2 and normalised=False up to
    1.07^alpha. No gradient passes through it.

  Raises:
    errors.InputError: k or alpha is out of range.
    ValueError: `stats` was not made with top_k of at least k.

  Source: arXiv:2601.02151; the normalised form is LLaMA-Factory's.
  """
  if k and k < 2:
    raise errors.InputError(f'loss.k={k}: 2 or more, or 0 for all tokens')
  if not alpha >= 0:
    raise errors.InputError(f'loss.alpha={alpha}: must be >= 0')
  if k:
    top = _likeliest(stats, k)
    choices = top.shape[-1]
    r = jax.nn.softmax(top) if normalised else jnp.exp(top)
    # entr(r) = -r ln r, and 0 at r = 0.
    entropy = jnp.sum(jax.scipy.special.entr(r), -1)
  else:
    if stats.vocab_size is None:
      raise ValueError('eaft with k=None needs stats.vocab_size')
    entropy, choices = stats.entropy, stats.vocab_size
  # Rounding can make the entropy of a certain token negative: its power is NaN.
  share = jnp.maximum(entropy, 0.0) / math.log(max(choices, 2))
  return jax.lax.stop_gradient(share**alpha)


def _likeliest(stats: ddt.TokenStats, k: int) -> jax.Array:
  """The log p of the k likeliest tokens [..., min(k, V)], nats."""
  top = stats.top_log_p
  found = 0 if top is None else top.shape[-1]
  if found < min(k, stats.vocab_size or k):
    raise ValueError(
        f'eaft with k={k} needs the {k} likeliest tokens, and the statistics have'
        f' {found}: make them with top_k={k}')
  return top[..., :k]


def deft(stats: ddt.TokenStats) -> jax.Array:
  r"""Lets the model's own confidence choose between SFT and DFT.

  .. math:: w_t = p_t(x_t)^{C_t}, \qquad C_t = \sum_v p_t(v)^2

  C is 1 / V for a uniform model, where w is near SFT's 1, and 1 for a certain
  one, where w is DFT's p.

  Args:
    stats: TokenStats of [...]; reads log_p and collision.

  Returns:
    w [...], float32, in [0, 1]. No gradient passes through C.

  Source: arXiv:2602.11424.
  """
  return jnp.exp(jax.lax.stop_gradient(stats.collision) * stats.log_p)
