"""Token statistics of many texts, in a few numbers."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import objectives


@dataclasses.dataclass(frozen=True)
class Histogram:
  """Tokens by phi.

  Attributes:
    edges: of the bins, nats; the outer bins also count all beyond them.
    counts: tokens in each bin.
  """

  edges: tuple[float, ...]
  counts: tuple[float, ...]

  def __post_init__(self):
    if len(self.counts) != len(self.edges) - 1:
      raise errors.InputError(
          'the phi histogram needs one count between every two edges')


@dataclasses.dataclass(frozen=True)
class TextStats:
  """Texts under one model: means per supervised token, and phi's histogram.

  Attributes:
    nll: negative log-likelihood, nats.
    phi: log p + entropy, nats.
    entropy: of the prediction, nats.
    weight: that the objective gives a token; None where the model alone does not
      decide it.
    ess: effective sample size, (sum w)^2 / sum w^2, as a share of the tokens; None
      likewise.
    clipped: share of exponents outside [gamma_min, gamma_max]; None for an
      objective without them.
    tokens, examples: numbers of supervised tokens and of texts.
    histogram: tokens by phi.
  """

  nll: float
  phi: float
  entropy: float
  weight: float | None
  ess: float | None
  clipped: float | None
  tokens: float
  examples: int
  histogram: Histogram


def describe(
    stats: Sequence[ddt.TokenStats], *, name: str, **loss: Any
) -> TextStats:
  """Numbers of texts under the model that `stats` come from.

  Args:
    stats: one TokenStats of [supervised tokens] for each text.
    name, **loss: the objective, see `objectives.token_loss`; for the weights.
  """
  # One text after the other, so that every token counts alike: a mean over texts
  # would favour short ones.
  tokens = jax.tree.map(lambda *x: np.concatenate(x), *stats)
  _, _, sums = objectives.token_loss(
      name, tokens, np.ones_like(tokens.log_p), **loss
  )
  return TextStats(
      # Only objectives with an exponent report `clipped`.
      **{'clipped': None} | objectives.summarise(sums),
      examples=len(stats),
      histogram=Histogram(
          edges=tuple(objectives.PHI_EDGES.tolist()),
          counts=tuple(np.asarray(sums['phi_histogram']).tolist()),
      ),
  )
