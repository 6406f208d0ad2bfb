r"""Divergences of two next-token distributions: the algebra over a part of V.

For the student's logits z and the teacher's y, both divided by the temperature:

  a = log S = z - lse z,   b = log T = y - lse y,   d = b - a

  forward  KL(T || S) = E_T[y - z] - lse y + lse z     dz = S - T
  reverse  KL(S || T) = E_S[z - y] - lse z + lse y     dz = S (a - b - KL)
  jsd      M = beta T + (1 - beta) S
           D = beta KL(T || M) + (1 - beta) KL(S || M)
                                   dz = (1 - beta) S (log S / M - KL(S || M))

The two KL take one pass over the vocabulary: they merge like `partial_sums`. M mixes
probabilities, so jsd needs both normalisers first, then a second pass.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors

KINDS = ('forward', 'reverse', 'jsd')
_TOP_OF_NOTHING = -1e10  # below any logit, yet finite: inf - inf would be NaN


class Divergence(NamedTuple):
  """A divergence, hashable for jit.

  Attributes:
    kind: one of `KINDS`.
    beta: weight of the teacher in jsd's mixture M.
    temperature: divides both logits.
    clip: the largest value of a token; None for no bound.
    chunk: tokens per tile, or vocabulary ids per chunk of the stream.
  """

  kind: str = 'forward'
  beta: float = 0.5
  temperature: float = 1.0
  clip: float | None = None
  chunk: int | None = None

  def check(self) -> None:
    """Raises InputError for an option that has no meaning."""
    if self.kind not in KINDS:
      raise errors.no_choice('kind', self.kind, KINDS)
    if not 0 < self.beta < 1:
      raise errors.InputError(f'beta={self.beta} is not between 0 and 1')
    if self.clip is not None and not self.clip > 0:
      raise errors.InputError(f'clip={self.clip}: must be > 0')
    ddt.check_temperature(self.temperature)

  def bounded(self, value: jax.Array) -> jax.Array:
    """The value of each token, at most `clip`."""
    # Rounding can make a divergence of 0 negative.
    value = jnp.maximum(value, 0.0)
    return value if self.clip is None else jnp.minimum(value, self.clip)

  def grad_weight(self, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Factor [T] of `dz`: 0 beyond the clip and where a token is not supervised."""
    trained = mask > 0
    if self.clip is not None:
      trained &= value <= self.clip
    # The logits that hidden states give are divided by the temperature.
    return jnp.where(trained, mask, 0.0) / self.temperature


@struct.dataclass
class PairSums:
  """Sums over a part of the vocabulary for both distributions, all [T] float32.

  Attributes:
    top, mass: of the student: max z, and sum of e^(z - top).
    teacher_top, teacher_mass: likewise of y.
    cross: forward: sum of e^(y - teacher_top) (y - z); reverse: sum of
      e^(z - top) (z - y); jsd: 0.
  """

  top: jax.Array
  mass: jax.Array
  teacher_top: jax.Array
  teacher_mass: jax.Array
  cross: jax.Array

  @classmethod
  def empty(cls, tokens: int) -> 'PairSums':
    """Sums over no logit at all, the neutral element of `merge`."""
    zeros = jnp.zeros(tokens, jnp.float32)
    low = zeros + _TOP_OF_NOTHING
    return cls(low, zeros, low, zeros, zeros)

  @classmethod
  def of_logits(cls, z: jax.Array, y: jax.Array, kind: str) -> 'PairSums':
    """Sums over all columns of z and y [T, C]."""
    top, teacher_top = jnp.max(z, -1), jnp.max(y, -1)
    s, t = jnp.exp(z - top[:, None]), jnp.exp(y - teacher_top[:, None])
    if kind == 'forward':
      cross = jnp.sum(t * (y - z), -1)
    elif kind == 'reverse':
      cross = jnp.sum(s * (z - y), -1)
    else:
      cross = jnp.zeros_like(top)
    return cls(top, jnp.sum(s, -1), teacher_top, jnp.sum(t, -1), cross)

  def relative_to(
      self, top: jax.Array, teacher_top: jax.Array, kind: str
  ) -> 'PairSums':
    """The same sums relative to other tops, which are not below these."""
    s, t = jnp.exp(self.top - top), jnp.exp(self.teacher_top - teacher_top)
    return PairSums(
        top, s * self.mass, teacher_top, t * self.teacher_mass,
        (t if kind == 'forward' else s) * self.cross)

  def merge(self, other: 'PairSums', kind: str) -> 'PairSums':
    """Sums over both parts."""
    top = jnp.maximum(self.top, other.top)
    teacher_top = jnp.maximum(self.teacher_top, other.teacher_top)
    both = jax.tree.map(
        jnp.add, self.relative_to(top, teacher_top, kind),
        other.relative_to(top, teacher_top, kind))
    return both.replace(top=top, teacher_top=teacher_top)

  @property
  def normalisers(self) -> tuple[jax.Array, jax.Array]:
    """log sum e^z and log sum e^y."""
    return (self.top + jnp.log(self.mass),
            self.teacher_top + jnp.log(self.teacher_mass))

  def kl(self, kind: str) -> jax.Array:
    """The forward or the reverse KL, if this part is the whole vocabulary."""
    of_student, of_teacher = self.normalisers
    if kind == 'forward':
      return self.cross / self.teacher_mass + (of_student - of_teacher)
    return self.cross / self.mass + (of_teacher - of_student)


def log_shares(d: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
  """log S / M and log T / M for d = log T / S; exactly 0 where d is."""
  # M / S = beta e^d + 1 - beta, from e^-|d|, which cannot overflow.
  share = jnp.where(d > 0, 1 - beta, beta)
  rest = jnp.log1p(share * jnp.expm1(-jnp.abs(d)))
  return -jnp.maximum(d, 0.0) - rest, jnp.minimum(d, 0.0) - rest


def kl_to_mixture(
    a: jax.Array, b: jax.Array, beta: float
) -> tuple[jax.Array, jax.Array]:
  """Parts [T] of KL(S || M) and KL(T || M) in the columns of a and b [T, C]."""
  student, teacher = log_shares(b - a, beta)
  return jnp.sum(jnp.exp(a) * student, -1), jnp.sum(jnp.exp(b) * teacher, -1)


def dz(
    a: jax.Array, b: jax.Array, centre: jax.Array, divergence: Divergence
) -> jax.Array:
  """Gradient [T, C] by the student's logits z, which the temperature divided.

  Args:
    a, b: log S and log T in these columns.
    centre: [T], the KL (reverse) or KL(S || M) (jsd); forward reads none.
    divergence: its kind and beta.
  """
  s = jnp.exp(a)
  if divergence.kind == 'forward':
    return s - jnp.exp(b)
  if divergence.kind == 'reverse':
    return s * (a - b - centre[:, None])
  share, _ = log_shares(b - a, divergence.beta)
  return (1 - divergence.beta) * s * (share - centre[:, None])
