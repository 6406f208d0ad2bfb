"""The benchmark of the head runs and prints a line of JSON for every figure."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_a_small_run():
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.bench_head', '--shapes=16x8x300',
       '--rounds=3'],
      cwd=ROOT, env=os.environ | {'XLA_FLAGS': ''}, text=True,
      capture_output=True, timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = [json.loads(line) for line in done.stdout.splitlines()
           if line.startswith('{')]
  figures = {line['figure']: line for line in found}
  same = figures['16x8x300: tiles, flops of idft / sft']
  assert 0.9 < same['ratio'] < 1.1
  ratio = figures['16x8x300: tiles, idft / tiles, sft']
  assert ratio['low'] <= ratio['median'] <= ratio['high']
  assert ratio['rounds'] == 3
