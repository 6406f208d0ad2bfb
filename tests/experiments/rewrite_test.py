"""The rewriting command: copies of a reference, and its table."""


import pytest

from experiments import rewrite
from tests.support import commands


@pytest.mark.parametrize('tokens, copied', [
    (range(100, 120), False),
    ([7, *range(3, 11), 7], True),  # eight of the reference's
    ([7, *range(3, 10), 7], False),  # seven
])
def test_copies_of_the_reference(tokens, copied):
  assert rewrite.copies(list(tokens), list(range(20))) == copied


@pytest.mark.slow
def test_the_command_prints_a_row_for_every_beta(tmp_path):
  done = commands.run(
      'experiments.rewrite', '--config', 'configs/idft.py', '--problems=5',
      '--betas=0,3', '--sweeps=2', f'--workdir={tmp_path}')
  rows = [line.split('|')[1].strip() for line in done.stdout.splitlines()
          if line.startswith('|')]
  assert rows[2:] == ['reference solutions', 'own samples',
                      'rewritten, beta = 0', 'rewritten, beta = 3',
                      'projected, beta = 3']
