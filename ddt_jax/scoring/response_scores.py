"""Scores of each response, from the statistics of its tokens.

NumPy on the host, in float64.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ddt_jax import ddt
from ddt_jax import significance

TAILS = (1, 3, 5)  # nats: shares of tokens with phi below -1, -3 and -5
# Summed varentropy, nats^2, from which z is close to normal for own samples:
# `tests/ddt_test.py` checks the test's level there.
ENOUGH_VARENTROPY = 10.0


def per_response(
    tokens: ddt.TokenStats, lengths: Sequence[int], pit: np.ndarray
) -> dict[str, np.ndarray]:
  r"""Scores of each response.

  .. math:: z = \sum_t \phi_t \Big/ \sqrt{\sum_t \nu_t}

  Args:
    tokens: TokenStats of NumPy arrays [sum of lengths], one response after the
      other.
    lengths: [responses], tokens of each, at least one.
    pit: [sum of lengths], see `ddt.randomised_pit`.

  Returns:
    Arrays [responses]:
      length: tokens.
      phi, phi_sum: mean and sum over tokens, nats.
      log_p_sum: log-likelihood, nats.
      perplexity: exp(-log_p_sum / length).
      varentropy_sum: nats^2.
      tail_1, tail_3, tail_5: share of tokens with phi below -1, -3, -5.
      z, p_value: see `ddt.z_test`.
      pit_p_value: see `ddt.pit_test`.
  """
  lengths = np.asarray(lengths, np.int64)
  starts = np.cumsum(lengths) - lengths

  def sums(x):
    # reduceat gives a wrong sum for an empty slice, hence "at least one" token.
    return np.add.reduceat(np.asarray(x, np.float64), starts)

  phi = tokens.log_p + tokens.entropy
  total, log_p, variance = sums(phi), sums(tokens.log_p), sums(tokens.varentropy)
  z, p_value = ddt.z_test(total, variance)
  by_pit = ddt.pit_p_value(
      sums(ddt.surprise(pit)), lengths,
      sums(ddt.weighted_score(pit, tokens.varentropy)), variance)
  # A text of probability 0 has perplexity infinity, which is right.
  with np.errstate(over='ignore'):
    perplexity = np.exp(-log_p / lengths)
  return {
      'length': lengths, 'phi': total / lengths, 'phi_sum': total,
      'log_p_sum': log_p, 'perplexity': perplexity, 'varentropy_sum': variance,
      **{f'tail_{n}': sums(phi < -n) / lengths for n in TAILS},
      'z': z, 'p_value': p_value, 'pit_p_value': by_pit,
  }


def separation(
    corpus: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """AUROC of each score for own samples against the responses of a corpus.

  Args:
    corpus, own: columns of `per_response`.

  Returns:
    Score -> probability that it ranks an own sample above a response. Lower
    perplexity ranks higher; it is the length-normalised log-likelihood.
  """
  def area(key, sign=1):
    return significance.auroc(sign * corpus[key], sign * own[key])

  return {
      'phi': area('phi'), 'log-likelihood': area('log_p_sum'),
      'perplexity': area('perplexity', -1), 'z': area('z'),
  }
