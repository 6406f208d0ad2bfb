"""The rewriting command: what counts as a leak, and its table."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import rewrite

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('text, tokens, leaked', [
    ('12+3=15.', range(100, 120), False),
    ('12+3=15.', [7, *range(3, 11), 7], True),  # eight of the reference's
    ('12+3=15.', [7, *range(3, 10), 7], False),  # seven
    ('As in the given solution, 12+3=15.', [], True),
    ('According to the solution it is 15.', [], True),
    ('Ann has given 3 away.', [], False),
])
def test_leaks(text, tokens, leaked):
  assert rewrite.leaks(text, list(tokens), list(range(20))) == leaked


@pytest.mark.slow
def test_the_command_prints_a_row_for_every_beta():
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.rewrite', '--config',
       'configs/idft.py', '--problems=5', '--betas=0,3'],
      cwd=ROOT, env=os.environ | {'XLA_FLAGS': ''}, text=True,
      capture_output=True, timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  rows = [line.split('|')[1].strip() for line in done.stdout.splitlines()
          if line.startswith('|')]
  assert rows[2:] == ['reference solutions', 'own samples',
                      'rewritten, beta = 0', 'rewritten, beta = 3']
