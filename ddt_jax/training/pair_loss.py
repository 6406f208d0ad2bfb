r"""DPO and SimPO on a batch of pairs, through the streaming head.

.. math:: L = \sum_i \left[\ell_i - \alpha \frac{\log \pi(c_i)}{|c_i|}\right]

l_i is the pair's loss, see `preference`, and c_i its chosen response. The second
term is an NLL (arXiv:2404.19733). Count and metrics are per pair.

A loss of pairs needs nothing but the sum of log p over each response. Both sides
are rows of one forward, and `vocab_head.supervised_log_p` holds no logits of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import preference
from ddt_jax import vocab_head
from ddt_jax.data import pair_batches

NAMES = ('dpo', 'simpo')  # values of loss.name
# Sums over pairs; over the tokens of chosen responses.
_OF_PAIRS = (
    'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'rewards/accuracies',
    'logps/chosen', 'logps/rejected', 'lengths/chosen', 'lengths/rejected')
_OF_TOKENS = ('nll', 'phi', 'entropy')


@dataclasses.dataclass(frozen=True)
class Preference:
  """Options of a loss of pairs: the config's section `preference`.

  Attributes:
    name: 'dpo' or 'simpo'.
    beta: scale of the margin, > 0.
    gamma: margin that SimPO asks for, >= 0; DPO does not read it.
    label_smoothing: DPO's, in [0, 0.5); SimPO has none.
    nll_weight: alpha, weight of the NLL of the chosen response, per token; >= 0.
  """

  name: str
  beta: float = 0.1
  gamma: float = 1.0
  label_smoothing: float = 0.0
  nll_weight: float = 0.0

  def __post_init__(self):
    if self.name not in NAMES:
      raise errors.no_choice('loss.name', self.name, NAMES)
    if not 0 <= self.nll_weight < float('inf'):
      raise errors.InputError(
          f'preference.nll_weight={self.nll_weight}: must be >= 0 and finite')
    if self.name == 'simpo' and self.label_smoothing:
      raise errors.InputError(
          f'preference.label_smoothing={self.label_smoothing}: loss.name=simpo has'
          ' none')
    # On one pair; the losses check their own options.
    zeros = jnp.zeros((1, 2))
    self.losses(zeros, zeros, zeros)

  def losses(
      self, log_p: jax.Array, reference: jax.Array, tokens: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Losses and metrics of pairs, without the NLL term.

    Args:
      log_p, reference: sums over each response, nats [P, 2].
      tokens: supervised tokens of each response [P, 2].

    Returns:
      (losses [P], metrics [P] by name), see `preference`.
    """
    if self.name == 'dpo':
      return preference.dpo(
          *log_p.T, *reference.T, beta=self.beta,
          label_smoothing=self.label_smoothing)
    return preference.simpo(
        *log_p.T, *tokens.T, beta=self.beta, gamma=self.gamma)


def loss_sums(
    params: Any,
    config: model.ModelConfig,
    batch: pair_batches.PairBatch,
    rule: Preference,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
  """Loss sum, number of pairs and metric sums of a batch; the sum has a gradient.

  Args:
    params, config: the model.
    batch: pairs, sharded over `data` and `fsdp` of the mesh.
    rule: the loss.
    mesh: None for one device.

  Returns:
    (loss sum, (pairs, metric sums)); `summarise` reads the metrics.
  """
  rows = batch.flat_rows()
  hidden, _ = model.forward(
      params, config, rows.tokens, positions=rows.positions, return_hidden=True,
      mesh=mesh)
  return head_sums(hidden, model.head(params), batch, rule, mesh=mesh)


def head_sums(
    hidden: jax.Array, head: jax.Array, batch: pair_batches.PairBatch,
    rule: Preference, *, mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
  """`loss_sums` from hidden states; never holds [2 P, T, V].

  Args:
    hidden: of the flat rows [2 P, T, D].
    head: [V, D].
    batch, rule, mesh: see `loss_sums`.
  """
  rows = batch.flat_rows()
  of_tokens, stats = vocab_head.supervised_log_p(
      hidden, head, rows.targets, rows.mask, mesh=mesh)

  def per_response(x):  # [2 P, T] -> [P, 2]
    return (rows.mask * x).sum(-1).reshape(-1, 2)

  log_p, tokens = per_response(of_tokens), rows.mask.sum(-1).reshape(-1, 2)
  losses, metrics = rule.losses(log_p, batch.reference, tokens)
  if rule.nll_weight:
    losses -= rule.nll_weight * log_p[:, 0] / jnp.maximum(tokens[:, 0], 1)
  is_pair = (tokens.sum(-1) > 0).astype(jnp.float32)  # 0 for padding

  metrics |= {
      'logps/chosen': log_p[:, 0], 'logps/rejected': log_p[:, 1],
      'lengths/chosen': tokens[:, 0], 'lengths/rejected': tokens[:, 1]}
  sums = {name: jnp.sum(is_pair * metrics[name]) for name in _OF_PAIRS} | {
      'pairs': is_pair.sum(), 'tokens': tokens.sum(), 'nll': -log_p[:, 0].sum(),
      'phi': per_response(stats.phi)[:, 0].sum(),
      'entropy': per_response(stats.entropy)[:, 0].sum()}
  return (
      jnp.sum(is_pair * losses),
      (is_pair.sum(), jax.lax.stop_gradient(sums)))


def summarise(sums: dict[str, Any]) -> dict[str, float]:
  """Means from metric sums, under the names that TRL's users know.

  Args:
    sums: metrics of `loss_sums`, added over micro-batches, steps and devices.

  Returns:
    Means per pair: rewards/chosen, rewards/rejected, rewards/margins,
    rewards/accuracies; logps/chosen and logps/rejected, nats; lengths/chosen and
    lengths/rejected, tokens. Means per token of the chosen responses, nats: nll,
    phi, entropy. tokens and pairs, their numbers.
  """
  pairs = np.maximum(sums['pairs'], 1)
  chosen = np.maximum(sums['lengths/chosen'], 1)
  return {
      **{name: float(sums[name] / pairs) for name in _OF_PAIRS},
      **{name: float(sums[name] / chosen) for name in _OF_TOKENS},
      'tokens': float(sums['tokens']), 'pairs': float(sums['pairs'])}
