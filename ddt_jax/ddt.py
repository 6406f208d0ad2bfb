"""Distribution Discriminant Theory: how natural is a text to a model?

Everything here is a function of the next-token distribution p_t and of the
token x_t that was realised. Natural logarithms; results are float32, and of numpy
arrays, which sums and tests take too, numpy's own in their width: what lies on the
host does not wait for what the device is at.

Source: arXiv:2602.12222, section 3 (centred log-likelihood); the calibrated
test follows from E[phi] = 0 and V[phi] = V[log p] under x ~ p. The probability
integral transform (PIT) beside it is exact for texts of any length.
"""

import math
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

# Below this summed varentropy a text was all but forced: there is no evidence.
MIN_VARENTROPY = 1e-6
# 1 - u is the difference of float32 sums, in which less than this is rounding.
MIN_COMPLEMENT = 1e-6


@struct.dataclass
class TokenStats:
  """What the objectives and the test need to know of each token, all [...].

  Attributes:
    log_p: log p(x), nats.
    entropy: H = -sum_v p_v log p_v, nats.
    varentropy: V = sum_v p_v (log p_v + H)^2, nats^2; the variance of phi. None
      where only what training needs was computed.
    collision: sum_v p_v^2, the probability that two draws agree; likewise.
    tail: P(p_v > p_x), the mass of the tokens that are likelier than x. None
      unless it was asked for, like all that follow.
    ties: P(p_v = p_x), x's own mass included; for the randomised PIT.
    top_ids: [..., k] int32, the k likeliest tokens, the likeliest first.
    top_log_p: [..., k], their log p, nats.
  """

  log_p: jax.Array
  entropy: jax.Array
  varentropy: jax.Array | None = None
  collision: jax.Array | None = None
  tail: jax.Array | None = None
  ties: jax.Array | None = None
  top_ids: jax.Array | None = None
  top_log_p: jax.Array | None = None

  @property
  def phi(self) -> jax.Array:
    """Centred log-likelihood log p(x) + H, nats."""
    return self.log_p + self.entropy

  @property
  def top_entropy(self) -> jax.Array:
    """Entropy of the k likeliest tokens among themselves, nats."""
    log_p = jax.nn.log_softmax(self.top_log_p)
    # 0 log 0 = 0.
    return -jnp.sum(jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * log_p, 0.0), -1)

  def map(self, fn) -> 'TokenStats':
    """The statistics with `fn` applied to each of them."""
    return jax.tree.map(fn, self)


class OnPolicyTest(NamedTuple):
  """Result of `on_policy_test`, one number per sequence."""

  mean_phi: jax.Array
  z: jax.Array
  p_value: jax.Array


def token_stats(
    logits: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    tail: bool = False,
    top_k: int = 0,
) -> TokenStats:
  r"""Statistics of the realised token under softmax(logits / temperature).

  Args:
    logits: [..., V]; position t predicts ``targets[..., t]`` (shift
      beforehand). -inf is allowed for tokens that cannot occur.
    targets: [...], integer token ids.
    temperature: > 0; the distribution scored is that of sampling at it.
    tail: with the fields tail and ties.
    top_k: with the top_k likeliest tokens, all if there are fewer.

  Returns:
    TokenStats of float32 [...].
  """
  if not temperature > 0:
    raise ValueError(f'temperature must be positive, not {temperature}')
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
  p = jnp.exp(log_p)
  # 0 log 0 = 0, in the value and in the gradient.
  log_p_or_0 = jnp.where(p > 0, log_p, 0.0)
  entropy = -jnp.sum(p * log_p_or_0, -1)
  deviation = jnp.where(p > 0, log_p_or_0 + entropy[..., None], 0.0)
  realised = jnp.take_along_axis(log_p, targets[..., None], -1)
  stats = TokenStats(
      log_p=realised[..., 0],
      entropy=entropy,
      varentropy=jnp.sum(p * deviation**2, -1),
      collision=jnp.sum(p**2, -1),
  )
  if tail:
    stats = stats.replace(
        tail=jnp.sum(jnp.where(log_p > realised, p, 0.0), -1),
        ties=jnp.sum(jnp.where(log_p == realised, p, 0.0), -1),
    )
  if top_k:
    top, ids = jax.lax.top_k(log_p, min(top_k, log_p.shape[-1]))
    stats = stats.replace(top_ids=ids, top_log_p=top)
  return stats


