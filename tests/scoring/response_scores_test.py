"""Scores of responses, against those of each response alone and by hand."""

import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax.scoring import response_scores


def tokens(rng, n):
  log_p = -rng.exponential(size=n).astype(np.float32)
  return ddt.TokenStats(
      log_p=log_p, entropy=rng.random(n).astype(np.float32),
      varentropy=rng.random(n).astype(np.float32))


def test_scores_of_ragged_responses_are_those_of_each():
  rng = np.random.default_rng(0)
  lengths = [3, 1, 40]
  flat, pit = tokens(rng, 44), rng.random(44)
  found = response_scores.per_response(flat, lengths, pit)
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


def test_separation_is_the_auroc_of_each_score():
  corpus = {'phi': [-2.0, -1, 0], 'log_p_sum': [-9.0, -8, -7],
            'perplexity': [5.0, 3, 2], 'z': [0.0, 0, 0]}
  own = {'phi': [-1.0, 1], 'log_p_sum': [-9.5, -10], 'perplexity': [1.0, 1.5],
         'z': [0.0, 0]}
  found = response_scores.separation(
      *({k: np.array(v) for k, v in x.items()} for x in (corpus, own)))
  # -1 beats one of three and ties with one; 1 beats all three.
  assert found == {
      'phi': pytest.approx((1.5 + 3) / 6), 'log-likelihood': 0.0,
      'perplexity': 1.0, 'z': 0.5}
