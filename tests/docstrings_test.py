"""Every example in a docstring of ddt_jax runs and prints what it says."""

import doctest
import importlib
import pathlib
import types

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Modules without an example are not imported: some need an extra.
FILES = sorted(
    f for f in (ROOT / 'ddt_jax').rglob('*.py') if '>>> ' in f.read_text()
)


def failures(module: types.ModuleType) -> tuple[int, str]:
  """(examples run, what their failures print)."""
  report = []
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  for example in doctest.DocTestFinder(exclude_empty=True).find(module):
    runner.run(example, out=report.append)
  return runner.tries, ''.join(report)


def test_there_are_examples():
  assert {'ddt.py', 'hinting.py'} <= {f.name for f in FILES}


@pytest.mark.parametrize(
    'file', FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_examples(file):
  name = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
  attempted, report = failures(importlib.import_module(
      name.removesuffix('.__init__')))
  assert attempted and not report, report


@pytest.mark.parametrize('example', ['>>> 1 + 1\n3', '>>> missing'])
def test_a_wrong_example_is_found(example):
  module = types.ModuleType('wrong', f'An example:\n\n{example}\n')
  attempted, report = failures(module)
  assert attempted == 1 and 'Failed example' in report
