"""Sums over the tokens of a corpus, of which two parts can be added.

So a corpus of any size is summarised in constant memory, part by part.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from ddt_jax import significance

_STEP, _LOW, _HIGH = 0.02, -40.0, 12.0  # nats: bins of phi; the outer are open
_PIT_BINS = 1000


@dataclasses.dataclass(frozen=True)
class TokenSums:
  """Histograms of phi and of the PIT, and mean phi along the response.

  Attributes:
    counts, phi_sums: tokens and their summed phi, by bin of phi.
    tenth_counts, tenth_sums: tokens and their summed phi, by tenth of their
      response.
    pit: tokens by bin of u.
  """

  counts: np.ndarray
  phi_sums: np.ndarray
  tenth_counts: np.ndarray
  tenth_sums: np.ndarray
  pit: np.ndarray

  @classmethod
  def of(
      cls, phi: np.ndarray, lengths: Sequence[int], pit: np.ndarray
  ) -> 'TokenSums':
    """Sums over responses.

    Args:
      phi, pit: [sum of lengths], one response after the other.
      lengths: [responses], tokens of each.
    """
    phi = np.asarray(phi, np.float64)
    bins = round((_HIGH - _LOW) / _STEP)
    bin_ = np.clip((phi - _LOW) / _STEP, 0, bins - 1).astype(np.int64)
    lengths = np.asarray(lengths, np.int64)
    index = np.arange(len(phi)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    # Integers, since in floats the last token could fall into an eleventh tenth.
    tenth = index * 10 // np.repeat(lengths, lengths)
    # u = 1 belongs to the last bin.
    u = np.minimum(np.asarray(pit) * _PIT_BINS, _PIT_BINS - 1).astype(np.int64)
    return cls(
        np.bincount(bin_, minlength=bins),
        np.bincount(bin_, phi, minlength=bins),
        np.bincount(tenth, minlength=10),
        np.bincount(tenth, phi, minlength=10),
        np.bincount(u, minlength=_PIT_BINS),
    )

  def __add__(self, other: 'TokenSums') -> 'TokenSums':
    return TokenSums(**{
        name: value + getattr(other, name) for name, value in vars(self).items()})

  @property
  def tokens(self) -> int:
    return int(self.counts.sum())

  @property
  def edges(self) -> np.ndarray:
    """Edges of the bins of phi, nats."""
    return _LOW + _STEP * np.arange(len(self.counts) + 1)

  def share_from_lowest(self, share: float) -> float | None:
    """Share of -sum phi that comes from the tokens with the lowest phi.

    It exceeds 1 where the other tokens have a positive sum. All tokens of a bin
    count with the bin's mean.

    Args:
      share: of the tokens, the lowest.

    Returns:
      None where the sum of phi is not negative.
    """
    total = self.phi_sums.sum()
    if total >= 0:
      return None
    wanted = share * self.tokens
    before = np.cumsum(self.counts) - self.counts
    # Bins go from the lowest phi up; the last one that is needed is taken in part.
    taken = np.clip(wanted - before, 0, self.counts)
    part = np.divide(
        taken, self.counts, out=np.zeros(len(taken)), where=self.counts > 0)
    return float((part * self.phi_sums).sum() / total)

  def tenths(self) -> list[float]:
    """Mean phi in each tenth of the responses, nats; 0 without tokens."""
    return (self.tenth_sums / np.maximum(self.tenth_counts, 1)).tolist()

  def pit_test(self) -> significance.KolmogorovSmirnov:
    """Kolmogorov-Smirnov test of the PIT against the uniform distribution.

    The distance is taken at the edges of the bins, which underestimates it by at
    most 1/1000.
    """
    n = self.tokens
    cumulated = np.cumsum(self.pit) / max(n, 1)
    uniform = np.arange(1, _PIT_BINS + 1) / _PIT_BINS
    return significance.uniformity(float(np.abs(cumulated - uniform).max()), n)
