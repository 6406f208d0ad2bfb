"""Intervals, ranks and hypothesis tests: SciPy under this project's names."""

from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # of every interval that is printed
LEVEL = 0.05  # of every test, and of the false-discovery rate


class Interval(NamedTuple):
  """An estimate with its 95 % interval, all in the unit of the estimate."""

  value: float
  low: float
  high: float


class KolmogorovSmirnov(NamedTuple):
  """Largest distance between two distribution functions, and its p-value."""

  distance: float
  p_value: float


class Difference(NamedTuple):
  """Mean of paired differences, half of its 95 % interval, and a p-value."""

  mean: float
  half_width: float
  p_value: float


class Bootstrap(NamedTuple):
  """Mean of paired differences, its 95 % interval, and a p-value."""

  mean: float
  low: float
  high: float
  p_value: float


def wilson(successes: int, n: int) -> Interval:
  """Share of successes with its Wilson score interval; [0, 1] where n = 0."""
  if n == 0:
    return Interval(0.0, 0.0, 1.0)
  found = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, 'wilson')
  return Interval(successes / n, float(found.low), float(found.high))


def clustered_mean(per_problem: np.ndarray) -> Interval:
  r"""Mean over problems, with an interval from their spread, within [0, 1].

  .. math:: \bar x \pm 1.96\, s / \sqrt n

  The samples of one problem depend on each other; the problems do not. Where
  all problems agree the spread says nothing, and Wilson's interval is returned.

  Args:
    per_problem: [n], the share of each problem's samples that is right.
  """
  n = len(per_problem)
  mean = float(np.mean(per_problem)) if n else 0.0
  if n < 2 or np.ptp(per_problem) == 0:
    return wilson(round(mean * n), n)._replace(value=mean)
  half = normal_half_width(float(np.std(per_problem, ddof=1)), n)
  return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def normal_half_width(deviation: float, n: int) -> float:
  """Half of the normal 95 % interval of a mean of n values."""
  return float(stats.norm.ppf((1 + CONFIDENCE) / 2) * deviation / np.sqrt(n))


def student_half_width(values: np.ndarray) -> float:
  """Half of Student's 95 % interval of the mean of a few values (seeds)."""
  n = len(values)
  error = np.std(values, ddof=1) / np.sqrt(n)
  return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * error)


def false_discoveries(p_values: np.ndarray, level: float = LEVEL) -> np.ndarray:
  """Benjamini-Hochberg rejections at false-discovery rate `level`, bool [n]."""
  p_values = np.asarray(p_values, np.float64)
  if not p_values.size:
    return np.zeros(0, bool)
  return stats.false_discovery_control(p_values) <= level


def paired_difference(x: np.ndarray, y: np.ndarray) -> Difference:
  """Whether y differs from x in the mean, by the t-test of y - x.

  Args:
    x, y: [n], pairs of independent draws, each pair from the same distribution if
      there is no difference.
  """
  change = np.asarray(y, np.float64) - np.asarray(x, np.float64)
  # Where no pair differs there is nothing to tell apart, and the test is 0 / 0.
  p = 1.0 if not change.any() else float(stats.ttest_1samp(change, 0.0).pvalue)
  return Difference(float(change.mean()), student_half_width(change), p)


def paired_bootstrap(
    difference: np.ndarray, *, draws: int = 9999, seed: int = 0
) -> Bootstrap:
  r"""Whether two methods differ, over seeds and problems.

  Seeds and problems are drawn anew, with replacement and independently of each
  other; the interval holds 95 % of the means. The p-value is two-sided,

  .. math:: p = \min(1,\; 2\,(1 + \min(\#\{m_b \le 0\}, \#\{m_b \ge 0\})) / (B + 1))

  With n seeds the spread over seeds is underestimated by about (n - 1) / n, so
  with one or two seeds the interval is of the problems more than of the seeds.

  Args:
    difference: [seeds, problems], of two methods with the same seed and problem.
    draws: B, bootstrap samples.
    seed: of the draws.

  Example:
    >>> paired_bootstrap(np.full((3, 8), 0.5))[:3]
    (0.5, 0.5, 0.5)

  Source: the two-way bootstrap of Owen, arXiv:0710.5268, which is conservative.
  """
  difference = np.asarray(difference, np.float64)
  rng = np.random.default_rng(seed)
  weights = [
      rng.multinomial(n, np.full(n, 1 / n), draws) / n for n in difference.shape]
  means = np.einsum('bs,sp,bp->b', weights[0], difference, weights[1], optimize=True)
  tail = min(np.sum(means <= 0), np.sum(means >= 0))
  edges = (1 - CONFIDENCE) / 2
  low, high = np.quantile(means, [edges, 1 - edges])
  return Bootstrap(
      float(difference.mean()), float(low), float(high),
      float(min(1.0, 2 * (1 + tail) / (draws + 1))))


def paired_distance(
    x: np.ndarray, y: np.ndarray, *, permutations: int = 999, seed: int = 0
) -> KolmogorovSmirnov:
  """Whether the distributions of x and y differ, where pair i has one of its own.

  The two-sample distance of Kolmogorov and Smirnov over all values. Its p-value is
  exact: within each pair x and y are swapped at random.

  Args:
    x, y: [n], as in `paired_difference`.
    permutations: random swaps; the p-value is at least 1 / (permutations + 1).
    seed: of the swaps.
  """
  n, values = len(x), np.concatenate([x, y])
  order = np.argsort(values, kind='stable')
  # Distances count only behind the last of equal values.
  last = np.append(np.diff(values[order]) > 0, True)
  swaps = np.random.default_rng(seed).choice([1, -1], (permutations + 1, n))
  swaps[0] = 1
  steps = np.where(order < n, 1, -1) * swaps[:, order % n]
  distance = np.abs(np.cumsum(steps, 1)[:, last]).max(1)
  return KolmogorovSmirnov(
      float(distance[0] / n), float((distance >= distance[0]).mean()))


def ordinal_ranks(x: np.ndarray) -> np.ndarray:
  """Ranks from 1 for the lowest; ties are ranked in their order. int64 [n]."""
  return stats.rankdata(x, 'ordinal').astype(np.int64)


def auroc(lower: np.ndarray, higher: np.ndarray) -> float:
  """P(x < y) + P(x = y) / 2 for x of `lower` and y of `higher`.

  The normalised Mann-Whitney statistic: 1 where a threshold separates the two,
  1/2 where they do not differ.
  """
  u = stats.mannwhitneyu(higher, lower, method='asymptotic').statistic
  return float(u / (len(lower) * len(higher)))


def uniformity(distance: float, n: int) -> KolmogorovSmirnov:
  """The exact p-value of a distance from the uniform distribution, n values."""
  return KolmogorovSmirnov(distance, float(stats.kstwo.sf(distance, max(n, 1))))


def normal_quantiles(z: np.ndarray, points: int = 200):
  """Quantiles of the standard normal, and those of z, at the same shares.

  Returns:
    Two float64 arrays of min(points, len(z)) values, for a Q-Q plot.
  """
  points = min(points, len(z))
  shares = (np.arange(points) + 0.5) / max(points, 1)
  normal = stats.norm.ppf(shares)
  return normal, np.quantile(z, shares) if points else normal
