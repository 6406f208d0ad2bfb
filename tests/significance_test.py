"""Intervals and tests against textbook numbers, and against their definitions."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from ddt_jax import significance

VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@pytest.mark.parametrize('successes, n, low, high', [
    # z = 1.96: (5 + z^2 / 2) / (10 + z^2) -+ z sqrt(2.5 + z^2 / 4) / (10 + z^2)
    (5, 10, 0.23659, 0.76341),
    (8, 10, 0.49016, 0.94332),
    (0, 10, 0.0, 0.27753),  # z^2 / (10 + z^2)
    (10, 10, 0.72247, 1.0),
])
def test_wilson_by_hand(successes, n, low, high):
  found = significance.wilson(successes, n)
  assert found.value == successes / n
  np.testing.assert_allclose(
      [found.low, found.high], [low, high], atol=1e-5
  )


@given(st.integers(1, 10_000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
))
def test_wilson_contains_the_share_and_is_symmetric(case):
  successes, n = case
  found = significance.wilson(successes, n)
  assert 0 <= found.low <= found.value <= found.high <= 1
  # An end is a share so far from what was seen as 95 % of its samples are.
  for end in (found.low, found.high):
    if end not in (0, 1):
      apart = abs(found.value - end) / np.sqrt(end * (1 - end) / n)
      assert apart == pytest.approx(1.959964)
  mirrored = significance.wilson(n - successes, n)
  np.testing.assert_allclose(
      [mirrored.low, mirrored.high],
      [1 - found.high, 1 - found.low], atol=1e-9,
  )


def test_nothing_is_known_of_no_problems():
  assert significance.wilson(0, 0) == (0.0, 0.0, 1.0)
  assert significance.clustered_mean(np.array([])) == significance.wilson(0, 0)


def test_clustered_mean_by_hand():
  # The standard deviation is sqrt(0.5 / 3); half of it is that of the mean.
  found = significance.clustered_mean(np.array([1, 0, 0.5, 0.5]))
  half = 1.959963984540054 * np.sqrt(0.5 / 3) / 2
  np.testing.assert_allclose(
      [found.value, found.low, found.high],
      [0.5, 0.5 - half, 0.5 + half], atol=1e-12,
  )
  # Ten times the problems; not ten times the samples of the same ones.
  more = significance.clustered_mean(np.array([1, 0, 0.5, 0.5] * 10))
  assert more.high - more.low < 2 * half / 3


def test_problems_that_all_agree_are_as_uncertain_as_so_many_coins():
  found = significance.clustered_mean(np.full(8, 1.0))
  assert found == significance.wilson(8, 8)
  found = significance.clustered_mean(np.full(8, 0.25))
  assert found == significance.wilson(2, 8)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40)
    | st.tuples(st.integers(0, 4), st.integers(1, 40)).map(
        lambda x: [x[0]] * x[1])
)
def test_clustered_mean_contains_the_mean(solved_of_four):
  found = significance.clustered_mean(np.array(solved_of_four) / 4)
  assert found.value == pytest.approx(np.mean(solved_of_four) / 4)
  assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize('n', [0, 1, 7])
def test_wilson_stays_in_the_unit_interval(n):
  for k in range(n + 1):
    found = significance.wilson(k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
  assert significance.wilson(0, n).low == 0
  assert n == 0 or significance.wilson(n, n).high == 1


def test_students_interval_of_three_seeds():
  # t(0.975, 2 degrees of freedom) = 4.303.
  found = significance.student_half_width(np.array([1.0, 2.0, 3.0]))
  assert found == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)


@given(VALUES, VALUES)
def test_auroc_is_the_share_of_pairs_in_order(lower, higher):
  wanted = np.mean([
      (x < y) + (x == y) / 2 for x in lower for y in higher])
  assert significance.auroc(lower, higher) == pytest.approx(wanted)


def test_auroc_by_hand():
  assert significance.auroc(np.array([1, 2]), np.array([3, 4])) == 1
  assert significance.auroc(np.array([3, 4]), np.array([1, 2])) == 0
  assert significance.auroc(np.array([1, 1]), np.array([1, 1, 1])) == 0.5


def test_false_discoveries_by_hand():
  # level k / n: 0.0125, 0.025, 0.0375, 0.05; the third saves the second.
  found = significance.false_discoveries(np.array([0.6, 0.001, 0.0375, 0.027]))
  assert found.tolist() == [False, True, True, True]
  assert not significance.false_discoveries(np.array([0.06, 0.9])).any()
  assert significance.false_discoveries(np.array([])).tolist() == []


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
  normal, found = significance.normal_quantiles(2 + 3 * z, points=50)
  np.testing.assert_allclose(found, 2 + 3 * normal, atol=0.15)
  # Shares 1/4 and 3/4: the quartiles of the standard normal.
  normal, found = significance.normal_quantiles(np.array([1.0, 2.0]))
  np.testing.assert_allclose(normal, [-0.6744897501960817, 0.6744897501960817])
  np.testing.assert_allclose(found, [1.25, 1.75])


def test_uniformity_is_kolmogorov_s_exact_test():
  # Two numbers: P(D_2 >= d) = 1 - (4 d - 1)^2 / 2 for 1/4 <= d <= 1/2.
  for d in (0.3, 0.4, 0.5):
    assert significance.uniformity(d, 2).p_value == pytest.approx(
        1 - (4 * d - 1)**2 / 2)
  assert significance.uniformity(0.25, 2).p_value == pytest.approx(1)


def test_pairs_that_are_exchangeable_are_not_told_apart():
  rng = np.random.default_rng(0)
  centre = rng.normal(size=400) * 5  # pairs differ much more than their members
  x, y = centre + rng.normal(size=(2, 400))
  for test in (significance.paired_difference, significance.paired_distance):
    assert test(x, y).p_value > 0.05
    assert test(x, x).p_value == 1
  moved = significance.paired_difference(x, y + 0.5)
  assert moved.p_value < 1e-6 and moved.mean == pytest.approx(0.5, abs=0.15)
  # The same means, but another shape.
  wide = significance.paired_distance(rng.normal(size=400), 3 * rng.normal(size=400))
  assert wide.p_value == 0.001 and wide.distance > 0.2
  # By hand: one value above the other in each of two pairs, so d = 1; of the four
  # swaps two have it.
  d, p = significance.paired_distance([0.0, 0.0], [1.0, 1.0], permutations=4000)
  assert d == 1 and p == pytest.approx(0.5, abs=0.05)


def test_the_bootstrap_tells_a_constant_difference_from_noise():
  found = significance.paired_bootstrap(np.full((3, 20), 0.25))
  assert found[:3] == pytest.approx((0.25,) * 3, rel=1e-12) and found.p_value == pytest.approx(2 / 10000)
  none = significance.paired_bootstrap(np.zeros((2, 5)))
  assert none == (0.0, 0.0, 0.0, 1.0)


def test_the_bootstrap_over_one_seed_has_the_standard_error_of_the_mean():
  difference = np.random.default_rng(3).normal(0.1, 1.0, (1, 400))
  found = significance.paired_bootstrap(difference)
  half = significance.normal_half_width(float(np.std(difference)), 400)
  assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
  assert found.mean == pytest.approx(difference.mean())


def test_seeds_that_differ_widen_the_interval():
  same = np.random.default_rng(5).normal(0.0, 0.1, (4, 50))
  seeds = same + np.array([-0.5, 0.5, -0.5, 0.5])[:, None]
  narrow, wide = map(significance.paired_bootstrap, (same, seeds))
  assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
