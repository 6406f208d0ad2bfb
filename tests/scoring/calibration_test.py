"""Own samples pass, others do not; cutting texts where they have said enough."""

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax.data import chat
from ddt_jax.scoring import calibration


def drawn(texts=3000, length=60, scale=3.0):
  """Texts from a table of distributions, and their PIT."""
  logits = scale * jax.random.normal(jax.random.key(0), [length, 12])
  tokens = jax.random.categorical(jax.random.key(1), logits, shape=(texts, length))
  stats = ddt.token_stats(
      np.broadcast_to(logits, (texts, length, 12)), tokens, tail=True)
  pit = ddt.randomised_pit(
      stats, jax.random.uniform(jax.random.key(2), tokens.shape))
  return stats.map(np.asarray), np.asarray(pit)


def test_false_positives_of_own_samples_are_as_many_as_the_level_says():
  stats, pit = drawn()
  for found in calibration.false_positives(stats, pit, [1, 8, 60]):
    assert found['pit']['value'] < 0.065, found
    if found['length'] == 60:
      assert found['z']['low'] < 0.05 < found['z']['high'] + 0.01
      assert found['z_variance'] == pytest.approx(1, abs=0.1)
  # The last ones are those of the library's tests.
  test = ddt.on_policy_test(stats, np.ones(pit.shape))
  assert found['z']['value'] == pytest.approx(np.mean(test.p_value < 0.05))


def test_texts_are_cut_where_their_varentropy_is_enough():
  phi = np.array([[1.0, 1, 1, 9], [2, -4, 9, 9], [0, 0, 0, 3]])
  varentropy = np.array([[1.0, 1, 2, 9], [3, 1, 9, 9], [0, 0, 0, 1]])
  stats = ddt.TokenStats(phi, np.zeros_like(phi), varentropy)
  # 3 / 2 after three tokens, -2 / 2 after two, and 3 / 1 at the end.
  assert calibration.stopped_variance(stats, 4.0) == pytest.approx(
      np.var([1.5, -1, 3]))
  assert calibration.stopped_variance(drawn()[0], 5.0) == pytest.approx(1, abs=0.1)


def test_checks():
  good = {'phi': 0.001, 'phi_se': 0.001, 'pit': {'distance': 0.01, 'p_value': 0.3}}
  assert calibration.passed(calibration.check(good, 1.02))
  for name, bad in [('phi', good | {'phi': -0.01}), ('z', good), (
      'pit', good | {'pit': {'distance': 0.1, 'p_value': 1e-9}})]:
    checks = calibration.check(bad, 1.3 if name == 'z' else 1.0)
    assert not calibration.passed(checks), name
    assert sum(not ok for _, _, ok in checks) == 1
    assert 'NO' in str(calibration.checks_table(checks).rows)


def test_controls_change_what_they_say():
  example = chat.answered([5, 6], [7, 8, 2])
  moved = calibration.shifted(example)
  assert moved.supervised.tolist() == [False, True, True, True, False]
  params = {'a': np.ones(1000, np.float32)}
  other = calibration.perturbed(params, jax.random.key(0), 0.05)
  assert np.std(other['a']) == pytest.approx(0.05, rel=0.1)
