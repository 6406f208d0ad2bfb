"""How many own samples the self-test takes: as many as some minutes allow.

The cost of a sample is measured on a few tokens, first for scoring and then for
drawing. Each is run twice, since the first run also compiles.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import model
from ddt_jax.data import buckets
from ddt_jax.data import chat

LEAST, MOST = 100, 2000  # samples; fewer see only coarse errors
_BLOCK_S = 60  # seconds of work that a kill may cost
_SCORED = 1024  # tokens, scored in one forward
_ROWS, _STEPS, _CONTEXT = 128, 8, 8  # texts drawn, tokens of each, of each prompt


@dataclasses.dataclass(frozen=True)
class Size:
  """Attributes:
    samples: number of texts.
    block: texts that are drawn, and scored, before they are kept in a file.
    expected_s: seconds that drawing and scoring them take.
  """

  samples: int
  block: int
  expected_s: float


def choose(seconds_each: float, *, minutes: float, samples: int = 0) -> Size:
  """The number of samples and their expected time.

  Args:
    seconds_each: see `seconds_per_text`.
    minutes: that the self-test may take, at least `LEAST` samples apart.
    samples: their number, if it is given; 0 for as many as the minutes allow.

  Example:
    >>> choose(0.5, minutes=10)
    Size(samples=1200, block=120, expected_s=600.0)
  """
  samples = samples or min(max(int(60 * minutes / seconds_each), LEAST), MOST)
  # A device is idle where few texts are decoded together.
  block = min(max(int(_BLOCK_S / seconds_each), 16), 500)
  return Size(samples, block, samples * seconds_each)


def seconds_per_text(
    params: Any,
    config: model.ModelConfig,
    prompts: Sequence[Sequence[int]],
    dispatch: Callable[..., Any],
    *,
    length: int,
    scored: int,
    decoding: Mapping[str, Any],
) -> float:
  """Seconds to draw one text and to score it, measured here.

  Args:
    params, config: the model.
    prompts: of the texts.
    dispatch: scores examples, see `forward.dispatch`.
    length: tokens of a text.
    scored: how often each text is scored.
    decoding: options of `engine.generate`.
  """
  context = float(np.mean([len(p) for p in prompts]))
  row = min(length, _SCORED)
  # Any tokens: their number decides the time.
  example = chat.answered([0], [0] * row)

  def score():
    pending = dispatch(
        params, examples=[example] * (_SCORED // row), tokens=_SCORED, tail=True)
    # A batch is padded to rows of one length.
    tokens = sum(mask.size for _, mask, _ in pending.batches)
    pending.collect()
    return tokens

  rows = min(decoding['slots'], _ROWS)

  def draw():
    engine.generate(
        params, config, [prompts[0][-_CONTEXT:]] * rows, key=jax.random.key(0),
        max_new_tokens=_STEPS, **{**decoding, 'eos_ids': ()})
    return rows * _STEPS

  score_s, draw_s = _seconds_each(score), _seconds_each(draw)
  # Drawing first reads the prompt, which costs about what scoring it does.
  return (length * draw_s + context * score_s
          + scored * buckets.padded_length(round(context) + length) * score_s)


def _seconds_each(run: Callable[[], int]) -> float:
  """Seconds per token of the second run, which compiles nothing."""
  run()
  began = time.perf_counter()
  tokens = run()
  return (time.perf_counter() - began) / tokens
