"""The benchmark of decoding runs, and every contender has a figure."""

import json

import pytest

from tests.support import commands


@pytest.mark.parity
def test_every_contender_has_a_figure(tmp_path):
  commands.run(
      'experiments.bench.decode', '--model=tiny', '--rounds=1', '--new=8',
      f'--json={tmp_path / "bench.json"}', timeout=500)
  results = json.loads((tmp_path / 'bench.json').read_text())
  for kind in ('tokens/s', 'first call, s', 'ratios'):
    assert all(x > 0 for x in results[kind].values())
  used = results['utilisation']
  assert used['ours'] >= 0.97 * used['list scheduling']
  assert used['steps per host sync'] >= 32
