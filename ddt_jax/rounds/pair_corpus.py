"""One round's pairs from the current parameters, for DPO and SimPO.

  sample    the model answers each problem several times; the verifier judges
  pair      right against wrong answers, by the rule of `pairs`
  score     log p of both sides: the reference of DPO, computed once

The stages keep their responses in the files that `curate` keeps them in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import pair_batches
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import counts
from ddt_jax.rounds import curate
from ddt_jax.rounds import leaks
from ddt_jax.rounds import pairs
from ddt_jax.rounds import select
from ddt_jax.rounds import stages


class PairCorpus(NamedTuple):
  """Training pairs of a round.

  Attributes:
    problems, pairs, examples: aligned, in the order of the round's problems.
    summary: counts, mean phi and tokens by side, seconds by stage.
  """

  problems: list[records.Problem]
  pairs: list[pairs.Pair]
  examples: list[pair_batches.PairExample]
  summary: counts.RoundSummary


def make(
    context: curate.Context,
    problems: Sequence[records.Problem],
    options: select.Options,
    *,
    folder: Any,
    made_from: Mapping[str, Any],
    key: jax.Array,
    complete: bool = False,
    check_stop: Callable[[], None] = lambda: None,
    title: str = '',
) -> PairCorpus:
  """Makes the round's pairs; stages that are in `folder` already are read.

  A pair of which one side is too long for a row is left out.

  Args:
    context, problems, folder, made_from, key, complete, check_stop, title: see
      `curate.curate`; the parameters are the reference.
    options: samples of a problem, and `keep`, its pairs at most.

  Returns:
    The pairs; also in `folder`/pairs.jsonl, see `pairs.write`.

  Raises:
    errors.InputError: see `curate.curate`.
  """
  folder = storage.path(folder)
  work = stages.Stages(
      folder, {'problems': len(problems), **made_from}, complete=complete,
      check_stop=check_stop, title=title)
  answerable = [p for p in problems if p.answer]
  own = work.run(
      'sample', curate.sample_stage(context, options, key), answerable,
      size=options.shard, each=options.samples)
  found, counted = pairs.from_responses(own, context.end, keep=options.keep)

  by_id = {p.id: p for p in problems}
  fitting, both = _fitting(context, found, by_id)
  scored = iter(work.run(
      'score', curate.score_stage(context, [e for sides in both for e in sides]),
      [side for pair in fitting for side in (pair.chosen, pair.rejected)],
      # Both sides of a pair are in one block.
      size=2 * options.shard))
  kept = [pairs.Pair(next(scored), next(scored)) for _ in fitting]
  processes.from_first(
      pairs.write, folder / 'pairs.jsonl', kept, by_id.__getitem__)
  examples = [
      pair_batches.PairExample(*sides, (pair.chosen.log_p, pair.rejected.log_p))
      for pair, sides in zip(kept, both, strict=True)]
  return PairCorpus(
      [by_id[pair.problem_id] for pair in kept], kept, examples,
      _summary(context, problems, answerable, own, kept, counted, work,
               too_long=len(found) - len(fitting)))


def _fitting(
    context: curate.Context, found: Sequence[pairs.Pair],
    by_id: Mapping[str, records.Problem],
) -> tuple[list[pairs.Pair], list[tuple[chat.Example, chat.Example]]]:
  """Pairs whose sides fit a row, and the tokens of both sides."""
  prompts = answers.prompt_ids(
      context.tokenizer, [by_id[pair.problem_id] for pair in found])
  kept, both = [], []
  for pair, prompt in zip(found, prompts, strict=True):
    sides = tuple(
        lengths.cut(chat.answered(prompt, side.tokens), context.max_tokens, 'drop',
                    pair.problem_id)
        for side in (pair.chosen, pair.rejected))
    if None not in sides:
      kept.append(pair)
      both.append(sides)
  return kept, both


def _summary(
    context, problems, answerable, own, kept, counted, work, too_long
) -> counts.RoundSummary:
  def count(responses):
    return select.count(
        responses, lambda r: select.is_accepted(r, context.end), leaks.mentions)

  return counts.RoundSummary(
      problems=len(problems), unanswerable=len(problems) - len(answerable),
      own=count(own), hinted=count([]),
      solved=select.solved_by(pair.chosen for pair in kept),
      dropped={'too long': too_long},
      sources={
          'chosen': select.describe([pair.chosen for pair in kept], 'own'),
          'rejected': select.describe([pair.rejected for pair in kept], 'own')},
      skipped_for={}, timings=work.seconds, pairs=counted)
