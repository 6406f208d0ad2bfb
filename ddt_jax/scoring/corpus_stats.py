"""Statistics of a scored corpus: of each response, of its tokens, of two corpora.

On the host, over float64; a corpus comes in pieces whose sums add up, so that no
more of it is held than one number of each kind for each response.
"""

from collections.abc import Sequence
import dataclasses
import math
import statistics
from typing import NamedTuple

import numpy as np

from ddt_jax import ddt

TAILS = (1, 3, 5)  # shares of tokens with phi below -1, -3 and -5
LEVEL = 0.05  # of tests and of the false-discovery rate
# Below this summed varentropy (nats^2) a normal z is not relied on.
ENOUGH_VARENTROPY = 10.0

_STEP, _LOW, _HIGH = 0.02, -40.0, 12.0  # bins of phi; the outer ones are open
_PIT_BINS = 1000
_PLACES = 10  # tenths of a response


def per_response(
    tokens: ddt.TokenStats, lengths: Sequence[int], pit: np.ndarray
) -> dict[str, np.ndarray]:
  """The scores of each response.

  Args:
    tokens: TokenStats of numpy arrays [sum of lengths], response after response.
    lengths: tokens of each response, at least one.
    pit: [sum of lengths], see `ddt.randomised_pit`.

  Returns:
    Arrays like `lengths`: length, phi (mean), phi_sum, log_p_sum, perplexity,
    varentropy_sum, tail_1, tail_3, tail_5, z, p_value, pit_p_value.
  """
  lengths = np.asarray(lengths, np.int64)
  starts = np.cumsum(lengths) - lengths

  def sums(x):
    return np.add.reduceat(np.asarray(x, np.float64), starts)

  phi = tokens.log_p + tokens.entropy
  total, log_p, variance = sums(phi), sums(tokens.log_p), sums(tokens.varentropy)
  z, p_value = ddt.z_test(total, variance)
  by_pit = ddt.pit_p_value(
      sums(ddt.surprise(pit)), lengths,
      sums(ddt.weighted_score(pit, tokens.varentropy)), variance)
  with np.errstate(over='ignore'):
    perplexity = np.exp(-log_p / lengths)
  return {
      'length': lengths, 'phi': total / lengths, 'phi_sum': total,
      'log_p_sum': log_p, 'perplexity': perplexity, 'varentropy_sum': variance,
      **{f'tail_{n}': sums(phi < -n) / lengths for n in TAILS},
      'z': z, 'p_value': p_value, 'pit_p_value': by_pit,
  }


