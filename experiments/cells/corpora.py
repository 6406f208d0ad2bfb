"""Corpora of the study: made once for each seed by the untouched model."""

from collections.abc import Sequence
import copy
import dataclasses
import random
from typing import Any, NamedTuple

from etils import epath
import jax
import jax.numpy as jnp

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import pair_batches
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.embedded import hands
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


# Fields of a corpus that are none of a run: who wrote its solutions.
AUTHORS = ('hand', 'text', 'mistaken')


def sections(corpus) -> dict[str, Any]:
  """The fields of a corpus that are fields of a run."""
  return {k: v for k, v in corpus.to_dict().items() if k not in AUTHORS}


def rewritten(s: inputs.Inputs, corpus, data) -> inputs.Inputs:
  """The inputs with the solutions of another author, where the corpus names one.

  Args:
    s: with the problems.
    corpus: of configs/study.py; `hand` of `hands.HANDS`, `mistaken`, a false
      solution, or `text`, a template with {problem} and {answer}.
    data: the run's section, for the length of the examples.

  Raises:
    errors.InputError: the problems have no stories to write about.
  """
  if not any(corpus.get(field) for field in AUTHORS):
    return s
  problems = [
      dataclasses.replace(p, solution=solution)
      for p, solution in zip(
          s.corpus.train, solutions(s.corpus.train, corpus), strict=True)]
  return dataclasses.replace(
      s, corpus=dataclasses.replace(s.corpus, train=problems),
      train=lengths.prepare(
          s.tokenizer, problems, s.end, data.max_tokens, overlong=data.overlong))


def solutions(problems: Sequence[records.Problem], corpus) -> list[str]:
  """A solution to each problem by the author of a corpus, see `rewritten`."""
  if text := corpus.get('text'):
    return [text.format(problem=p.problem, answer=p.answer) for p in problems]
  stories = hands.training_stories()
  if unknown := [p.id for p in problems if p.id not in stories]:
    raise errors.InputError(
        f'problem {unknown[0]!r} is no story of the embedded world: hand and'
        ' mistaken are for data.name=word_problems')
  if corpus.get('mistaken'):
    return [hands.solution(hands.mistaken(stories[p.id]), 'bookkeeper', p.id)
            for p in problems]
  return [hands.solution(stories[p.id], corpus.hand, p.id) for p in problems]


class Copied(NamedTuple):
  """What Hinted Decoding makes of false solutions.

  Attributes:
    texts: rewritten ones.
    copied: with the false answer.
    right: with the right one all the same.
  """

  texts: int
  copied: int
  right: int


def copied(folder: epath.Path) -> Copied:
  """Counts the answers in a finished corpus of false hints.

  Args:
    folder: of the corpus.
  """
  stories = hands.training_stories()
  texts = [r for r in stage_cache.finished(folder / 'rewrite', records.Response)
           if r.finish != 'skipped']
  false = [hands.mistaken(stories[r.problem_id]).answer for r in texts]
  return Copied(
      len(texts), sum(r.extracted == x for r, x in zip(texts, false, strict=True)),
      sum(r.correct is True for r in texts))


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
    c.update(sections(self._c.corpora[name]))
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
      s = rewritten(s, self._c.corpora[name], c.data)
      with storage.lock(folder):
        workdir.keep_config(folder, c)
        found = curation.corpus_of_round(c, s, 0, s.params, folder, 0)
      self._made[name, seed] = Shared(found.examples, found.summary)
    return self._made[name, seed]
