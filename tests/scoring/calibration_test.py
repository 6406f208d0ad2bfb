"""Own samples pass, others fail; rejected shares against known distributions."""

import dataclasses

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import significance
from ddt_jax.scoring import calibration


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
      2000, 0.001, 0.001, significance.KolmogorovSmirnov(0.01, 0.3), 1.02)
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


@pytest.mark.parametrize('texts, low, high', [
    (200, 0.7, 1.3), (800, 0.85, 1.15), (2000, 0.9, 1.1), (50_000, 0.9, 1.1)])
def test_the_bounds_of_the_variance_widen_with_few_texts(texts, low, high):
  test = calibration.SelfTest(
      texts, 0.0, 1.0, significance.KolmogorovSmirnov(0.01, 0.3), 1.0)
  assert test.variance_bounds == (pytest.approx(low), pytest.approx(high))
  for z_variance, fine in ((low + 0.01, True), (high + 0.01, False)):
    test = dataclasses.replace(test, z_variance=z_variance)
    assert test.variance_is_one == fine


@pytest.mark.parametrize('temperature, sound', [(1.0, True), (1.5, False)])
def test_only_own_samples_pass(temperature, sound):
  texts = drawn_texts(temperature)
  assert calibration.self_test(texts).passed == sound
  # Tokens after the stop token do not count.
  mask = texts.mask
  found = calibration.measured(
      texts.stats.map(lambda x: x[mask]), texts.pit[mask], texts.lengths)
  assert found.phi == pytest.approx(
      np.sum(texts.stats.phi * mask) / texts.lengths.sum(), abs=1e-6)


def drawn_texts(temperature=1.0, texts=600):
  """Own samples of a table, cut at token 3."""
  length = 60
  logits = 3 * jax.random.normal(jax.random.key(0), [length, 12])
  ids = np.asarray(jax.random.categorical(
      jax.random.key(1), logits / temperature, shape=(texts, length)))
  stats, pit = drawn(texts, length, temperature=temperature)
  stop = ids == 3
  lengths = np.where(stop.any(1), stop.argmax(1) + 1, length)
  assert 5 < np.median(lengths) < length
  return calibration.Texts(ids, stats, pit, lengths)
