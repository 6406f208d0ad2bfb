"""Inputs and programs that several benchmarks share; it defines no flags."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import vocab_head
from ddt_jax.data import chat

# Of every contender that decodes; the last is the strength of the hint.
TEMPERATURE, TOP_P, HINT_BETA = 0.3, 0.95, 3.0


# Texts -----------------------------------------------------------------------


def examples(config: model.ModelConfig, lengths: np.ndarray) -> list[chat.Example]:
  """Random tokens of the given lengths, all of them supervised."""
  rng = np.random.default_rng(0)
  return [
      chat.Example(
          rng.integers(2, config.vocab_size, n).astype(np.int32), np.ones(n, bool))
      for n in lengths]


def make_pairs(
    config: model.ModelConfig, n: int, student: int, hinted: int
) -> list[tuple[list[int], list[int]]]:
  """n pairs of random prompts with these numbers of tokens."""
  rng = np.random.default_rng(n)
  return [
      tuple(rng.integers(2, config.vocab_size, k).tolist() for k in (student, hinted))
      for _ in range(n)
  ]


# The vocabulary head: functions of (hidden, head, targets) -------------------


def gradient(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Function of (hidden, head, targets): the loss and its two gradients."""
  return jax.value_and_grad(loss, (0, 1))


def tiles(name: str) -> Callable[..., Any]:
  """The objective by `weighted_nll`, in tiles of tokens."""
  def loss(hidden, head, targets):
    total, _, _ = vocab_head.weighted_nll(
        hidden, head, targets, jnp.ones(len(targets)),
        objectives.constant_weights(name))
    return total / len(targets)
  return gradient(loss)


def by_statistics(name: str, statistics: Callable[..., Any]) -> Callable[..., Any]:
  """The objective on token statistics by the given function."""
  def loss(hidden, head, targets):
    stats = statistics(hidden, head, targets)
    total, count, _ = objectives.token_loss(name, stats, jnp.ones(len(targets)))
    return total / count
  return gradient(loss)


# Decoding --------------------------------------------------------------------


class Decoding:
  """Contender: hinted decoding or plain sampling of some requests."""

  def __init__(self, params, config, pairs, new, *, slots, hinted=True):
    """Prepares the requests.

    Args:
      params, config: the model.
      pairs: (student ids, hinted ids) of each request.
      new: tokens of each response; none ends earlier.
      slots: requests decoded together.
      hinted: without it the student's prompt alone is read.
    """
    options = dict(eos_ids=(), slots=slots, temperature=TEMPERATURE, top_p=TOP_P)
    if hinted:
      options |= dict(
          combine=hinted_decode.Mixture(HINT_BETA), first_may_end=False)
    requests = [
        engine.Request((h, s) if hinted else (s,), new, i)
        for i, (s, h) in enumerate(pairs)
    ]
    self.syncs: list[engine.HostSync] = []
    self._run = lambda: engine.run(
        params, config, requests, engine.DecodeOptions(**options),
        key=jax.random.key(0), on_sync=self.syncs.append,
    )

  def __call__(self) -> dict[str, float]:
    """Decodes; returns the seconds without the prefill."""
    self.syncs.clear()
    self._run()
    return {'decode': sum(s.decode_s for s in self.syncs)}
