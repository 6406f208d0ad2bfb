"""Accuracy on held-out problems: pass@1 (greedy) and avg@k (sampled)."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import model
from ddt_jax import significance
from ddt_jax import verify
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.data import records


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
  """

  problems: int
  samples: int
  pass_at_1: significance.Interval
  avg_at_k: significance.Interval | None
  abstained: int
  mean_tokens: float
  unfinished: int


def answer(
    params: Any,
    config: model.ModelConfig,
    tokenizer: Any,
    problems: Sequence[records.Problem],
    *,
    turns_of: Callable[[records.Problem], prompts.Chat] | None = None,
    samples: int = 1,
    workers: int = 2,
    timeout_s: float = 5.0,
    **sampling: Any,
) -> list[list[records.Response]]:
  """Samples and verifies responses.

  Args:
    params, config, tokenizer: the model.
    problems: with answers to verify against.
    turns_of: the conversation to answer, default the problem alone.
    samples: responses to each problem.
    workers, timeout_s: of the verifier.
    **sampling: of `engine.generate`.

  Returns:
    For each problem its responses, with verdicts.
  """
  turns_of = turns_of or (lambda p: p.conversation[:-1])
  ids = [chat.encode_prompt(tokenizer, turns_of(p)) for p in problems]
  generated = engine.generate(
      params, config, [i for i in ids for _ in range(samples)], **sampling
  )
  texts = [
      tokenizer.decode(g.tokens, skip_special_tokens=True) for g in generated
  ]
  asked = [p for p in problems for _ in range(samples)]
  verdicts = verify.verify_all(
      [(text, p.answer) for text, p in zip(texts, asked, strict=True)],
      kind=[p.kind for p in asked], marker=[p.marker for p in asked],
      workers=workers, timeout_s=timeout_s,
  )
  responses = [
      records.Response(
          p.id, tuple(g.tokens), text, g.finish, 'own', v.correct, v.extracted,
          v.reason,
      )
      for p, g, text, v in zip(asked, generated, texts, verdicts, strict=True)
  ]
  return [
      responses[i: i + samples] for i in range(0, len(responses), samples)
  ]


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
    params, config, tokenizer, problems: see `answer`.
    key: of the samples.
    samples: k; 0 leaves avg@k out.
    temperature, top_p: of the samples.
    **options: of `answer`.
  """
  def solve(**how):
    return answer(params, config, tokenizer, problems, key=key, **how, **options)

  greedy = [row[0] for row in solve(greedy=True)]
  n = len(greedy)
  averaged = None
  if samples:
    rows = solve(samples=samples, temperature=temperature, top_p=top_p)
    averaged = significance.clustered_mean(np.array(
        [np.mean([r.correct is True for r in row]) for row in rows]
    ))
  return SplitAccuracy(
      problems=n,
      samples=samples,
      pass_at_1=significance.wilson(sum(r.correct is True for r in greedy), n),
      avg_at_k=averaged,
      abstained=sum(r.correct is None for r in greedy),
      mean_tokens=sum(len(r.tokens) for r in greedy) / max(n, 1),
      unfinished=sum(r.finish == 'length' for r in greedy),
  )
