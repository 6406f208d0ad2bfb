"""Diagnostics of chains on processes whose answers are known."""

import numpy as np
import pytest

from ddt_jax.projection import diagnostics
from ddt_jax.projection import metropolis


def autoregressive(rho, chains=4, n=4000):
  x = np.zeros((chains, n))
  noise = np.random.default_rng(1).normal(size=(chains, n))
  for t in range(1, n):
    x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
  return x


@pytest.mark.parametrize('rho', [0.0, 0.5, 0.8])
def test_effective_samples_of_an_autoregression(rho):
  # 1 + 2 sum rho^t = (1 + rho) / (1 - rho).
  expected = 16_000 * (1 - rho) / (1 + rho)
  assert diagnostics.effective_sample_size(autoregressive(rho)) == pytest.approx(
      expected, rel=0.15)


def test_r_hat_is_one_for_mixed_chains_and_more_for_others():
  mixed = autoregressive(0.5)
  assert diagnostics.split_r_hat(mixed) == pytest.approx(1, abs=0.01)
  assert diagnostics.split_r_hat(mixed + np.arange(4)[:, None]) > 1.2
  # A drift within one chain shows too, for the chains are split.
  assert diagnostics.split_r_hat(np.linspace(0, 1, 100)[None] + mixed[:1, :100] / 9) > 1.5
  still = np.ones((2, 8))
  assert np.isnan(diagnostics.split_r_hat(still))
  assert np.isnan(diagnostics.effective_sample_size(still))
  assert diagnostics.split_r_hat(still * [[1], [2]]) == np.inf


def test_moves_are_counted_by_their_place():
  def move(cut, accepted, log_q=0.0):
    return metropolis.Move(cut, 8, 5, True, accepted, log_q)

  one = metropolis.Projected(
      [1], [0.0], 2, 4, [move(0, True, 1.0), move(1, False, 1.0),
                         move(7, True, 3.0), move(4, False, 2.0)], 'given', 20)
  frozen = metropolis.Projected([1], [0.0], 0, 0, [], 'frozen', 4)
  found = diagnostics.mixing([one, frozen])
  assert found.accepted.value == 0.5
  assert [x.value for x in found.by_cut] == [0.5, 0.0, 0.0, 1.0]
  assert (found.drawn_per_text, found.drawn_per_accepted) == (12, 12)
  assert (found.frozen, found.replaced) == (1, 0)
  assert np.isfinite(found.split_r_hat)
