r"""Distribution Discriminant Theory: how natural is a text to a model?

Everything here is a function of the next-token distribution p_t and of the
realised token x_t, in natural logarithms. With log p(x) the log-likelihood,
H = -E[log p] the entropy and nu = Var[log p] the varentropy of p_t:

  phi = log p(x) + H
  E[phi] = E[log p] + H = -H + H = 0               for x drawn from p_t
  Var[phi] = Var[log p] = nu                       since H is a constant

So for a text drawn from the model, sum_t phi_t is a martingale: given the text
before it, each term has mean 0 and variance nu_t. Its central limit theorem gives

  z = sum_t phi_t / sqrt(sum_t nu_t) -> N(0, 1),    p-value = erfc(|z| / sqrt 2).

For a text from another distribution q, E_q[phi] = H(p) - H(q) - KL(q || p). That
is negative unless q is more deterministic than p by more than KL(q || p).

Results are float32. `z_test`, `surprise`, `weighted_score` and `pit_p_value` also
accept NumPy arrays and then run on the host, without blocking on the device.

Source: arXiv:2602.12222, section 3 (phi, there the centred log-likelihood, CLL).
The test z and the probability integral transform (PIT) beside it, which is exact
at any length, are this project's.
"""

import math
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from ddt_jax import errors

# Below this summed varentropy (nats^2) every token was nearly certain, and z
# carries no information.
MIN_VARENTROPY = 1e-6
# 1 - u is a difference of float32 sums; below this it is rounding.
MIN_COMPLEMENT = 1e-6


@struct.dataclass
class TokenStats:
  """Statistics of realised tokens, all [...] float32 unless stated.

  Attributes:
    log_p: log p(x), nats.
    entropy: H = -sum_v p_v log p_v, nats.
    varentropy: nu = sum_v p_v (log p_v + H)^2, nats^2, the variance of phi. None
      in training, which computes log_p and entropy alone.
    collision: sum_v p_v^2, the probability that two draws agree; None likewise.
    tail: P(p_v > p_x), the mass of the tokens that are likelier than x. None
      unless asked for, like all fields below.
    ties: P(p_v = p_x), the mass of x included; for the randomised PIT.
    top_ids: [..., k] int32, the k likeliest tokens, the likeliest first.
    top_log_p: [..., k], their log p, nats.
    vocab_size: V, a Python number; None if the maker did not say.
  """

  log_p: jax.Array
  entropy: jax.Array
  varentropy: jax.Array | None = None
  collision: jax.Array | None = None
  tail: jax.Array | None = None
  ties: jax.Array | None = None
  top_ids: jax.Array | None = None
  top_log_p: jax.Array | None = None
  vocab_size: int | None = struct.field(pytree_node=False, default=None)

  @property
  def phi(self) -> jax.Array:
    """Centred log-likelihood log p(x) + H, nats."""
    return self.log_p + self.entropy

  def map(self, fn) -> 'TokenStats':
    """The statistics with `fn` applied to every field that is not None."""
    return jax.tree.map(fn, self)


class OnPolicyTest(NamedTuple):
  """Result of `on_policy_test`, one number per sequence."""

  mean_phi: jax.Array  # nats per token
  z: jax.Array
  p_value: jax.Array  # two-sided


