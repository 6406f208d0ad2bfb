"""On-policy SFT in JAX: score data, train on it, rewrite it.

Reading order: `ddt` (phi and the on-policy test), `objectives` (the losses),
`vocab_head` (the same without [tokens, V] logits), `hinting` and
`hinted_decode` (rewriting), `rounds.curate` (one round's corpus), then
`experiments/train.py`, which runs the rounds.

Dimensions, used in docstrings and einsums everywhere:

  B batch, T time, S cache, V vocabulary, D width, F MLP width,
  N heads, K kv heads, H head dim, L layers, R kv groups (N = K R)

In engine/: S slots, Q queue places, P prompt columns, R ring columns.

The map. A module imports only modules that stand above it:

  errors         InputError: what a user can mend
  ddt            token statistics, phi, the calibrated on-policy test
  sharding       the mesh; (parameter path, PartitionSpec) rules
  processes      several hosts: decisions by process 0, broadcast to all
  significance   intervals, ranks and tests, by SciPy
  objectives/    token weights, their curriculum, the weighted mean
  preference     DPO and SimPO, on pairs of responses
  vocab_head/    hidden states -> token statistics, without the logits
  hinting        lambda schedules, the geometric mixture of two streams
  sampling       nucleus, temperature, draw
  stopping       repetition, a splitter's automaton over tokens
  storage/       the one place that touches files: local folders and gs://
  verify/        the answer of a response: right, wrong or abstained
  model/         config, layers, attention, the decoder's pure forward
  lora           low-rank adapters on the parameter tree
  weights/       Hugging Face folders <-> the parameter tree
  data/          records, prompts, readers, chat masks, batches, stage cache
  engine/        batched decoding: requests, slots, the device loop
  hinted_decode/  the two-stream loop, and rewriting by it
  projection/    exact chains over right answers, with hinted proposals
  training/      optimizer, step, checkpoints, progress, metrics
  embedded/      the student that ships with the project, and its world
  scoring/       phi over corpora: numbers only
  rounds/        one round's corpus: answers, selection, evaluation
  report/        words and looks: pages, plots, tables; notebook/: results that show
                 themselves in a cell

The five names that another training loop needs come from here, too:
`from ddt_jax import weighted_nll`. JAX is imported when one of them is first used.
"""

import importlib
from typing import Any

# Name -> its module. Not imported here: `import ddt_jax` takes no time and no JAX.
_HOMES = {
    'token_stats': 'ddt_jax.ddt',
    'on_policy_test': 'ddt_jax.ddt',
    'token_loss': 'ddt_jax.objectives',
    'constant_weights': 'ddt_jax.objectives',
    'weighted_nll': 'ddt_jax.vocab_head',
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
  """Imports one of the five names at its first use."""
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_HOMES})
