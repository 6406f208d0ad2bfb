"""The benchmark of saves: every figure is there."""

from tests.support import bench_runs


def test_a_small_run():
  found = bench_runs.figures('bench.checkpoint', '--sizes=embedded', '--rounds=1')
  assert found['embedded, state']['GB'] > 0
  assert found['embedded, in the background, counts, seconds']['median'] > 0
  assert found['embedded, stall in the background / waited for']['median'] < 1