def token_stats(
    logits: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    tail: bool = False,
    top_k: int = 0,
) -> TokenStats:
  r"""Statistics of the realised tokens under softmax(logits / temperature).

  Args:
    logits: [..., V]; position t predicts ``targets[..., t]`` (shift beforehand);
      -inf marks tokens that cannot occur.
    targets: [...], integer token ids.
    temperature: > 0; the scored distribution is that of sampling at it.
    tail: whether to fill in the fields tail and ties.
    top_k: number of likeliest tokens to return, at most V; 0 for none.

  Returns:
    TokenStats of float32 [...].

  Raises:
    errors.InputError: the temperature is not positive.

  Example:
    >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))  # entropy 1.5 bits
    >>> stats = token_stats(logits, jnp.array(0))
    >>> round(float(stats.phi / jnp.log(2)), 4), round(float(stats.collision), 4)
    (0.5, 0.375)
  """
  log_p, p, log_p_or_0 = _distribution(logits, temperature)
  entropy = -jnp.sum(p * log_p_or_0, -1)
  deviation = jnp.where(p > 0, log_p_or_0 + entropy[..., None], 0.0)
  realised = jnp.take_along_axis(log_p, targets[..., None], -1)  # [..., 1]
  stats = TokenStats(
      log_p=realised[..., 0],
      entropy=entropy,
      varentropy=jnp.sum(p * deviation**2, -1),
      collision=jnp.sum(p**2, -1),
      vocab_size=logits.shape[-1],
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
  explains. phi measures fit, not correctness.

  Args:
    logits: [..., V]; position t predicts ``targets[..., t]``.
    targets: [...], integer token ids.
    temperature: > 0.

  Returns:
    phi: [...], float32.

  Raises:
    errors.InputError: the temperature is not positive.

  Example:
    >>> centered_log_likelihood(jnp.zeros([4]), jnp.array(2))  # uniform model
    Array(0., dtype=float32)

  Source: arXiv:2602.12222, section 3, the definition of CLL.
  """
  # Not `token_stats(...).phi`, which computes all statistics outside of jit.
  log_p, p, log_p_or_0 = _distribution(logits, temperature)
  realised = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
  return realised - jnp.sum(p * log_p_or_0, -1)  # log p(x) + H


def check_temperature(temperature: float) -> None:
  """Raises InputError unless the temperature is positive."""
  if not temperature > 0:
    raise errors.InputError(f'temperature must be positive, not {temperature}')


def _distribution(logits, temperature):
  """log p, p, and log p with 0 where p is 0; each [..., V]."""
  check_temperature(temperature)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
  p = jnp.exp(log_p)
  # 0 log 0 = 0, in the value and in the gradient.
  return log_p, p, jnp.where(p > 0, log_p, 0.0)


# The test z ----------------------------------------------------------------------


def on_policy_test(stats: TokenStats, mask: jax.Array) -> OnPolicyTest:
  r"""Tests whether sequences were drawn from the model; calibrated, two-sided.

  .. math:: z = \sum_t \phi_t / \sqrt{\sum_t \nu_t}, \quad
            \text{p-value} = \mathrm{erfc}(|z| / \sqrt 2)

  Under x ~ p z is asymptotically standard normal (derived at the top). Where the
  summed varentropy is below 1e-6 nats^2 every token was forced: z = 0, p = 1.

  Args:
    stats: TokenStats of [..., T].
    mask: [..., T], 1 where a token belongs to the response.

  Returns:
    OnPolicyTest(mean_phi, z, p_value), each [...].

  Example:
    >>> x = jnp.array
    >>> stats = TokenStats(x([-2.0, -1.0]), x([1.0, 1.5]), x([1.0, 3.0]))
    >>> mean_phi, z, p_value = on_policy_test(stats, jnp.ones(2))
    >>> float(mean_phi), float(z), round(float(p_value), 4)
    (-0.25, -0.25, 0.8026)
  """
  total = jnp.sum(stats.phi * mask, -1)
  z, p_value = z_test(total, jnp.sum(stats.varentropy * mask, -1))
  return OnPolicyTest(total / jnp.maximum(jnp.sum(mask, -1), 1), z, p_value)


def z_test(
    phi_sum: jax.Array, varentropy_sum: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """z and its two-sided p-value from sums over a text; see `on_policy_test`.

  Args:
    phi_sum: [...], sum of phi, nats. A NumPy array computes on the host.
    varentropy_sum: [...], sum of the varentropy, nats^2.

  Returns:
    (z, p_value), each [...]; (0, 1) where the varentropy sum is below 1e-6.
  """
  xp, special = _numpy_or_jax(phi_sum)
  evidence = varentropy_sum >= MIN_VARENTROPY
  # The inner where: a division by 0 would give NaN gradients and NumPy warnings.
  z = xp.where(
      evidence, phi_sum / xp.sqrt(xp.where(evidence, varentropy_sum, 1)), 0)
  return z, special.erfc(xp.abs(z) / math.sqrt(2))


# The probability integral transform ----------------------------------------------


def randomised_pit(stats: TokenStats, uniform: jax.Array) -> jax.Array:
  r"""Each token's probability integral transform.

  .. math:: u_t = P(p_v > p_x) + U_t P(p_v = p_x)

  Under x ~ p the u_t are independent and uniform on [0, 1], at any length and
  however certain the model is. Near 1 the model expected other tokens.

  Args:
    stats: TokenStats of [...] with tail and ties.
    uniform: [...], independent draws U_t from [0, 1).
  Returns:
    u: [...], in [0, 1].
  """
  # float32 sums may exceed 1 by rounding.
  return (stats.tail + uniform * stats.ties).clip(0.0, 1.0)


def pit_test(
    pit: jax.Array, varentropy: jax.Array, mask: jax.Array
) -> jax.Array:
  r"""Tests whether sequences were drawn from the model, short ones too; two-sided.

  .. math:: S = \sum_t -\log(1 - u_t) \sim \Gamma(n, 1), \qquad
            W = \sum_t \sqrt{\nu_t}\, \Phi^{-1}(u_t) / \sqrt{\sum_t \nu_t} \sim N(0, 1)

  S is Fisher's combination of the tokens' one-sided p-values. It is exact at any
  length and reacts to a single token that a certain model did not expect. W weighs
  tokens by their information, as z does, but each term is normal for any p_t: no
  token outweighs the others. Its weights depend on earlier tokens alone, so W is
  nearly normal. The result is the smaller p-value, doubled (Bonferroni).

  Args:
    pit: [..., T], see `randomised_pit`; the result shares its randomness.
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
  r"""Surprise of each token: exponential with mean 1 under x ~ p.

  .. math:: -\log(1 - u_t)

  Args:
    pit: [...], u of `randomised_pit`. A NumPy array computes on the host.
  Returns:
    [...], at most -log 1e-6 = 13.8.
  """
  xp, _ = _numpy_or_jax(pit)
  return -xp.log(xp.maximum(1.0 - pit, MIN_COMPLEMENT))


def weighted_score(pit: jax.Array, varentropy: jax.Array) -> jax.Array:
  r"""Normal score of each token, weighted: N(0, nu_t) under x ~ p.

  .. math:: \sqrt{\nu_t}\, \Phi^{-1}(u_t)

  Args:
    pit: [...], u of `randomised_pit`. A NumPy array computes on the host.
    varentropy: [...], nu, nats^2.
  Returns:
    [...], nats.
  """
  xp, special = _numpy_or_jax(pit)
  u = pit.clip(MIN_COMPLEMENT, 1.0 - MIN_COMPLEMENT)  # Phi^-1(0) is -inf
  return xp.sqrt(varentropy) * special.ndtri(u)


def pit_p_value(
    surprise_sum: jax.Array, tokens: jax.Array, score_sum: jax.Array,
    varentropy_sum: jax.Array,
) -> jax.Array:
  """The p-value of `pit_test` from sums over a text.

  Args:
    surprise_sum: [...], sum of `surprise`. A NumPy array computes on the host.
    tokens: [...], number of tokens n.
    score_sum: [...], sum of `weighted_score`, nats.
    varentropy_sum: [...], sum of the varentropy, nats^2.

  Returns:
    p_value: [...]; 1 where there is no token.
  """
  xp, special = _numpy_or_jax(surprise_sum)
  n = xp.maximum(tokens, 1)  # the Gamma distribution has no shape 0
  p_fisher = 2 * xp.minimum(
      special.gammainc(n, surprise_sum), special.gammaincc(n, surprise_sum))
  _, p_weighted = z_test(score_sum, varentropy_sum)
  p_value = xp.minimum(2 * xp.minimum(p_fisher, p_weighted), 1.0)  # Bonferroni
  return xp.where(tokens > 0, p_value, 1.0)


def _numpy_or_jax(x: jax.Array | np.ndarray) -> tuple[Any, Any]:
  """(numpy, scipy.special) for a NumPy array, else JAX's (numpy, special)."""
  if isinstance(x, np.ndarray | np.generic):
    return np, scipy.special
  return jnp, jax.scipy.special
