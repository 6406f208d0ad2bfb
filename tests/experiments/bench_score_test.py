"""The benchmark of the scorer: phi is the calculator's, every figure is there."""

import pytest

from tests.support import bench_runs


@pytest.mark.parity
def test_a_small_run():
  found = bench_runs.figures(
      'bench.score', '--size=2x64x2000', '--texts=5', '--batch=2', '--rounds=3',
      '--corpora=64,256')
  difference = found['phi, scorer and float64: greatest difference']
  assert difference['nats'] < 3e-5
  few, many = (
      found[f'{n} tokens: temporaries of the head in MB']['MB']
      for n in (4096, 32768))
  assert many < 1.1 * few
  few, many = (
      found[f'{n} texts streamed: peak memory of the process in MB']['MB']
      for n in (64, 256))
  assert many < 1.2 * few
  places = found['scored tokens / places in the padded batches']
  assert places['batches'] == 3 and 0.3 < places['ratio'] < 1
  for peer in ('calculator', 'bare forward', 'bare forward, scored places'):
    assert found[f'texts/s, scorer / {peer}']['rounds'] == 3
