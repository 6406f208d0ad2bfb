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
  def move(cut, accepted, log_q=0.0, restart=False):
    return metropolis.Move(cut, 8, 5, True, accepted, log_q, restart)

  one = metropolis.Projected(
      [1], [0.0], 3, 6, [move(0, True, 1.0), move(1, False, 1.0),
                         move(7, True, 3.0), move(4, False, 2.0),
                         move(0, True, 2.0, True), move(0, False, 2.0, True)],
      'given', 26)
  frozen = metropolis.Projected([1], [0.0], 0, 0, [], 'frozen', 4)
  found = diagnostics.mixing([one, frozen])
  assert found.accepted.value == 0.5
  assert [x.value for x in found.by_cut] == [0.5, 0.0, 0.0, 1.0]
  assert found.restarts.value == 0.5
  assert (found.drawn_per_text, found.drawn_per_accepted) == (15, 10)
  assert (found.frozen, found.replaced) == (1, 0)
  assert np.isfinite(found.split_r_hat)


def test_the_pass_rate_is_that_of_all_texts():
  # Every text once, by a proposal that draws it with probability m: the mean of the
  # weights under m is the sum of q over the texts that count.
  rng = np.random.default_rng(0)
  q, m = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
  counts = np.array([1, 0, 1, 1, 0, 0], bool)
  drawn = rng.choice(6, 40_000, p=m)
  trace = [
      metropolis.Move(0, 3, 3, bool(counts[i]), False, 0.0, True, np.log(q[i] / m[i]))
      for i in drawn]
  trace += [metropolis.Move(0, 3, 3, True, True, 0.0, False, 9.0)]  # no restart
  chain = metropolis.Projected([1], [0.0], 0, 1, trace, 'given', 0)
  still = chain._replace(trace=[])
  found = diagnostics.pass_rate([chain, still, still, still], chains=2)
  np.testing.assert_allclose(found[0], q[counts].sum(), rtol=0.05)
  assert len(found) == 2 and np.isnan(found[1])
