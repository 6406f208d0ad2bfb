"""Sums over tokens: of parts, and against the tokens themselves."""

import numpy as np
import pytest
from scipy import stats

from ddt_jax.scoring import token_sums


def test_sums_over_tokens_add_and_say_which_tokens_cause_the_difference():
  rng = np.random.default_rng(0)
  phi = np.concatenate([rng.normal(0.3, 0.2, 950), rng.normal(-12, 3, 50)])
  rng.shuffle(phi)
  lengths, pit = [400, 100, 500], rng.random(1000)
  whole = token_sums.TokenSums.of(phi, lengths, pit)
  parts = token_sums.TokenSums.of(phi[:500], lengths[:2], pit[:500])
  parts += token_sums.TokenSums.of(phi[500:], lengths[2:], pit[500:])
  for name, value in vars(whole).items():
    np.testing.assert_allclose(getattr(parts, name), value, err_msg=name)
  assert whole.tokens == 1000
  ranked = np.sort(phi)
  for share in (0.01, 0.05, 0.5, 1.0):
    expected = ranked[:round(1000 * share)].sum() / phi.sum()
    assert whole.share_from_lowest(share) == pytest.approx(expected, rel=2e-3), share
  assert token_sums.TokenSums.of(-phi, lengths, pit).share_from_lowest(0.05) is None
  first = np.concatenate([phi[:40], phi[400:410], phi[500:550]])
  assert whole.tenths()[0] == pytest.approx(first.mean())
  exact = stats.kstest(pit, 'uniform')
  found = whole.pit_test()
  assert exact.statistic - 1e-3 <= found.distance <= exact.statistic
  assert found.p_value == pytest.approx(
      stats.kstwo.sf(found.distance, 1000), rel=1e-9)
  edges = whole.edges
  np.testing.assert_array_equal(whole.counts, np.histogram(phi, edges)[0])
