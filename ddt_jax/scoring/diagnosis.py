"""How far off-policy a corpus is, and in which tokens."""

from typing import Literal

from ddt_jax import significance
from ddt_jax.scoring import corpus_summary

# Mean phi in nats per token of data that a model rewrote, arXiv:2602.12222:
# plain self-distillation stays below the first, Hinted Decoding is about the
# second.
DISTILLED, HINTED = -0.1, -0.05
Diagnosis = Literal[
    'on_policy', 'deterministic', 'few_tokens', 'some_tokens', 'spread']


def diagnose(numbers: corpus_summary.Numbers) -> Diagnosis:
  """Where the difference between a corpus and the model is.

  on_policy: the test rejects no more than it may reject wrongly, and mean phi is
    above that of Hinted Decoding.
  deterministic: phi is not below 0.
  few_tokens: the lowest 1 % of tokens cause 80 % of it, and few are extreme.
  some_tokens: the lowest 5 % cause half of it.
  spread: else.
  """
  lowest_1, lowest_5 = numbers.lowest['1 %'], numbers.lowest['5 %']
  if numbers.rejected <= significance.LEVEL and numbers.phi > HINTED:
    return 'on_policy'
  if lowest_1 is None:
    return 'deterministic'
  if lowest_1 >= 0.8 and numbers.tail_5 <= 0.01:
    return 'few_tokens'
  if lowest_5 >= 0.5 and numbers.phi > -1:
    return 'some_tokens'
  return 'spread'


def is_far(numbers: corpus_summary.Numbers) -> bool:
  """Whether a corpus is further off-policy than self-distilled data."""
  return numbers.phi < DISTILLED or numbers.rejected > 0.5
