"""Runs a benchmark as a user would, and reads its lines of JSON."""

import json

from tests.support import commands


def figures(module, *flags):
  """{figure: its line}, after what holds of every benchmark is asserted."""
  done = commands.run(f'experiments.{module}', *flags)
  found = [json.loads(line) for line in done.stdout.splitlines()
           if line.startswith('{')]
  for line in found:
    if 'median' in line:
      assert 0 < line['low'] <= line['median'] <= line['high']
  return {line['figure']: line for line in found}
