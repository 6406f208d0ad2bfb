"""Corpora of the study: made once for each seed by the untouched model."""

from collections.abc import Sequence
import copy
import dataclasses
import random
from typing import Any, NamedTuple

from etils import epath
import jax
import jax.numpy as jnp

from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import pair_batches
from ddt_jax.rounds import counts
from experiments.run import curation
from experiments.run import inputs
from experiments.run import workdir


class Shared(NamedTuple):
  """A corpus that several cells train on.

  Attributes:
    examples: tokenised, pairs for a loss of pairs.
    summary: how it was made.
  """

  examples: Sequence[chat.Example | pair_batches.PairExample]
  summary: counts.RoundSummary


class Corpora:
  """The corpora below one folder; those that are there are read."""

  def __init__(self, c, folder: epath.Path, s: inputs.Inputs):
    """Makes nothing yet.

    Args:
      c: the study's config.
      folder: of all corpora.
      s: inputs of `c.run`; its parameters are the untouched model.
    """
    self._c, self._folder, self._inputs = c, folder, s
    self._made: dict[tuple[str, int], Shared] = {}

  def inputs_of(self, seed: int) -> inputs.Inputs:
    """The inputs with the problems of a seed, and a copy of the parameters."""
    c, s = self._c, self._inputs
    train = s.corpus.train
    # Another draw for each seed, so that intervals over seeds hold the choice of
    # the problems as well.
    some = random.Random(f'study-{seed}').sample(train, min(c.problems, len(train)))
    by_id = {p.id: s.train.by_id[p.id] for p in some if p.id in s.train.by_id}
    return dataclasses.replace(
        s, params=jax.tree.map(jnp.copy, s.params),  # a run donates them
        corpus=dataclasses.replace(s.corpus, train=some),
        train=lengths.Fitted(list(by_id.values()), 0, len(some) - len(by_id), by_id))

  def config(self, name: str, seed: int) -> Any:
    """The run's config by which a corpus is made."""
    c = copy.deepcopy(self._c.run)
    c.name, c.seed = name, seed
    c.update(self._c.corpora[name])
    return c

  def get(self, name: str, seed: int) -> Shared:
    """The corpus of a seed, made if it is not there.

    Raises:
      curation.NothingAccepted: it would be empty.
      storage.Locked: another process makes it.
    """
    if (name, seed) not in self._made:
      folder = self._folder / f'{name}-seed{seed}'
      c, s = self.config(name, seed), self.inputs_of(seed)
      with storage.lock(folder):
        workdir.keep_config(folder, c)
        found = curation.corpus_of_round(c, s, 0, s.params, folder, 0)
      self._made[name, seed] = Shared(found.examples, found.summary)
    return self._made[name, seed]
