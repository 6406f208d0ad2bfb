"""The benchmark of precision: every figure is there, and bfloat16 moves phi little."""

import pytest

from tests.support import bench_runs


@pytest.mark.slow
def test_a_small_run():
  found = bench_runs.figures(
      'bench.precision', '--samples=48', '--tokens=24', '--batch=16')
  for name in ('references', 'own samples'):
    moved = found[f'{name}: phi in bfloat16 - phi in float32, nats a token']
    assert moved['tokens'] > 48 * 8
    assert abs(moved['mean']) < 0.05 and 0 < moved['sd'] < 0.3
    for dtype in ('float32', 'bfloat16'):
      assert 0 <= found[f'{name}, {dtype} products: phi in nats a token'][
          'rejected'] <= 1
  for cache in ('bfloat16', 'int8'):
    own = found[f'samples with a cache in {cache}: phi in nats a token']
    assert abs(own['mean']) < 5 * own['se']
