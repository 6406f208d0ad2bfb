"""Accuracy on held-out problems: pass@1 (greedy) and avg@k (sampled)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

import jax
import numpy as np
import tqdm

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import significance
from ddt_jax import storage
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import stages


@dataclasses.dataclass(frozen=True)
class SplitAccuracy:
  """Accuracy on the problems of one split.

  Attributes:
    problems: their number.
    samples: sampled answers to each; 0 where none were drawn.
    pass_at_1: share of problems solved by the greedy answer.
    avg_at_k: mean share of a problem's samples that are right; None without
      samples.
    abstained: greedy answers that the verifier did not judge.
    mean_tokens: mean length of a greedy answer, in tokens.
    unfinished: greedy answers cut off by the length limit.
    skipped: problems whose prompt leaves no room for an answer; not solved.
  """

  problems: int
  samples: int
  pass_at_1: significance.Interval
  avg_at_k: significance.Interval | None
  abstained: int
  mean_tokens: float
  unfinished: int
  skipped: int


def pass_at_k(right: np.ndarray, samples: int, k: int) -> np.ndarray:
  r"""Estimate of P(at least one of k samples is right), for each problem.

  .. math:: 1 - \binom{n - c}{k} \big/ \binom{n}{k}

  Unbiased. Source: arXiv:2107.03374, section 2.1.

  Args:
    right: [problems], c, right samples of each problem.
    samples: n, samples of each problem.
    k: at most n.

  Returns:
    [problems], float64.

  Raises:
    errors.InputError: k is above n, or below 1.

  Example:
    >>> pass_at_k(np.array([0, 1, 4]), 4, 2)
    array([0. , 0.5, 1. ])
  """
  if not 1 <= k <= samples:
    raise errors.InputError(
        f'pass@{k} needs at least {k} samples of a problem, and k at least 1:'
        f' there are {samples}')
  right = np.asarray(right)
  # Product form: the binomials themselves overflow for large n.
  wrong_left = (samples - right)[:, None] - np.arange(k)
  drawn_left = samples - np.arange(k)
  return 1.0 - np.prod(np.maximum(wrong_left, 0) / drawn_left, axis=1)


def accuracy(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    *,
    key: jax.Array,
    samples: int = 4,
    temperature: float = 1.0,
    top_p: float = 1.0,
    work: stages.Stages | None = None,
    bar: tqdm.tqdm | None = None,
    **options: Any,
) -> SplitAccuracy:
  """pass@1 of greedy answers, avg@k of sampled ones, with 95 % intervals.

  An abstention of the verifier counts as not solved, and is counted.

  Args:
    params, config, tokenizer, problems: see `answers.answer`.
    key: of the samples.
    samples: k; 0 leaves avg@k out.
    temperature, top_p: of the samples; temperature 0 is greedy.
    work: keeps the answers as its stages `greedy` and `sampled`, and writes them
      as JSON lines to `<its folder>.jsonl`; None keeps nothing.
    bar: to move; None: none is shown.
    **options: of `answers.answer`, max_new_tokens and verifier among them.
  """
  work = work or stages.Stages()
  if bar is None:
    bar = engine.progress_bar(0, '')  # one that is not shown

  def solve(name, samples=1, **sampling):
    def make(first, block, journal):
      del first  # all problems are one block
      rows = answers.answer(
          params, config, tokenizer, block, key=key, samples=samples,
          journal=journal, **sampling, **options)
      return [response for row in rows for response in row]

    flat = work.run(name, make, problems, each=samples, bar=bar)
    return [flat[i: i + samples] for i in range(0, len(flat), samples)]

  # The key is not used by greedy decoding, so both calls may have the same.
  greedy = [row[0] for row in solve('greedy', greedy=True)]
  n, averaged, rows = len(greedy), None, []
  if samples:
    rows = solve(
        'sampled', samples, **answers.sampling_options(temperature, top_p))
    # Samples of one problem depend on each other: the interval is over problems.
    averaged = significance.clustered_mean(np.array(
        [np.mean([r.correct is True for r in row]) for row in rows]
    ))
  if work.folder is not None:
    text = ''.join(_lines(problems, greedy, rows))
    processes.from_first(
        storage.publish, work.folder.with_suffix('.jsonl'), text)
  return SplitAccuracy(
      problems=n,
      samples=samples,
      pass_at_1=significance.wilson(sum(r.correct is True for r in greedy), n),
      avg_at_k=averaged,
      # `is None` and `is True`: an abstention is neither right nor wrong.
      abstained=sum(r.correct is None for r in greedy),
      mean_tokens=sum(len(r.tokens) for r in greedy) / max(n, 1),
      unfinished=sum(r.finish == 'length' for r in greedy),
      skipped=sum(r.finish == 'skipped' for r in greedy),
  )


def _lines(
    problems: Sequence[records.Problem],
    greedy: Sequence[records.Response],
    sampled: Sequence[Sequence[records.Response]],
) -> Iterator[str]:
  """Every answer with its problem and its verdict, as lines of JSON."""
  for i, p in enumerate(problems):
    of_problem = [('greedy', greedy[i])]
    of_problem += [('sampled', r) for r in (sampled[i] if sampled else ())]
    for decoding, r in of_problem:
      yield json.dumps({
          'id': p.id, 'decoding': decoding, 'problem': p.problem,
          'answer': p.answer, 'response': r.text, 'correct': r.correct,
          'extracted': r.extracted, 'reason': r.reason, 'finish': r.finish,
          'tokens': len(r.tokens)}) + '\n'


def by_split(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    splits: Mapping[str, Sequence[records.Problem]],
    *,
    problems: int,
    samples: int = 4,
    title: str = '',
    folder: Any = None,
    made_from: dict[str, Any] | None = None,
    check_stop: Callable[[], None] = lambda: None,
    **options: Any,
) -> dict[str, SplitAccuracy]:
  """`accuracy` of each split; the config's section `evaluation` is its options.

  Args:
    params, config, tokenizer: the model.
    splits: problems with answers, by the split's name.
    problems: at most so many of each split; 0 measures nothing.
    samples: see `accuracy`.
    title: precedes "evaluate" in the progress bar.
    folder: keeps the answers, from which an interrupted call resumes; those of a
      split are also in `<folder>/<split>.jsonl`. None keeps nothing.
    made_from: see `stage_cache.StageCache`.
    check_stop: called while answers are drawn and after each split; may raise to
      end the call.
    **options: of `accuracy`.
  """
  some = {split: its[:problems] for split, its in splits.items() if problems}
  total = sum(map(len, some.values())) * (1 + samples)
  found = {}
  with engine.progress_bar(total, f'{title}evaluate') as bar:
    for split, its_problems in some.items():
      work = stages.Stages(
          None if folder is None else storage.path(folder) / _file_name(split),
          {'split': split, **(made_from or {})}, check_stop=check_stop,
          title=f'{title}evaluate {split}, ')
      found[split] = accuracy(
          params, config, tokenizer, its_problems, samples=samples, work=work,
          bar=bar, **options)
  return found


def _file_name(split: str) -> str:
  """The split's name without characters that a path or a store takes amiss."""
  return re.sub(r'[^\w-]+', '_', split)
