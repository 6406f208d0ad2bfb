"""The self-test: the model's own samples must look like its own.

If they do not, something between sampling and scoring is wrong: the tokenizer,
the chat template, a dtype or the mask. Then no score can be trusted.

The samples are drawn and scored once, each `length` tokens long, without stop
tokens. Cut at its first stop token, such a text is an ordinary sample.
"""

from collections.abc import Collection, Sequence
import dataclasses

import numpy as np

from ddt_jax import ddt
from ddt_jax import processes
from ddt_jax import significance
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import response_scores
from ddt_jax.scoring import scored_corpus
from ddt_jax.scoring import token_sums

# Bounds that a sound model rarely exceeds by chance: |mean phi| in 0.3 % of the
# tests, the PIT in 1 %, the variance of z in 0.3 %.
STANDARD_ERRORS = 3.0
MIN_P = 0.01
# z is only nearly normal where a text is cut, so its variance is only nearly 1.
VARIANCE = 0.1  # largest distance of the variance of z from 1, for many texts


@dataclasses.dataclass(frozen=True)
class Texts:
  """Own samples of one length with their statistics.

  Attributes:
    ids: [texts, T].
    stats: TokenStats of [texts, T].
    pit: [texts, T], see `ddt.randomised_pit`.
    lengths: [texts], tokens up to and including the first stop token; T without.
  """

  ids: np.ndarray
  stats: ddt.TokenStats
  pit: np.ndarray
  lengths: np.ndarray

  @classmethod
  def of(
      cls, corpus: scored_corpus.ScoredCorpus, eos_ids: Collection[int]
  ) -> 'Texts':
    """Reads a scored corpus whose texts all have one length."""
    # Process 0 has the files; all processes score the controls.
    found = processes.from_first(lambda: {
        name: [row for part in corpus.tables([f'token_{name}'])
               for row in part[f'{corpus.prefix}token_{name}'].to_pylist()]
        for name in ('ids', 'log_p', 'entropy', 'varentropy', 'pit')})
    ids = np.array(found.pop('ids'), np.int32)
    log_p, entropy, varentropy, pit = (
        np.array(x, np.float32) for x in found.values())
    stop = np.isin(ids, list(eos_ids))
    lengths = np.where(stop.any(1), stop.argmax(1) + 1, ids.shape[1])
    return cls(ids, ddt.TokenStats(log_p, entropy, varentropy), pit, lengths)

  @property
  def mask(self) -> np.ndarray:
    """Tokens up to the stop token, bool [texts, T]."""
    return np.arange(self.ids.shape[1]) < self.lengths[:, None]


@dataclasses.dataclass(frozen=True)
class SelfTest:
  """Measurements on own samples, and whether they are as they must be.

  Attributes:
    texts: number of samples.
    phi, phi_se: mean over tokens and its standard error, nats.
    pit: test of the tokens' PIT against the uniform distribution.
    z_variance: see `stopped_variance`; None where it was not measured.
  """

  texts: int
  phi: float
  phi_se: float
  pit: significance.KolmogorovSmirnov
  z_variance: float | None = None

  @property
  def phi_is_zero(self) -> bool:
    return abs(self.phi) <= STANDARD_ERRORS * self.phi_se

  @property
  def pit_is_uniform(self) -> bool:
    return self.pit.p_value > MIN_P

  @property
  def variance_bounds(self) -> tuple[float, float]:
    r"""Bounds of the variance of z; wider for few texts.

    .. math:: 1 \pm \max(0.1, 3 \sqrt{2 / n})

    The standard error of the variance of n normal values is sqrt(2 / n).
    """
    half = max(VARIANCE, STANDARD_ERRORS * float(np.sqrt(2 / max(self.texts, 1))))
    return 1 - half, 1 + half

  @property
  def variance_is_one(self) -> bool:
    """Also true where it was not measured."""
    if self.z_variance is None:
      return True
    low, high = self.variance_bounds
    return low <= self.z_variance <= high

  @property
  def passed(self) -> bool:
    return self.phi_is_zero and self.pit_is_uniform and self.variance_is_one


@dataclasses.dataclass(frozen=True)
class FalsePositives:
  """Own samples of one length that the tests reject at 5 %.

  Attributes:
    length: tokens.
    varentropy: median over samples of the summed varentropy, nats^2.
    z_variance: over samples.
    z, pit: shares rejected by the z-test and by the PIT test.
  """

  length: int
  varentropy: float
  z_variance: float
  z: significance.Interval
  pit: significance.Interval


def randomised_pit(stats: ddt.TokenStats, seed: int) -> np.ndarray:
  """The PIT of each token, randomised by NumPy's generator of this seed."""
  uniform = np.random.default_rng(seed).random(stats.log_p.shape)
  return ddt.randomised_pit(stats, uniform.astype(np.float32))


def self_test(texts: Texts) -> SelfTest:
  """The self-test of own samples."""
  mask = texts.mask
  return measured(
      texts.stats.map(lambda x: x[mask]), texts.pit[mask], texts.lengths,
      stopped_variance(texts.stats))


def measured(
    stats: ddt.TokenStats, pit: np.ndarray, lengths: Sequence[int],
    z_variance: float | None = None
) -> SelfTest:
  """The self-test of some texts.

  Args:
    stats: TokenStats of [sum of lengths], one text after the other.
    pit: [sum of lengths].
    lengths: [texts], tokens of each.
    z_variance: see `SelfTest`.
  """
  columns = response_scores.per_response(stats, lengths, pit)
  columns['rejected'] = significance.false_discoveries(columns['pit_p_value'])
  sums = token_sums.TokenSums.of(stats.phi, lengths, pit)
  found = corpus_summary.numbers(columns, sums)
  return SelfTest(
      len(lengths), found.phi, found.phi_se, found.pit, z_variance)


def stopped_variance(
    stats: ddt.TokenStats, enough: float = response_scores.ENOUGH_VARENTROPY
) -> float:
  """Variance of z of texts, each cut where its varentropies first sum to `enough`.

  Cut without looking ahead, they are still samples of the model. Texts selected
  by their final sum are not: one unlikely token makes all that follows uncertain.

  Args:
    stats: TokenStats of [texts, T].
    enough: nats^2.
  """
  variance = np.cumsum(stats.varentropy, 1, dtype=np.float64)
  last = np.minimum((variance < enough).sum(1), variance.shape[1] - 1)[:, None]
  phi = np.take_along_axis(np.cumsum(stats.phi, 1, dtype=np.float64), last, 1)
  return float(np.var(phi / np.sqrt(np.take_along_axis(variance, last, 1))))


def false_positives(
    stats: ddt.TokenStats, pit: np.ndarray, lengths: Sequence[int]
) -> list[FalsePositives]:
  """Share of own samples that either test rejects at 5 %, by length.

  Args:
    stats: TokenStats of NumPy arrays [texts, T], see `endless_samples`.
    pit: [texts, T].
    lengths: at most T each; the beginning of each text is tested.
  """
  found = []
  for n in lengths:
    begun, mask = stats.map(lambda x, n=n: x[:, :n]), np.ones((len(pit), n))
    by_z = ddt.on_policy_test(begun, mask)
    by_pit = ddt.pit_test(pit[:, :n], begun.varentropy, mask)
    shares = [
        significance.wilson(int(np.sum(p < significance.LEVEL)), len(p))
        for p in (by_z.p_value, by_pit)]
    found.append(FalsePositives(
        n, float(np.median(begun.varentropy.sum(1))), float(np.var(by_z.z)),
        *shares))
  return found
