"""The benchmark of scoring a file: every figure is there."""

from tests.support import bench_runs


def test_a_small_run():
  found = bench_runs.figures(
      'bench.stream', '--rows=96', '--parts=3', '--shard=16', '--tokens=1024')
  assert found['speed of scoring / bare forward']['rounds'] == 3
  seconds = [x for name, x in found.items() if 'scored tokens' in name]
  assert len(seconds) == 1