def centered_log_likelihood(
    logits: jax.Array, targets: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
  r"""Log-likelihood of each token, centred by the model's own entropy, nats.

  .. math:: \phi_t = \log p_t(x_t) + H[p_t], \qquad E_{x \sim p_t}[\phi_t] = 0

  Negative where a token surprises the model more than its own uncertainty
  explains. It measures fit, not correctness; a text that is *more*
  deterministic than the model can score positive.

  Args:
    logits: [..., V]; position t predicts ``targets[..., t]``.
    targets: [...], integer token ids.
    temperature: > 0.

  Returns:
    phi: [...], float32.

  Example:
    >>> centered_log_likelihood(jnp.zeros([4]), jnp.array(2))  # uniform model
    Array(0., dtype=float32)

  Source: arXiv:2602.12222, definition of the centred log-likelihood (CLL).
  """
  return token_stats(logits, targets, temperature=temperature).phi


def on_policy_test(stats: TokenStats, mask: jax.Array) -> OnPolicyTest:
  r"""Were these sequences drawn from the model? A calibrated two-sided test.

  .. math:: z = \sum_t \phi_t / \sqrt{\sum_t V_t}, \quad
            \text{p-value} = \mathrm{erfc}(|z| / \sqrt 2)

  Under x ~ p the phi_t are martingale differences with variance V_t (the
  varentropy), so z is asymptotically standard normal. Where the summed
  varentropy is below 1e-6 nats^2 the text was forced: z = 0, p = 1.

  Args:
    stats: TokenStats of [..., T].
    mask: [..., T], 1 where a token belongs to the response.

  Returns:
    OnPolicyTest(mean_phi, z, p_value), each [...].
  """
  total = jnp.sum(stats.phi * mask, -1)
  z, p_value = z_test(total, jnp.sum(stats.varentropy * mask, -1))
  return OnPolicyTest(total / jnp.maximum(jnp.sum(mask, -1), 1), z, p_value)


def z_test(
    phi_sum: jax.Array, varentropy_sum: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """z and its two-sided p-value from sums over a text; see `on_policy_test`."""
  xp, special = _library(phi_sum)
  evidence = varentropy_sum >= MIN_VARENTROPY
  z = xp.where(
      evidence, phi_sum / xp.sqrt(xp.where(evidence, varentropy_sum, 1)), 0)
  return z, special.erfc(xp.abs(z) / math.sqrt(2))


def randomised_pit(stats: TokenStats, uniform: jax.Array) -> jax.Array:
  r"""Each token's probability integral transform.

  .. math:: u_t = P(p_v > p_x) + U_t P(p_v = p_x)

  Under x ~ p the u_t are independent and uniform on [0, 1], at any length and
  however certain the model is; near 1 where it expected other tokens.

  Args:
    stats: TokenStats of [...] with tail and ties.
    uniform: [...], independent draws from [0, 1).

  Returns:
    u: [...], in [0, 1].
  """
  return (stats.tail + uniform * stats.ties).clip(0.0, 1.0)


def pit_test(
    pit: jax.Array, varentropy: jax.Array, mask: jax.Array
) -> jax.Array:
  r"""Were these sequences drawn from the model? Two-sided; for short texts too.

  .. math:: S = \sum_t -\log(1 - u_t) \sim \Gamma(n, 1), \qquad
            W = \sum_t \sqrt{V_t}\, \Phi^{-1}(u_t) / \sqrt{\sum_t V_t} \sim N(0, 1)

  S is Fisher's combination of the tokens' one-sided p-values; its distribution is
  exact at any length, and it sees the token that a certain model did not expect.
  W weighs tokens by what they can tell, as z does, but a single token cannot
  outweigh the others: its terms are normal whatever p_t is, and their sum is
  nearly so, for the weights follow from earlier tokens. The p-value is that of
  the smaller of the two, doubled (Bonferroni).

  Args:
    pit: [..., T], see `randomised_pit`, whose randomness this shares.
    varentropy: [..., T], nats^2.
    mask: [..., T], 1 where a token belongs to the response.

  Returns:
    p_value: [...]; 1 where there is no token.
  """
  return pit_p_value(
      jnp.sum(surprise(pit) * mask, -1), jnp.sum(mask, -1),
      jnp.sum(weighted_score(pit, varentropy) * mask, -1),
      jnp.sum(varentropy * mask, -1),
  )


def surprise(pit: jax.Array) -> jax.Array:
  """-log(1 - u) of each token: exponential with mean 1 under x ~ p."""
  xp, _ = _library(pit)
  return -xp.log(xp.maximum(1.0 - pit, MIN_COMPLEMENT))


def weighted_score(pit: jax.Array, varentropy: jax.Array) -> jax.Array:
  """sqrt(V) times the normal quantile of u, of each token."""
  xp, special = _library(pit)
  u = pit.clip(MIN_COMPLEMENT, 1.0 - MIN_COMPLEMENT)
  return xp.sqrt(varentropy) * special.ndtri(u)


def pit_p_value(
    surprise_sum: jax.Array, tokens: jax.Array, score_sum: jax.Array,
    varentropy_sum: jax.Array,
) -> jax.Array:
  """The p-value of `pit_test` from sums over a text."""
  xp, special = _library(surprise_sum)
  n = xp.maximum(tokens, 1)
  fisher = 2 * xp.minimum(
      special.gammainc(n, surprise_sum), special.gammaincc(n, surprise_sum))
  _, weighted = z_test(score_sum, varentropy_sum)
  p_value = xp.minimum(2 * xp.minimum(fisher, weighted), 1.0)
  return xp.where(tokens > 0, p_value, 1.0)


def _library(x: jax.Array | np.ndarray):
  """(numpy, scipy.special), or JAX's of both."""
  if isinstance(x, np.ndarray | np.generic):
    return np, scipy.special
  return jnp, jax.scipy.special
