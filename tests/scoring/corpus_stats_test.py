"""Statistics by hand, and against SciPy's where it has them."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ddt_jax import ddt
from ddt_jax.scoring import corpus_stats


def tokens(rng, n):
  log_p = -rng.exponential(size=n).astype(np.float32)
  return ddt.TokenStats(
      log_p=log_p, entropy=rng.random(n).astype(np.float32),
      varentropy=rng.random(n).astype(np.float32))


def test_scores_of_ragged_responses_are_those_of_each():
  rng = np.random.default_rng(0)
  lengths = [3, 1, 40]
  flat, pit = tokens(rng, 44), rng.random(44)
  found = corpus_stats.per_response(flat, lengths, pit)
  start = 0
  for i, n in enumerate(lengths):
    one, u = flat.map(lambda x: x[start:start + n]), pit[start:start + n]  # noqa: B023
    test = ddt.on_policy_test(one, np.ones(n))
    expected = {
        'length': n, 'phi': one.phi.mean(), 'phi_sum': one.phi.sum(),
        'log_p_sum': one.log_p.sum(), 'perplexity': np.exp(-one.log_p.mean()),
        'varentropy_sum': one.varentropy.sum(), 'tail_1': (one.phi < -1).mean(),
        'tail_3': (one.phi < -3).mean(), 'tail_5': (one.phi < -5).mean(),
        'z': test.z, 'p_value': test.p_value,
        'pit_p_value': ddt.pit_test(u, one.varentropy, np.ones(n)),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(found[name][i], value, rtol=1e-4, err_msg=name)
    start += n


def test_auroc():
  assert corpus_stats.auroc(np.array([1, 2]), np.array([3, 4])) == 1
  assert corpus_stats.auroc(np.array([3, 4]), np.array([1, 2])) == 0
  assert corpus_stats.auroc(np.array([1, 1]), np.array([1, 1, 1])) == 0.5
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 9, 50), rng.integers(2, 11, 70)
  pairs = (x[:, None] < y) + (x[:, None] == y) / 2
  assert corpus_stats.auroc(x, y) == pytest.approx(pairs.mean())


def test_false_discoveries():
  # level k / n: 0.0125, 0.025, 0.0375, 0.05; the third saves the second.
  p = np.array([0.6, 0.001, 0.0375, 0.027])
  assert corpus_stats.rejected(p).tolist() == [False, True, True, True]
  assert not corpus_stats.rejected(np.array([0.06, 0.9])).any()
  assert corpus_stats.rejected(np.array([])).tolist() == []
  rng = np.random.default_rng(0)
  p = rng.random(500) ** 3
  adjusted = scipy_stats.false_discovery_control(p)
  np.testing.assert_array_equal(corpus_stats.rejected(p), adjusted <= 0.05)


@pytest.mark.parametrize('power', [1.0, 1.05, 1.5])
def test_kolmogorov_smirnov(power):
  u = np.random.default_rng(1).random(2000) ** power
  distance, p_value = corpus_stats.kolmogorov_smirnov(u)
  expected = scipy_stats.kstest(u, 'uniform')
  assert distance == pytest.approx(expected.statistic)
  assert p_value == pytest.approx(expected.pvalue, rel=0.05, abs=1e-12)


def test_quantiles_against_the_normal():
  normal, found = corpus_stats.qq(
      np.random.default_rng(0).normal(2, 3, 100_000), points=50)
  np.testing.assert_allclose(
      normal, scipy_stats.norm.ppf((np.arange(50) + 0.5) / 50), atol=1e-9)
  np.testing.assert_allclose(found, 2 + 3 * normal, atol=0.15)
  assert corpus_stats.ranks(np.array([3., 1, 2, 1])).tolist() == [4, 1, 3, 2]


def test_sums_over_tokens_add_and_say_who_carries_the_difference():
  rng = np.random.default_rng(0)
  phi = np.concatenate([rng.normal(0.3, 0.2, 950), rng.normal(-12, 3, 50)])
  rng.shuffle(phi)
  lengths, pit = [400, 100, 500], rng.random(1000)
  whole = corpus_stats.TokenSums.of(phi, lengths, pit)
  parts = corpus_stats.TokenSums.of(phi[:500], lengths[:2], pit[:500])
  parts += corpus_stats.TokenSums.of(phi[500:], lengths[2:], pit[500:])
  for name, value in vars(whole).items():
    np.testing.assert_allclose(getattr(parts, name), value, err_msg=name)
  assert whole.tokens == 1000
  ranked = np.sort(phi)
  for share in (0.01, 0.05, 0.5, 1.0):
    expected = ranked[:round(1000 * share)].sum() / phi.sum()
    assert whole.carried(share) == pytest.approx(expected, rel=2e-3), share
  assert corpus_stats.TokenSums.of(-phi, lengths, pit).carried(0.05) is None
  first = np.concatenate([phi[:40], phi[400:410], phi[500:550]])
  assert whole.places()[0] == pytest.approx(first.mean())
  assert whole.pit_test().distance == pytest.approx(
      corpus_stats.kolmogorov_smirnov(pit).distance, abs=2e-3)
  edges = whole.edges
  np.testing.assert_array_equal(whole.counts, np.histogram(phi, edges)[0])
