"""Distribution Discriminant Theory: how natural is a text to a model?

Everything here is a function of the next-token distribution p_t and of the
token x_t that was realised. Natural logarithms; all results are float32.

Source: arXiv:2602.12222, section 3 (centred log-likelihood); the calibrated
test follows from E[phi] = 0 and V[phi] = V[log p] under x ~ p.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

# Below this summed varentropy a text was all but forced: there is no evidence.
MIN_VARENTROPY = 1e-6


@struct.dataclass
class TokenStats:
  """What the objectives and the test need to know of each token, all [...].

  Attributes:
    log_p: log p(x), nats.
    entropy: H = -sum_v p_v log p_v, nats.
    varentropy: V = sum_v p_v (log p_v + H)^2, nats^2; the variance of phi. None
      where only what training needs was computed.
    collision: sum_v p_v^2, the probability that two draws agree; likewise.
  """

  log_p: jax.Array
  entropy: jax.Array
  varentropy: jax.Array | None = None
  collision: jax.Array | None = None

  @property
  def phi(self) -> jax.Array:
    """Centred log-likelihood log p(x) + H, nats."""
    return self.log_p + self.entropy

  def map(self, fn) -> 'TokenStats':
    """The statistics with `fn` applied to each of them."""
    return jax.tree.map(fn, self)


class OnPolicyTest(NamedTuple):
  """Result of `on_policy_test`, one number per sequence."""

  mean_phi: jax.Array
  z: jax.Array
  p_value: jax.Array


def token_stats(
    logits: jax.Array, targets: jax.Array, *, temperature: float = 1.0
) -> TokenStats:
  r"""Statistics of the realised token under softmax(logits / temperature).

  Args:
    logits: [..., V]; position t predicts ``targets[..., t]`` (shift
      beforehand). -inf is allowed for tokens that cannot occur.
    targets: [...], integer token ids.
    temperature: > 0; the distribution scored is that of sampling at it.

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
  return TokenStats(
      log_p=jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0],
      entropy=entropy,
      varentropy=jnp.sum(p * deviation**2, -1),
      collision=jnp.sum(p**2, -1),
  )


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
  variance = jnp.sum(stats.varentropy * mask, -1)
  evidence = variance >= MIN_VARENTROPY
  z = jnp.where(evidence, total / jnp.sqrt(jnp.where(evidence, variance, 1)), 0)
  return OnPolicyTest(
      mean_phi=total / jnp.maximum(jnp.sum(mask, -1), 1),
      z=z,
      p_value=jax.scipy.special.erfc(jnp.abs(z) / jnp.sqrt(2.0)),
  )
