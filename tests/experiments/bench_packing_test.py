"""The benchmark of packing: every figure is there, and padding is small."""

from tests.support import bench_runs


def test_a_small_run():
  found = bench_runs.figures(
      'bench.packing', '--size=1x64x64', '--time=512', '--examples=2000',
      '--rows=1', '--rounds=1')
  assert found['padding, packed']['share'] < 0.03
  assert found['padding, one example a row']['share'] > 0.3
  assert found['supervised tokens a second, packed / one example a row']['rounds'] == 1
