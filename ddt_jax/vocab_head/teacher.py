r"""Divergence from a teacher's next-token distributions, without [tokens, V].

Two contexts, or two models with the same vocabulary, give hidden states for the same
tokens. Two routes, as for the statistics:

  teacher_tiles   token tiles; the gradient is formed in the forward: four products,
                  one more than `weighted_nll`
  teacher_stream  vocabulary chunks; for a head that is split over `tensor`
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddt_jax import errors
from ddt_jax.vocab_head import divergences
from ddt_jax.vocab_head import meshes
from ddt_jax.vocab_head import teacher_stream
from ddt_jax.vocab_head import teacher_tiles


def divergence(
    hidden: jax.Array,
    head: jax.Array,
    teacher_hidden: jax.Array,
    teacher_head: jax.Array,
    mask: jax.Array,
    *,
    kind: str = 'forward',
    beta: float = 0.5,
    temperature: float = 1.0,
    clip: float | None = None,
    chunk: int | None = None,
    stream: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  r"""Divergence of a student from a teacher, summed over supervised tokens.

  .. math:: L = \sum_t m_t \min(D_t, \mathrm{clip}), \qquad
            D_t = KL(T_t \| S_t), \; KL(S_t \| T_t) \text{ or }
            \beta\, KL(T_t \| M_t) + (1 - \beta)\, KL(S_t \| M_t)

  with M = beta T + (1 - beta) S. L has its exact gradient with respect to hidden
  and head, and none with respect to the teacher. A temperature divides the logits
  of both; the result is not multiplied by its square.

  Args:
    hidden: [..., D], the student's.
    head: [V, D].
    teacher_hidden: [..., E], at the same tokens.
    teacher_head: [V, E].
    mask: [...], float32, 1 (or a float weight) where the token is supervised.
    kind: 'forward' KL(T || S), 'reverse' KL(S || T), or 'jsd'.
    beta: of 'jsd', between 0 and 1.
    temperature: > 0.
    clip: > 0, nats: bound of a token's value, beyond which its gradient is 0.
    chunk: tokens per tile, or vocabulary ids per chunk of the stream.
    stream: whether to take the stream for a head that is whole, too: less memory,
      two products more.
    mesh: None for one device; see `token_stats`.

  Returns:
    (L, sum of the mask, D [...] bounded by clip, nats, 0 where m = 0). Only L has
    a gradient.

  Raises:
    errors.InputError: an option out of range, or two vocabularies of unequal size.

  Example:
    >>> hidden, head = jnp.ones([3, 2]), jnp.zeros([4, 2])
    >>> other = jnp.log(jnp.array([[0.5], [0.25], [0.125], [0.125]]))
    >>> total, count, _ = divergence(
    ...     hidden, head, jnp.ones([3, 1]), other, jnp.array([1.0, 1.0, 0.0]))
    >>> round(float(total / count / jnp.log(2)), 4)  # 2 - 1.75 bits
    0.25

  Source: forward KL as in arXiv:2601.19897, jsd as in arXiv:2601.18734.
  """
  if len(head) != len(teacher_head):
    raise errors.InputError(
        f'the student has {len(head)} token ids and the teacher'
        f' {len(teacher_head)}: they need the same vocabulary')
  of = divergences.Divergence(kind, beta, temperature, clip, chunk)
  of.check()
  options = Options(
      of, meshes.multi_device(mesh), stream or meshes.is_split(mesh, head))
  total, per_token = _divergence(
      options, hidden, head, *jax.lax.stop_gradient((teacher_hidden, teacher_head)),
      mask)
  return total, jnp.sum(mask), jax.lax.stop_gradient(per_token)


class Options(NamedTuple):
  """Static options of `divergence`."""

  of: divergences.Divergence
  mesh: jax.sharding.Mesh | None
  stream: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divergence(options, hidden, head, teacher_hidden, teacher_head, mask):
  # Called only where no gradient is taken.
  value = teacher_stream.values(
      options.of, options.mesh, hidden, head, teacher_hidden, teacher_head)[0]
  return _total(options.of, value, mask)


def _total(of, value, mask):
  """(sum over the supervised tokens, bounded value of each)."""
  per_token = jnp.where(mask > 0, of.bounded(value), 0.0)
  return jnp.sum(mask * per_token), per_token


def _forward(options, hidden, head, teacher_hidden, teacher_head, mask):
  of, mesh, stream = options
  both = hidden, head, teacher_hidden, teacher_head
  if stream:
    value, *saved = teacher_stream.values(of, mesh, *both)
    return _total(of, value, mask), (*both, mask, value, *saved)
  value, dh, dw = teacher_tiles.gradients(of, mesh, *both, mask)
  return _total(of, value, mask), (dh, dw)


def _backward(options, saved, g):
  g, _ = g  # of the sum; the values of tokens are constants
  if options.stream:
    dh, dw = teacher_stream.gradients(options.of, options.mesh, *saved)
  else:
    dh, dw = saved
  return (g * dh).astype(dh.dtype), (g * dw).astype(dw.dtype), None, None, None


_divergence.defvjp(_forward, _backward)
