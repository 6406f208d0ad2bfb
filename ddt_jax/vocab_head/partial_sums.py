r"""Sums over a part of the vocabulary: the algebra behind every statistic.

For logits z, with top = max z over the part and u = z - top:

  mass = sum e^u,   first = sum e^u u,   second = sum e^u u^2,   pairs = sum e^2u

Over the whole vocabulary p = e^u / mass, so log p = u - log mass and

  log p(x) = z_x - top - log mass
  H = -E[log p] = log mass - first / mass
  nu = Var[log p] = Var[u] = second / mass - (first / mass)^2
  C = sum p^2 = pairs / mass^2
  tail = sum over p > p(x) of e^u / mass,   ties = the same over p = p(x)

Two parts merge once both are relative to one top t. With d = top - t <= 0,
u' = z - t = u + d and e^u' = e^d e^u, so

  mass' = e^d mass
  first' = e^d (first + d mass)
  second' = e^d (second + 2 d first + d^2 mass)
  pairs' = e^2d pairs
"""

from flax import struct
import jax
import jax.numpy as jnp

from ddt_jax import ddt

_TOP_OF_NOTHING = -1e10  # below any logit, yet finite: inf - inf would be NaN


@struct.dataclass
class Sums:
  """Sums over a part of the vocabulary, all [T] float32, with u = z - top.

  Relative to the largest logit they cannot overflow. Their differences do not
  cancel either, because the terms that count have a u near 0.

  Attributes:
    top: max z.
    mass, first, second, pairs: see the module.
    target: logit of the row's target if it is in this part, else 0.
    above: sum of e^u over z > z_target; None unless asked for.
    equal: sum of e^u over z = z_target, the target included; likewise.
  """

  top: jax.Array
  mass: jax.Array
  first: jax.Array
  second: jax.Array
  pairs: jax.Array
  target: jax.Array
  above: jax.Array | None = None
  equal: jax.Array | None = None

  @classmethod
  def empty(cls, tokens: int, tail: bool = False) -> 'Sums':
    """Sums over no logit at all, the neutral element of `merge`."""
    zeros = jnp.zeros(tokens, jnp.float32)
    # Seven fields beside `top`; the last two only for the tail.
    return cls(zeros + _TOP_OF_NOTHING, *[zeros] * (7 if tail else 5))

  @classmethod
  def of_logits(
      cls, z: jax.Array, targets: jax.Array,
      above_and_equal: tuple[jax.Array, jax.Array] | None = None,
  ) -> 'Sums':
    """Sums over all columns of z.

    Args:
      z: [T, C], logits.
      targets: [T], columns of z; other values are targets of another part.
      above_and_equal: two bool [T, C], see `compare`; None leaves the fields
        above and equal out.
    """
    # The largest e^u is 1: no overflow, and mass is at least 1.
    top = jnp.max(z, -1)
    u = z - top[:, None]
    e = jnp.exp(u)
    return cls(
        top, jnp.sum(e, -1), jnp.sum(e * u, -1), jnp.sum(e * u * u, -1),
        jnp.sum(e * e, -1), _logit_of(z, targets),
        *(jnp.sum(jnp.where(columns, e, 0.0), -1)
          for columns in above_and_equal or ()),
    )

  def relative_to(self, top: jax.Array) -> 'Sums':
    """The same sums relative to another `top`, which is not below this one."""
    # At -1e10 of an empty part, e^d is 0 and d^2 is still finite: 0, not NaN.
    d = self.top - top
    scale = jnp.exp(d)
    return Sums(
        top,
        scale * self.mass,
        scale * (self.first + d * self.mass),
        scale * (self.second + 2 * d * self.first + d * d * self.mass),
        scale * scale * self.pairs,
        # The raw logit of one part, 0 in all others: a plain sum merges it.
        self.target,
        *(x if x is None else scale * x for x in (self.above, self.equal)),
    )

  def merge(self, other: 'Sums') -> 'Sums':
    """Sums over both parts."""
    top = jnp.maximum(self.top, other.top)
    both = jax.tree.map(
        jnp.add, self.relative_to(top), other.relative_to(top))
    return both.replace(top=top)

  @property
  def log_normaliser(self) -> jax.Array:
    """log sum e^z."""
    return self.top + jnp.log(self.mass)

  @property
  def stats(self) -> ddt.TokenStats:
    """Statistics of the tokens, if this part is the whole vocabulary."""
    log_mass, mean = jnp.log(self.mass), self.first / self.mass
    return ddt.TokenStats(
        # The two large terms first: log mass is small beside them.
        log_p=self.target - self.top - log_mass,
        entropy=log_mass - mean,
        # Rounding can make the difference of a certain token negative.
        varentropy=jnp.maximum(self.second / self.mass - mean * mean, 0.0),
        collision=self.pairs / (self.mass * self.mass),
        **{} if self.above is None else {
            'tail': self.above / self.mass, 'ties': self.equal / self.mass},
    )


@struct.dataclass
class TopK:
  """The k largest logits of a part of the vocabulary, the largest first.

  Attributes:
    z: [T, k], logits.
    ids: [T, k], int32, token ids.
  """

  z: jax.Array
  ids: jax.Array

  @classmethod
  def empty(cls, tokens: int, k: int) -> 'TopK':
    """k logits of -inf, the neutral element of `merge`."""
    return cls(jnp.full((tokens, k), -jnp.inf), jnp.zeros((tokens, k), jnp.int32))

  @classmethod
  def of_logits(cls, z: jax.Array, k: int, first_id: int) -> 'TopK':
    """The k largest of z [T, C] (all if C < k); its first column is `first_id`."""
    z, ids = jax.lax.top_k(z, min(k, z.shape[1]))
    return cls(z, ids + first_id)

  def merge(self, other: 'TopK') -> 'TopK':
    """The k largest of both parts."""
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], -1), self, other
    ).largest(self.z.shape[1])

  def log_p(self, sums: Sums) -> jax.Array:
    """log p of the k tokens [T, k], given the sums over the whole vocabulary."""
    # The two large terms first: log mass is small beside them.
    return self.z - sums.top[:, None] - jnp.log(sums.mass)[:, None]

  def largest(self, k: int) -> 'TopK':
    # Ties go to the earlier column, hence to the lower id: parts come in order.
    z, order = jax.lax.top_k(self.z, k)
    return TopK(z, jnp.take_along_axis(self.ids, order, -1))


def compare(
    z: jax.Array, targets: jax.Array, realised: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Which logits are above, and which equal, the logit of the row's target.

  z and `realised` come from different matrix products and may differ in the last
  bits. A target is therefore never counted as likelier than itself.

  Args:
    z: [T, C], logits.
    targets: [T], columns of z; other values are targets of another part.
    realised: [T], logits of the targets.

  Returns:
    (above, equal), bool [T, C]; the target itself is in `equal`.
  """
  itself = jnp.arange(z.shape[1]) == targets[:, None]
  above = (z > realised[:, None]) & ~itself
  return above, (z == realised[:, None]) | itself


def _logit_of(z, targets):
  """Each row's logit of its target; 0 where the target is no column of z."""
  inside = (targets >= 0) & (targets < z.shape[1])
  # Column 0 stands in for a target of another part.
  column = jnp.where(inside, targets, 0)[:, None]
  return jnp.where(inside, jnp.take_along_axis(z, column, 1)[:, 0], 0.0)
