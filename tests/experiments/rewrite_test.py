"""The rewriting command: what counts as a leak, and its table."""


import pytest

from experiments import rewrite
from tests.support import commands


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
  done = commands.run(
      'experiments.rewrite', '--config', 'configs/idft.py', '--problems=5',
      '--betas=0,3')
  rows = [line.split('|')[1].strip() for line in done.stdout.splitlines()
          if line.startswith('|')]
  assert rows[2:] == ['reference solutions', 'own samples',
                      'rewritten, beta = 0', 'rewritten, beta = 3']
