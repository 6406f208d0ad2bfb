r"""Self-distillation: a student follows a teacher on the student's own responses.

.. math:: L = \sum_t m_t\, D(T_t, S_t), \qquad T_t = p_{teacher}(\cdot | c', y_{<t}),
          \quad S_t = p_{student}(\cdot | c, y_{<t}), \quad y \sim student(\cdot | c)

c is the problem; c' is the problem with its reference solution, so the teacher may be
the same model. D is a divergence over the whole vocabulary, see
`vocab_head.divergence`. With forward KL it is SDFT (arXiv:2601.19897), with a clipped
JSD it is OPSD (arXiv:2601.18734). A larger teacher, which need not read the reference,
and reverse KL make it on-policy distillation (arXiv:2306.13649).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import vocab_head
from ddt_jax.data import two_contexts
from ddt_jax.training import train_step
from ddt_jax.vocab_head import divergences

NAME = 'distill'  # of the loss
RESPONSES = ('all', 'right')


@dataclasses.dataclass(frozen=True)
class Distillation:
  """What is distilled, and how: the config's section `distill`.

  Attributes:
    every: steps between two draws of responses; 1 is fully on-policy.
    responses: 'all', or 'right': those that the verifier calls right.
    teacher: Hugging Face folder of the teacher; '' is the model itself, by the
      rule of the section `reference`.
    hint: whether the teacher reads the reference solution.
    kind, temperature: see `vocab_head.divergence`.
    mixture: its beta, of jsd: share of the teacher in the mixture of both.
    clip: largest divergence of a token, nats; 0 for no bound.
    skip: tokens at the start of each response that are not trained.
    least_entropy, most_entropy: of the teacher, nats: other tokens are not trained;
      a most_entropy of 0 is no bound.
  """

  every: int = 1
  responses: str = 'all'
  teacher: str = ''
  hint: bool = True
  kind: str = 'forward'
  mixture: float = 0.5
  temperature: float = 1.0
  clip: float = 0.0
  skip: int = 0
  least_entropy: float = 0.0
  most_entropy: float = 0.0

  def __post_init__(self):
    for name, value, known in (
        ('responses', self.responses, RESPONSES),
        ('kind', self.kind, divergences.KINDS)):
      if value not in known:
        raise errors.no_choice(f'distill.{name}', value, known)
    for name, value, least in (('every', self.every, 1), ('skip', self.skip, 0)):
      if value < least:
        raise errors.InputError(f'distill.{name}={value}: at least {least}')
    for name in ('clip', 'least_entropy', 'most_entropy'):
      if not 0 <= getattr(self, name) < float('inf'):
        raise errors.InputError(
            f'distill.{name}={getattr(self, name)}: must be >= 0 and finite')
    if 0 < self.most_entropy < self.least_entropy:
      raise errors.InputError(
          f'distill.most_entropy={self.most_entropy} is less than'
          f' distill.least_entropy={self.least_entropy}: no token is trained')
    if not 0 < self.mixture < 1:
      raise errors.InputError(
          f'distill.mixture={self.mixture} is not between 0 and 1')
    if not self.hint and not self.teacher:
      raise errors.InputError(
          'distill.hint=False: the model as its own teacher has to read the'
          ' reference, or it has nothing to teach; or name a folder by'
          ' distill.teacher')
    divergences.Divergence(
        self.kind, self.mixture, self.temperature, self.clip or None).check()

  @property
  def reads_entropy(self) -> bool:
    """Whether the teacher's entropy decides which tokens are trained."""
    return bool(self.least_entropy or self.most_entropy)

  def trained(self, mask: jax.Array, entropy: jax.Array | None) -> jax.Array:
    """The mask [B, R] of the tokens that are trained.

    Args:
      mask: 1 at response tokens.
      entropy: [B, R], the teacher's; None where `reads_entropy` is False.
    """
    kept = jnp.arange(mask.shape[1]) >= self.skip
    if entropy is not None:
      kept &= entropy >= self.least_entropy
      if self.most_entropy:
        kept &= entropy <= self.most_entropy
    return jnp.where(kept, mask, 0.0)


