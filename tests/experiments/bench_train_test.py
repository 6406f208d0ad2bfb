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
  # IDFT's statistics take no memory beside SFT's.
  idft, sft = (found[f'{name}, temporaries in MB']['MB'] for name in ('idft', 'sft'))
  assert 0 < idft < 1.05 * sft
  for peers in ('tokens/s, idft / torch, official', 'seconds, idft / sft'):
    assert found[peers]['rounds'] == 3
