"""Runs a benchmark as a user would, and reads its lines of JSON."""

import json

from tests.support import commands


def figures(module, *flags):
  """{figure: its line}; the line to read before each names the same figure."""
  lines = commands.run(f'experiments.{module}', *flags).stdout.splitlines()
  found = {}
  for text, line in zip(lines, lines[1:], strict=False):
    if line.startswith('{'):
      figure = json.loads(line)
      name = figure['figure']
      assert name not in found, f'two figures of one name: {name}'
      assert text.startswith(f'{name}: '), text
      found[name] = figure
  return found
