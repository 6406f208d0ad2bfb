"""The corpus of one round, of responses or of pairs, out of a config."""

import os
import sys
from typing import Any

import jax
import tqdm

from ddt_jax import processes
from ddt_jax.rounds import answers
from ddt_jax.rounds import curate
from ddt_jax.rounds import pair_corpus
from ddt_jax.rounds import select
from ddt_jax.training import pair_loss
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import workdir


class NothingAccepted(RuntimeError):
  """A round has no examples to train on."""


def corpus_of_round(
    c, s: inputs.Inputs, r: int, params: Any, folder: str | os.PathLike,
    step: int, *, complete: bool = False
) -> curate.Corpus | pair_corpus.PairCorpus:
  """Makes the corpus of round r, or reads what an earlier call has made.

  Args:
    c, s: the config, and the inputs made from it; its loss decides whether the
      corpus is of responses or of pairs.
    r: the round, from 0.
    params: the model's parameters after `step` steps.
    folder: of the round.
    step: recorded with what is made.
    complete: the corpus must be there: `params` are not those after `step`.

  Raises:
    NothingAccepted: no response was accepted.
  """
  options = select.Options(**c.curate)
  given = (
      s.context(c, params),
      options.problems_of_round(s.corpus.train, r, c.rounds), options)
  shared = dict(
      folder=folder,
      # A file made with other parameters, seed or options is refused on resuming.
      made_from={
          'step': step, 'seed': c.seed, 'config': workdir.config_hash(c)},
      # The same key on resuming, so that a missing block is drawn as it was.
      key=jax.random.fold_in(jax.random.key(c.seed), r),
      complete=complete, check_stop=lifecycle.check_stop, title=f'round {r + 1}, ',
  )
  if c.loss.name in pair_loss.NAMES:
    corpus = pair_corpus.make(*given, **shared)
    if processes.is_first():
      tqdm.tqdm.write(f'round {r + 1}: {corpus.summary.pairs}', file=sys.stderr)
    nothing = (
        'no problem has a right and a wrong answer. More samples of each help:'
        f' curate.samples={c.curate.samples}')
  else:
    corpus = curate.curate(
        *given, answers.Rewriting(**c.hint), references=s.train.by_id, **shared)
    nothing = (
        'no response was accepted. With curate.fallback=reference the given'
        ' solutions are trained on')
  if not corpus.examples:
    raise NothingAccepted(f'round {r + 1} has nothing to train on: {nothing}')
  return corpus
