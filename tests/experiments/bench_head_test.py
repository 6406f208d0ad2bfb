"""The benchmark of the head runs and prints a line of JSON for every figure."""

import importlib.util

from tests.support import bench_runs


def test_a_small_run():
  found = bench_runs.figures('bench.head', '--shapes=16x8x300', '--rounds=3')
  same = found['16x8x300: tiles, flops of idft / sft']
  assert 0.9 < same['ratio'] < 1.1
  assert found['16x8x300: tiles, idft / tiles, sft']['rounds'] == 3
  rows = [figure for figure in found if 'tokamax' in figure]
  assert bool(rows) == bool(importlib.util.find_spec('tokamax'))
