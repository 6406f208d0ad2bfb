"""Own samples pass, others fail; rejected shares against known distributions."""

import dataclasses

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import significance
from ddt_jax.data import chat
from ddt_jax.scoring import calibration
from ddt_jax.scoring import forward


def drawn(texts=3000, length=60, scale=3.0, temperature=1.0):
  """Texts from a table of distributions, and their PIT.

  With another temperature than 1 they are not the table's own samples.
  """
  logits = scale * jax.random.normal(jax.random.key(0), [length, 12])
  tokens = jax.random.categorical(
      jax.random.key(1), logits / temperature, shape=(texts, length))
  stats = ddt.token_stats(
      np.broadcast_to(logits, (texts, length, 12)), tokens, tail=True)
  return stats.map(np.asarray), calibration.randomised_pit(stats, seed=2)


def test_own_samples_are_rejected_as_often_as_the_level_allows():
  stats, pit = drawn()
  by_length = calibration.false_positives(stats, pit, [1, 8, 60])
  assert [found.length for found in by_length] == [1, 8, 60]
  for found in by_length:
    # 5 % of 3,000 has a standard error of 0.4 %. Below it the PIT test, which
    # combines two tests, is a little too cautious, but it does reject.
    assert 0.015 < found.pit.value < 0.065, found
  assert found.z.low < 0.05 < found.z.high + 0.01
  assert found.z_variance == pytest.approx(1, abs=0.1)


def test_samples_of_another_distribution_are_rejected_more_the_longer_they_are():
  shares = [
      found.pit.value for found in calibration.false_positives(
          *drawn(temperature=1.5), [1, 8, 60])]
  assert shares[0] < shares[1] < shares[2] and shares[2] > 0.5


def test_rejected_shares_by_hand():
  # Texts of two tokens with varentropy 1: z = (phi_1 + phi_2) / sqrt 2. The 5 %
  # limit is 1.96, so a sum of 2.8 (z = 1.98) is rejected and 2.7 (1.91) is not.
  phi = np.array([[1.4, 1.4], [-1.4, -1.4], [1.4, 1.3], [0.0, 0.0]])
  stats = ddt.TokenStats(phi, np.zeros_like(phi), np.ones_like(phi))
  one, two = calibration.false_positives(stats, np.full(phi.shape, 0.5), [1, 2])
  assert one.z == significance.wilson(0, 4)
  assert two.z == significance.wilson(2, 4)
  assert one.varentropy == 1 and two.varentropy == 2
  assert two.z_variance == pytest.approx(
      np.var([2.8, -2.8, 2.7, 0]) / 2)


def test_texts_are_cut_where_their_varentropy_is_enough():
  phi = np.array([[1.0, 1, 1, 9], [2, -4, 9, 9], [0, 0, 0, 3]])
  varentropy = np.array([[1.0, 1, 2, 9], [3, 1, 9, 9], [0, 0, 0, 1]])
  stats = ddt.TokenStats(phi, np.zeros_like(phi), varentropy)
  # 3 / 2 after three tokens, -2 / 2 after two, and 3 / 1 at the end.
  assert calibration.stopped_variance(stats, 4.0) == pytest.approx(
      np.var([1.5, -1, 3]))
  assert calibration.stopped_variance(drawn()[0], 5.0) == pytest.approx(1, abs=0.1)


def test_each_requirement_can_fail_alone():
  good = calibration.SelfTest(
      0.001, 0.001, significance.KolmogorovSmirnov(0.01, 0.3), 1.02)
  assert good.passed
  bad = {
      'phi_is_zero': dict(phi=-0.01),
      'pit_is_uniform': dict(pit=significance.KolmogorovSmirnov(0.1, 1e-9)),
      'variance_is_one': dict(z_variance=1.3),
  }
  for name, change in bad.items():
    test = dataclasses.replace(good, **change)
    assert not test.passed
    assert [n for n in bad if not getattr(test, n)] == [name]
  assert dataclasses.replace(good, z_variance=None).passed


@pytest.mark.parametrize('temperature, sound', [(1.0, True), (1.5, False)])
def test_a_control_fails_unless_it_is_the_model_s_own(temperature, sound):
  stats, _ = drawn(texts=300, temperature=temperature)
  mask = np.ones(stats.log_p.shape)
  pending = forward.Pending([(list(range(300)), mask, stats)], 300)
  assert calibration.self_test(pending, seed=0).passed == sound


def test_controls_differ_from_the_original():
  example = chat.answered([5, 6], [7, 8, 2])
  moved = calibration.shifted(example)
  assert moved.supervised.tolist() == [False, True, True, True, False]
  params = {'a': np.ones(1000, np.float32)}
  other = calibration.perturbed(params, jax.random.key(0), 0.05)
  assert np.std(other['a']) == pytest.approx(0.05, rel=0.1)