def loss_sums(
    params: Any,
    teacher: Any,
    config: model.ModelConfig,
    teacher_config: model.ModelConfig,
    batch: two_contexts.TwoContexts,
    options: Distillation,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
  """Divergence from the teacher over a batch; it has a gradient by `params` alone.

  The teacher costs one forward. The student's log p and entropy, for the metrics,
  cost one product with the head; a mask by the teacher's entropy costs another.

  Args:
    params, config: the student.
    teacher, teacher_config: the teacher, whose vocabulary is the student's.
    batch: rows, sharded over `data` and `fsdp` of the mesh.
    options: what is distilled.
    mesh: None for one device.

  Returns:
    (loss sum, (trained tokens, metric sums)). The metrics are of the student at all
    response tokens, in the terms of `objectives.token_loss`: a token's weight is 1
    where it is trained, else 0.
  """
  hidden = _hidden(
      params, config, batch.tokens, batch.positions, batch.start, batch, mesh)
  other = teacher_hidden(teacher, teacher_config, batch, mesh=mesh)
  head = model.head(params)
  teacher_head = jax.lax.stop_gradient(model.head(teacher))
  entropy = None
  if options.reads_entropy:
    entropy = vocab_head.supervised_stats(
        other, teacher_head, batch.targets, batch.mask, mesh=mesh).entropy
  mask = options.trained(batch.mask, entropy)
  total, count, _ = vocab_head.divergence(
      hidden, head, other, teacher_head, mask, kind=options.kind,
      beta=options.mixture, temperature=options.temperature,
      clip=options.clip or None, mesh=mesh)
  stats = vocab_head.supervised_stats(
      *jax.lax.stop_gradient((hidden, head)), batch.targets, batch.mask, mesh=mesh)
  return total, (count, {
      'tokens': jnp.sum(batch.mask),
      # `supervised_stats` is 0 where the mask is.
      'nll': -jnp.sum(stats.log_p),
      'phi': jnp.sum(stats.phi),
      'entropy': jnp.sum(stats.entropy),
      'weight': count,
      'weight_squared': count,
  })


def make_loss(
    config: model.ModelConfig, teacher_config: model.ModelConfig,
    options: Distillation, *, mesh: jax.sharding.Mesh | None = None
) -> train_step.LossSums:
  """`loss_sums` for `train_step.make_step`; the reference is the teacher."""

  def sums(params, batch, teacher, strength):
    del strength  # the curriculum is that of idft
    return loss_sums(
        params, teacher, config, teacher_config, batch, options, mesh=mesh)

  return sums


def teacher_memory(
    teacher: Any, config: model.ModelConfig, shape: two_contexts.Shape,
    mesh: jax.sharding.Mesh
) -> int:
  """Bytes that the teacher's forward takes on each device beside its parameters.

  The compiler says so; no batch is computed.

  Args:
    teacher, config: parameters, or their abstract shapes, and the model.
    shape: of a micro-batch.
    mesh: of training.
  """
  batch = two_contexts.abstract(shape, sharding.batch_sharding(mesh))
  found = jax.jit(
      functools.partial(teacher_hidden, config=config, mesh=mesh)
  ).lower(teacher, batch=batch).compile().memory_analysis()
  return found.temp_size_in_bytes + found.output_size_in_bytes


def teacher_hidden(
    teacher: Any, config: model.ModelConfig, batch: two_contexts.TwoContexts, *,
    mesh: jax.sharding.Mesh | None = None
) -> jax.Array:
  """Hidden states [B, R, E] that predict the responses; no gradient."""
  teacher = jax.lax.stop_gradient(teacher)
  return _hidden(
      teacher, config, batch.teacher_tokens, batch.teacher_positions,
      batch.teacher_start, batch, mesh)


def _hidden(params, config, tokens, positions, start, batch, mesh):
  hidden, _ = model.forward(
      params, config, tokens, positions=positions, return_hidden=True, mesh=mesh)
  return two_contexts.at_responses(hidden, start, batch.targets.shape[1])
