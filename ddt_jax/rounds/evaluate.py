"""Accuracy on held-out problems: pass@1 (greedy) and avg@k (sampled)."""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import model
from ddt_jax import verify
from ddt_jax.data import chat
from ddt_jax.data import prompts
from ddt_jax.data import records

Z95 = 1.959964  # two-sided 95 % of the standard normal


def wilson(successes: int, n: int) -> dict[str, float]:
  """A share with its 95 % Wilson interval: value, low, high."""
  if n == 0:
    return {'value': 0.0, 'low': 0.0, 'high': 1.0}
  p, z2 = successes / n, Z95**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
  # At 0 and at n the interval ends there; rounding must not say otherwise.
  low = 0.0 if successes == 0 else centre - half
  high = 1.0 if successes == n else centre + half
  return {'value': p, 'low': low, 'high': high}


def clustered_mean(per_problem: np.ndarray) -> dict[str, float]:
  """Mean over problems, 95 % interval from their spread; in [0, 1].

  The k samples of a problem are not independent; the problems are. Where they
  all agree the spread says nothing, and Wilson's interval is given.
  """
  n = len(per_problem)
  mean = float(np.mean(per_problem)) if n else 0.0
  if n < 2 or np.ptp(per_problem) == 0:
    return wilson(round(mean * n), n) | {'value': mean}
  half = Z95 * float(np.std(per_problem, ddof=1)) / math.sqrt(n)
  return {
      'value': mean, 'low': max(0.0, mean - half), 'high': min(1.0, mean + half)
  }


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
) -> dict[str, Any]:
  """pass@1 of greedy answers, avg@k of sampled ones, with 95 % intervals.

  An abstention of the verifier counts as not solved, and is counted.

  Args:
    params, config, tokenizer, problems: see `answer`.
    key: of the samples.
    samples: k; 0 leaves avg@k out.
    temperature, top_p: of the samples.
    **options: of `answer`.

  Returns:
    {n, k, pass@1, avg@k, abstained, mean_tokens, unfinished}; the last three
    of the greedy answers.
  """
  def solve(**how):
    return answer(params, config, tokenizer, problems, key=key, **how, **options)

  greedy = [row[0] for row in solve(greedy=True)]
  n = len(greedy)
  result = {
      'n': n,
      'k': samples,
      'pass@1': wilson(sum(r.correct is True for r in greedy), n),
      'abstained': sum(r.correct is None for r in greedy),
      'mean_tokens': sum(len(r.tokens) for r in greedy) / max(n, 1),
      'unfinished': sum(r.finish == 'length' for r in greedy),
  }
  if samples:
    rows = solve(samples=samples, temperature=temperature, top_p=top_p)
    result['avg@k'] = clustered_mean(np.array(
        [np.mean([r.correct is True for r in row]) for row in rows]
    ))
  return result