# Of one corpus -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TokenSums:
  """Sums over tokens; those of two pieces of a corpus add.

  Attributes:
    counts, sums: tokens, and their phi added up, by phi.
    of_place, at_place: tokens, and their phi, by tenth of their response.
    pit: tokens by u.
  """

  counts: np.ndarray
  sums: np.ndarray
  of_place: np.ndarray
  at_place: np.ndarray
  pit: np.ndarray

  @classmethod
  def of(
      cls, phi: np.ndarray, lengths: Sequence[int], pit: np.ndarray
  ) -> 'TokenSums':
    """Args: as of `per_response`."""
    phi = np.asarray(phi, np.float64)
    bins = round((_HIGH - _LOW) / _STEP)
    bin_ = np.clip((phi - _LOW) / _STEP, 0, bins - 1).astype(np.int64)
    lengths = np.asarray(lengths, np.int64)
    index = np.arange(len(phi)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = index * _PLACES // np.repeat(lengths, lengths)
    u = np.minimum(np.asarray(pit) * _PIT_BINS, _PIT_BINS - 1).astype(np.int64)
    return cls(
        np.bincount(bin_, minlength=bins),
        np.bincount(bin_, phi, minlength=bins),
        np.bincount(place, minlength=_PLACES),
        np.bincount(place, phi, minlength=_PLACES),
        np.bincount(u, minlength=_PIT_BINS),
    )

  def __add__(self, other: 'TokenSums') -> 'TokenSums':
    mine, others = vars(self), vars(other)
    return TokenSums(**{k: mine[k] + others[k] for k in mine})

  @property
  def tokens(self) -> int:
    return int(self.counts.sum())

  @property
  def edges(self) -> np.ndarray:
    """Of the bins of phi."""
    return _LOW + _STEP * np.arange(len(self.counts) + 1)

  def carried(self, share: float) -> float | None:
    """Part of -sum phi that the tokens with the lowest phi add up to.

    More than 1 where the others make up for some of it; None where the sum of
    phi is not negative. Within a bin every token counts as its mean.

    Args:
      share: of the tokens, the lowest.
    """
    total = self.sums.sum()
    if total >= 0:
      return None
    wanted = share * self.tokens
    before = np.cumsum(self.counts) - self.counts
    taken = np.clip(wanted - before, 0, self.counts)
    part = np.divide(
        taken, self.counts, out=np.zeros(len(taken)), where=self.counts > 0)
    return float((part * self.sums).sum() / total)

  def places(self) -> list[float]:
    """Mean phi in each tenth of the responses; 0 where no token fell."""
    return (self.at_place / np.maximum(self.of_place, 1)).tolist()

  def pit_test(self) -> 'KolmogorovSmirnov':
    """Are the u uniform? Looked at between the bins: a touch too lenient."""
    n = self.tokens
    seen = np.cumsum(self.pit) / max(n, 1)
    expected = np.arange(1, _PIT_BINS + 1) / _PIT_BINS
    return _kolmogorov(float(np.abs(seen - expected).max()), n)


class KolmogorovSmirnov(NamedTuple):
  """Distance from the uniform distribution, and its p-value."""

  distance: float
  p_value: float


def kolmogorov_smirnov(u: np.ndarray) -> KolmogorovSmirnov:
  """Are these numbers uniform on [0, 1]?"""
  ranked, n = np.sort(np.asarray(u, np.float64)), len(u)
  above = np.arange(1, n + 1) / n - ranked
  below = ranked - np.arange(n) / n
  return _kolmogorov(float(max(above.max(), below.max())), n)


def _kolmogorov(distance: float, n: int) -> KolmogorovSmirnov:
  """With Stephens's correction for a finite n."""
  x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(max(n, 1))) * distance
  if x < 0.2:  # the series is 1 to ten digits, and slow
    return KolmogorovSmirnov(distance, 1.0)
  series = (
      (-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
  return KolmogorovSmirnov(distance, min(1.0, 2 * sum(series)))


def rejected(p_values: np.ndarray, level: float = LEVEL) -> np.ndarray:
  """Which hypotheses fall when a share `level` of those may be true.

  Benjamini and Hochberg: the k smallest p-values, for the largest k with
  p_(k) <= level k / n.
  """
  p_values = np.asarray(p_values)
  n = len(p_values)
  ranked = np.sort(p_values)
  passed = np.flatnonzero(ranked <= level * np.arange(1, n + 1) / max(n, 1))
  bound = ranked[passed[-1]] if passed.size else -1.0
  return p_values <= bound


def ranks(x: np.ndarray) -> np.ndarray:
  """1 for the lowest; of equal ones the first comes first."""
  rank = np.empty(len(x), np.int64)
  rank[np.argsort(x, kind='stable')] = np.arange(1, len(x) + 1)
  return rank


def qq(z: np.ndarray, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
  """Quantiles of the standard normal, and those of z, at the same shares."""
  points = min(points, len(z))
  shares = (np.arange(points) + 0.5) / max(points, 1)
  inverse = statistics.NormalDist().inv_cdf
  normal = np.array([inverse(share) for share in shares])
  return normal, np.quantile(z, shares) if points else normal


# Of two ------------------------------------------------------------------------


def auroc(lower: np.ndarray, higher: np.ndarray) -> float:
  """P(x < y) + P(x = y) / 2 for x of `lower` and y of `higher`.

  Mann and Whitney's statistic: 1 where a bound tells the two apart, 1/2 where
  nothing does.
  """
  both = np.concatenate([lower, higher])
  _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
  mid_rank = np.cumsum(counts) - (counts - 1) / 2
  n, m = len(lower), len(higher)
  of_higher = mid_rank[inverse[n:]].sum() - m * (m + 1) / 2
  return float(of_higher / (n * m))


def separation(
    corpus: dict[str, np.ndarray], own: dict[str, np.ndarray]
) -> dict[str, float]:
  """How well each score tells the model's own samples from a corpus: AUROCs.

  Args:
    corpus, own: columns of `per_response`.

  Returns:
    By score, that of own samples being the higher one: mean phi, log-likelihood,
    perplexity (length-normalised, the lower the better), z.
  """
  def of(key, sign=1):
    return auroc(sign * corpus[key], sign * own[key])

  return {
      'phi': of('phi'), 'log-likelihood': of('log_p_sum'),
      'perplexity': of('perplexity', -1), 'z': of('z'),
  }
