"""The benchmark of decoding runs, and every contender has a figure."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parity
def test_every_contender_has_a_figure(tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.bench.decode', '--model=tiny',
       '--rounds=1', '--new=8', f'--json={tmp_path / "bench.json"}'],
      cwd=ROOT, env=os.environ | {'XLA_FLAGS': ''}, text=True,
      capture_output=True, timeout=500,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  results = json.loads((tmp_path / 'bench.json').read_text())
  for kind in ('tokens/s', 'first call, s', 'ratios'):
    assert all(x > 0 for x in results[kind].values())
  used = results['utilisation']
  assert used['ours'] >= 0.97 * used['list scheduling']
  assert used['steps per visit'] >= 32
