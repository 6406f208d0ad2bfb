"""Intervals and tests against textbook numbers, and against their definitions."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from ddt_jax import significance

VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=30)


def test_wilson_by_hand():
  # Wikipedia's formula at 8 of 10, z = 1.959964.
  found = significance.wilson(8, 10)
  assert found.value == 0.8
  assert found.low == pytest.approx(0.4901625, abs=1e-6)
  assert found.high == pytest.approx(0.9433178, abs=1e-6)


@pytest.mark.parametrize('n', [0, 1, 7])
def test_wilson_stays_in_the_unit_interval(n):
  for k in range(n + 1):
    found = significance.wilson(k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
  assert significance.wilson(0, n).low == 0
  assert n == 0 or significance.wilson(n, n).high == 1


def test_clustered_mean_is_over_problems():
  shares = np.array([0.0, 0.5, 1.0, 0.5])
  found = significance.clustered_mean(shares)
  half = 1.959964 * np.std(shares, ddof=1) / 2
  assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)


def test_students_interval_of_three_seeds():
  # t(0.975, 2 degrees of freedom) = 4.303.
  found = significance.student_half_width(np.array([1.0, 2.0, 3.0]))
  assert found == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)


@given(VALUES, VALUES)
def test_auroc_is_the_share_of_pairs_in_order(lower, higher):
  wanted = np.mean([
      (x < y) + (x == y) / 2 for x in lower for y in higher])
  assert significance.auroc(lower, higher) == pytest.approx(wanted)


@given(st.lists(st.floats(0, 1), max_size=40))
def test_false_discoveries_follow_benjamini_and_hochberg(p_values):
  n, ranked = len(p_values), sorted(p_values)
  passing = [p for k, p in enumerate(ranked, 1) if p <= 0.05 * k / n]
  bound = max(passing, default=-1.0)
  found = significance.false_discoveries(np.array(p_values))
  near = [abs(p - bound) < 1e-12 for p in p_values]
  assert all(
      f == (p <= bound) or close
      for f, p, close in zip(found, p_values, near, strict=True))


def test_ranks_break_ties_by_order():
  assert significance.ordinal_ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3, 1, 4, 2]
  assert significance.ordinal_ranks([]).tolist() == []


def test_uniformity_is_calibrated():
  rng = np.random.default_rng(0)
  p_values = []
  for _ in range(500):
    u = np.sort(rng.random(50))
    above, below = np.arange(1, 51) / 50 - u, u - np.arange(50) / 50
    p_values.append(
        significance.uniformity(max(above.max(), below.max()), 50).p_value)
  assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.075
  assert 0.45 < np.mean(p_values) < 0.55


def test_normal_quantiles_of_a_normal_sample_are_on_the_diagonal():
  z = np.random.default_rng(0).standard_normal(200_000)
  normal, found = significance.normal_quantiles(z)
  assert len(normal) == 200
  np.testing.assert_allclose(found, normal, atol=0.04)
  assert len(significance.normal_quantiles(np.zeros(0))[0]) == 0
