"""Runs a benchmark as a user would, and reads its lines of JSON."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def figures(module, *flags):
  """{figure: its line}, after what holds of every benchmark is asserted."""
  done = subprocess.run(
      [sys.executable, '-m', f'experiments.{module}', *flags], cwd=ROOT,
      env=os.environ | {'XLA_FLAGS': ''}, text=True, capture_output=True,
      timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = [json.loads(line) for line in done.stdout.splitlines()
           if line.startswith('{')]
  for line in found:
    if 'median' in line:
      assert 0 < line['low'] <= line['median'] <= line['high']
  return {line['figure']: line for line in found}
