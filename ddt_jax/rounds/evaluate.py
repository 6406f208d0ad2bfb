"""Accuracy on held-out problems: pass@1 (greedy) and avg@k (sampled)."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np
import tqdm

from ddt_jax import model
from ddt_jax import significance
from ddt_jax.data import records
from ddt_jax.rounds import answers


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
    **options: Any,
) -> SplitAccuracy:
  """pass@1 of greedy answers, avg@k of sampled ones, with 95 % intervals.

  An abstention of the verifier counts as not solved, and is counted.

  Args:
    params, config, tokenizer, problems: see `answers.answer`.
    key: of the samples.
    samples: k; 0 leaves avg@k out.
    temperature, top_p: of the samples; temperature 0 is greedy.
    **options: of `answers.answer`, max_new_tokens and verifier among them.
  """
  def solve(**sampling):
    return answers.answer(
        params, config, tokenizer, problems, key=key, **sampling, **options)

  # The key is not used by greedy decoding, so both calls may have the same.
  greedy = [row[0] for row in solve(greedy=True)]
  n = len(greedy)
  averaged = None
  if samples:
    rows = solve(
        samples=samples, **answers.sampling_options(temperature, top_p))
    # Samples of one problem depend on each other: the interval is over problems.
    averaged = significance.clustered_mean(np.array(
        [np.mean([r.correct is True for r in row]) for row in rows]
    ))
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


def by_split(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    splits: Mapping[str, Sequence[records.Problem]],
    *,
    problems: int,
    title: str = '',
    check_stop: Callable[[], None] = lambda: None,
    **options: Any,
) -> dict[str, SplitAccuracy]:
  """`accuracy` of each split; the config's section `evaluation` is its options.

  Args:
    params, config, tokenizer: the model.
    splits: problems with answers, by the split's name.
    problems: at most so many of each split; 0 measures nothing.
    title: precedes "evaluate" in the progress bar.
    check_stop: called after each split; may raise to end the call, which then
      begins again with the first split.
    **options: of `accuracy`.
  """
  found = {}
  for split, its_problems in tqdm.tqdm(
      splits.items() if problems else (), f'{title}evaluate'
  ):
    found[split] = accuracy(
        params, config, tokenizer, its_problems[:problems], **options)
    check_stop()
  return found
