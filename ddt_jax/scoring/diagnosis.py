"""How far off-policy a corpus is, and in which tokens."""

from typing import Literal

from ddt_jax import significance
from ddt_jax.scoring import corpus_summary

# Mean phi in nats per token of data that a model rewrote, arXiv:2602.12222:
# plain self-distillation stays below the first, Hinted Decoding is about the
# second.
DISTILLED, HINTED = -0.1, -0.05
# Below this mean phi token weights such as exp(phi) leave little to train on.
FAR = -1.0
Diagnosis = Literal[
    'undecided', 'deterministic', 'on_policy', 'mixed', 'few_tokens', 'mild', 'far',
    'some_tokens', 'spread']


def diagnose(numbers: corpus_summary.Numbers) -> Diagnosis:
  """Where the difference between a corpus and the model is; the first that holds.

  undecided: the test rejects no more than it may reject wrongly, and the interval
    of mean phi holds both on-policy and off-policy values.
  deterministic: phi is clearly above 0.
  on_policy: the test rejects no more than it may reject wrongly, and mean phi is
    above that of Hinted Decoding.
  mixed: the test rejects, but mean phi is not clearly below 0.
  few_tokens: the lowest 1 % of tokens cause 80 % of it, and few are extreme.
  mild: see `is_far`.
  far: mean phi is at most -1.
  some_tokens: the lowest 5 % cause half of it.
  spread: else.
  """
  lowest_1, lowest_5 = numbers.lowest['1 %'], numbers.lowest['5 %']
  accepted = numbers.rejected <= significance.LEVEL
  low, high = interval(numbers)
  if accepted and low <= DISTILLED and high > HINTED:
    return 'undecided'
  if low > 0 and numbers.phi > -HINTED:
    return 'deterministic'
  if accepted and numbers.phi > HINTED:
    return 'on_policy'
  if lowest_1 is None or lowest_5 is None:
    return 'mixed'
  if lowest_1 >= 0.8 and numbers.tail_5 <= 0.01:
    return 'few_tokens'
  if not is_far(numbers):
    return 'mild'
  if numbers.phi <= FAR:
    return 'far'
  return 'some_tokens' if lowest_5 >= 0.5 else 'spread'


def interval(numbers: corpus_summary.Numbers) -> tuple[float, float]:
  """Mean phi less and plus 2 standard errors, nats per token."""
  return numbers.phi - 2 * numbers.phi_se, numbers.phi + 2 * numbers.phi_se


def is_far(numbers: corpus_summary.Numbers) -> bool:
  """Whether a corpus is further off-policy than self-distilled data."""
  return numbers.phi < DISTILLED or numbers.rejected > 0.5
