"""The reference: parameters of another moment, with which a loss compares.

psft and iw_sft read its log p of each token; `kl_weight` adds to any objective

  L_KL = kl_weight * sum_t m_t KL(reference || model),

the KL over the whole vocabulary: ASFT with dft, the KL-to-base baseline with sft.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import vocab_head
from ddt_jax.data import batches

KINDS = ('frozen', 'refreshed', 'ema', 'live')


@dataclasses.dataclass(frozen=True)
class Reference:
  """Which parameters are the reference: the config's section `reference`.

  Attributes:
    kl_weight: of the KL to the reference, >= 0.
    kind: 'frozen', the model before training, with adapters the base alone;
      'refreshed', the parameters of at most `every` steps ago; 'ema', their moving
      average, with adapters that of A and of B; 'live', the current ones.
    every: steps between two copies, of 'refreshed'.
    rate: weight of the current parameters in each step of 'ema', in (0, 1].
  """

  kl_weight: float = 0.0
  kind: str = 'frozen'
  every: int = 8
  rate: float = 0.05

  def __post_init__(self):
    if not 0 <= self.kl_weight < float('inf'):
      raise errors.InputError(
          f'reference.kl_weight={self.kl_weight}: must be >= 0 and finite')
    if self.kind not in KINDS:
      raise errors.no_choice('reference.kind', self.kind, KINDS)
    if self.every < 1:
      raise errors.InputError(f'reference.every={self.every}: at least 1')
    if not 0 < self.rate <= 1:
      raise errors.InputError(f'reference.rate={self.rate} is not in (0, 1]')

  def is_read(self, name: str) -> bool:
    """Whether training by this objective reads the reference at all."""
    # Losses that are no token weights read none.
    is_weight = name in objectives.WEIGHTS
    return bool(
        self.kl_weight or is_weight and objectives.reference_option(name))

  def start(self, trained: Any, kept: Any = None) -> Any:
    """The reference that the state holds at the beginning of a round.

    Args:
      trained: parameters of the model, or its adapters.
      kept: the reference at the end of the last round, None before the first.

    Returns:
      A tree like `trained`; None where no copy is needed: of 'live', and of 'frozen'
      with adapters, whose base is there anyway.
    """
    adapted = isinstance(trained, lora.Adapters)
    if self.kind == 'live' or self.kind == 'frozen' and adapted:
      return None
    # The base of a run stays its base in every round.
    return trained if kept is None or self.kind == 'refreshed' else kept

  def parameters(self, trained: Any, reference: Any, base: Any = None) -> Any:
    """The reference's parameters, for `model.forward`.

    Args:
      trained: parameters of the model, or its adapters.
      reference: of the state, see `start`.
      base: that the adapters are on; None without adapters.
    """
    if self.kind == 'live':
      return lora.applied(trained, base)
    # The adapters switched off.
    return base if reference is None else lora.applied(reference, base)

  def after(self, step: jax.Array, params: Any, reference: Any) -> Any:
    """The reference after `step` steps, given the new parameters."""
    if self.kind == 'refreshed':
      due = step % self.every == 0
      return jax.tree.map(lambda p, r: jnp.where(due, p, r), params, reference)
    if self.kind == 'ema':
      return jax.tree.map(
          lambda p, r: r + self.rate * (p - r), params, reference)
    return reference


def compare(
    reference: Any, config: model.ModelConfig, batch: batches.Batch,
    hidden: jax.Array, head: jax.Array, name: str, kl_weight: float,
    mesh: jax.sharding.Mesh | None,
) -> tuple[dict[str, jax.Array], jax.Array, dict[str, jax.Array]]:
  """One forward of the reference: what an objective reads of it.

  Args:
    reference: parameters; they get no gradient.
    config, batch: of the model, whose `hidden` [B, T, D] and `head` are given.
    name: the objective.
    kl_weight, mesh: see `Reference` and `train_step.loss_sums`.

  Returns:
    (options of the objective [B, T], the weighted KL sum, metric sums).
  """
  reference = jax.lax.stop_gradient(reference)
  other, _ = model.forward(
      reference, config, batch.tokens, positions=batch.positions,
      segment_ids=batch.segment_ids, return_hidden=True, mesh=mesh)
  options, metrics, penalty = {}, {}, jnp.float32(0)
  if option := objectives.reference_option(name):
    options[option] = vocab_head.supervised_stats(
        other, model.head(reference), batch.targets, batch.mask, mesh=mesh).log_p
  if kl_weight:
    kl, _, _ = vocab_head.divergence(
        hidden, head, other, model.head(reference), batch.mask, mesh=mesh)
    penalty, metrics['kl'] = kl_weight * kl, jax.lax.stop_gradient(kl)
  return options, penalty, metrics
