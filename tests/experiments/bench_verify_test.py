"""The benchmark of the verifier: no pair is abstained from, every figure is there."""

from tests.support import bench_runs


def test_a_small_run():
  # The command asserts that every pair gets a verdict.
  found = bench_runs.figures('bench.verify', '--count=500', '--rounds=2')
  for name in ('numbers', 'symbolic'):
    assert found[f'{name}, verdicts a second']['low'] > 1
