"""The benchmark of the training step: gradients agree, every figure is there."""

import pytest

from tests.support import bench_runs


@pytest.mark.parity
def test_a_small_run():
  found = bench_runs.figures(
      'bench.train', '--size=2x64x503', '--tokens=24', '--rounds=3',
      '--processes=1')
  key = 'idft, gradient: difference from float64 / norm'
  assert found[key]['ratio'] <= 1e-5
  assert found['compile, warm / cold']['median'] < 0.5
  assert found['idft, temporaries in MB']['MB'] > 0
  ratio = found['tokens/s, idft / torch, official']
  assert ratio['rounds'] == 3
  own, other = (found[f'{name}, seconds'] for name in ('idft', 'torch, official'))
  assert other['low'] / own['high'] <= ratio['median'] <= other['high'] / own['low']
