"""How well chains mix, and what they cost."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddt_jax import significance
from ddt_jax.projection import metropolis


class Mixing(NamedTuple):
  """Chains in numbers.

  Attributes:
    accepted: share of moves that were accepted, with its 95 % interval.
    by_cut: the same for drawn cuts in each quarter of a text, from its beginning on.
    restarts: the same for restarts.
    drawn_per_text: tokens drawn for one chain, on average, rejected proposals
      included.
    drawn_per_accepted: the same for one accepted move; inf if none was.
    effective: mean over problems of `effective_sample_size` of log q; nan
      where the chains have fewer than 4 moves.
    split_r_hat: median over problems, of log q; likewise.
    frozen, replaced: chains, see `metropolis.Projected.start`.
  """

  accepted: significance.Interval
  by_cut: tuple[significance.Interval, ...]
  restarts: significance.Interval
  drawn_per_text: float
  drawn_per_accepted: float
  effective: float
  split_r_hat: float
  frozen: int
  replaced: int


def mixing(
    results: Sequence[metropolis.Projected], chains: int = 1, quarters: int = 4
) -> Mixing:
  """Summarises chains.

  Args:
    results: of `metropolis.project`, at least one.
    chains: of each problem.
    quarters: parts of a text by which cuts are grouped.
  """
  moves = [m for r in results for m in r.trace]
  accepted = sum(m.accepted for m in moves)
  parts: list[list[bool]] = [[] for _ in range(quarters)]
  for m in moves:
    if not m.restart:
      parts[m.cut * quarters // m.length].append(m.accepted)
  anew = [m.accepted for m in moves if m.restart]
  by_problem = [
      np.array([[m.log_q for m in r.trace] for r in results[i: i + chains]])
      for i in range(0, len(results), chains)
      if all(len(r.trace) >= 4 for r in results[i: i + chains])]
  drawn = sum(r.drawn for r in results)
  return Mixing(
      significance.wilson(accepted, len(moves)),
      tuple(significance.wilson(sum(part), len(part)) for part in parts),
      significance.wilson(sum(anew), len(anew)),
      drawn / len(results), drawn / accepted if accepted else np.inf,
      _over(np.mean, map(effective_sample_size, by_problem)),
      _over(np.median, map(split_r_hat, by_problem)),
      sum(r.start == 'frozen' for r in results),
      sum(r.start == 'replaced' for r in results))


def _over(average, values) -> float:
  values = [v for v in values if not np.isnan(v)]
  return float(average(values)) if values else float('nan')


def pass_rate(
    results: Sequence[metropolis.Projected], chains: int = 1
) -> np.ndarray:
  r"""Share of the student's own samples that count, from the proposals of restarts.

  .. math:: Z = E_{y \sim m} \left[\frac{q(y)}{m(y)} 1[y \text{ counts}]\right]

  Rejection sampling needs 1 / Z samples for a text. The estimate is unbiased at
  temperature 1 and top-p 1; with a nucleus it misses what the nucleus leaves out.

  Args:
    results: of `metropolis.project`.
    chains: of each problem.

  Returns:
    Z of each problem [len(results) // chains]; nan for a problem without a restart.

  Source: importance sampling.
  """
  found = []
  for i in range(0, len(results), chains):
    weights = [
        m.counts * np.exp(m.log_weight)
        for r in results[i: i + chains] for m in r.trace if m.restart]
    found.append(np.mean(weights) if weights else np.nan)
  return np.array(found)


def split_r_hat(x: np.ndarray) -> float:
  r"""Gelman and Rubin's R-hat of chains that are cut into halves.

  .. math:: \hat R = \sqrt{\frac{(n - 1) W / n + B / n}{W}}

  W is the mean variance within the 2 m halves of n draws, B / n the variance of
  their means. Near 1 the chains agree; above 1.01 they have not mixed.

  Args:
    x: [m, draws], at least 4 draws.

  Returns:
    R-hat; nan where no chain moved and all agree, inf where they differ.

  Example:
    >>> round(split_r_hat(np.array([[0.0, 1, 0, 1], [1, 0, 1, 0]])), 3)
    0.707

  Source: Vehtari et al., arXiv:1903.08008, without ranks.
  """
  halves = _halves(x)
  n = halves.shape[1]
  within = halves.var(1, ddof=1).mean()
  between = halves.mean(1).var(ddof=1)
  if within == 0:
    return float('nan') if between == 0 else float('inf')
  return float(np.sqrt(((n - 1) / n * within + between) / within))


def effective_sample_size(x: np.ndarray) -> float:
  r"""Independent draws that are worth as much as these, for their mean.

  .. math:: ESS = m n / (1 + 2 \sum_t \rho_t)

  rho_t combines the chains; the sum is Geyer's initial monotone one.

  Args:
    x: [m, draws], at least 4 draws.

  Returns:
    At most m * draws; nan where no chain moved.

  Source: Vehtari et al., arXiv:1903.08008, on split chains.
  """
  halves = _halves(x)
  m, n = halves.shape
  within = halves.var(1, ddof=1).mean()
  if within == 0:
    return float('nan')
  pooled = (n - 1) / n * within + halves.mean(1).var(ddof=1)
  centred = halves - halves.mean(1, keepdims=True)
  covariance = np.array([
      (centred[:, :n - t] * centred[:, t:]).sum(1).mean() / n for t in range(n)])
  rho = 1 - (within - covariance * n / (n - 1)) / pooled
  total, last = -1.0, np.inf
  for t in range(0, n - 1, 2):
    # Geyer: sums of neighbours are positive and fall, up to noise.
    last = min(last, rho[t] + rho[t + 1])
    if last < 0:
      break
    total += 2 * last
  return float(min(m * n, m * n / max(total, 1e-9)))


def _halves(x: np.ndarray) -> np.ndarray:
  """[m, draws] -> [2 m, draws // 2]; the middle one of an odd number is left out."""
  n = x.shape[1] // 2
  return np.concatenate([x[:, :n], x[:, -n:]])
