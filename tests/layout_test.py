"""The house rules: where modules may import from, and how long they may be."""

import ast
import pathlib
import re

import pytest

import ddt_jax

ROOT = pathlib.Path(__file__).parents[1]
MAP = ddt_jax.__doc__.split('stand above it:')[1]
ORDER = re.findall(r'^  (\w+)/?  +\w', MAP, re.MULTILINE)
SOURCES = sorted(
    f for folder in ('ddt_jax', 'experiments', 'configs', 'colab')
    for f in (ROOT / folder).rglob('*.py')
)
LONGEST_FILE, LONGEST_FUNCTION = 350, 70  # lines; of code, for functions


def imported(file: pathlib.Path) -> list[str]:
  """Dotted names of all that a file imports, `from a import b` as a.b."""
  found = []
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      found += [name.name for name in node.names]
    elif isinstance(node, ast.ImportFrom):
      found += [f'{node.module}.{name.name}' for name in node.names]
  return found


def room(dotted: str) -> str:
  return dotted.split('.')[1]


def test_the_map_names_every_module():
  here = {
      f.stem for f in (ROOT / 'ddt_jax').iterdir()
      if f.suffix == '.py' or (f / '__init__.py').exists()
  } - {'__init__'}
  assert sorted(ORDER) == sorted(here)


@pytest.mark.parametrize(
    'file', [f for f in SOURCES if f.is_relative_to(ROOT / 'ddt_jax')],
    ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_only_go_up_the_map(file):
  mine = file.relative_to(ROOT / 'ddt_jax').parts[0].removesuffix('.py')
  if mine == '__init__':
    return
  for name in imported(file):
    top = name.split('.')[0]
    assert top not in ('experiments', 'configs', 'tests', 'colab'), name
    if top == 'ddt_jax' and room(name) != mine:
      assert ORDER.index(room(name)) < ORDER.index(mine), (
          f'{file.name} imports {name}, which stands below {mine}')


@pytest.mark.parametrize(
    'file', SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_and_functions_are_short(file):
  source = file.read_text()
  assert len(source.splitlines()) <= LONGEST_FILE
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.FunctionDef):
      body = node.body
      if ast.get_docstring(node) is not None and len(body) > 1:
        body = body[1:]
      code = body[-1].end_lineno - body[0].lineno + 1
      signature = node.body[0].lineno - node.lineno
      assert code + signature <= LONGEST_FUNCTION, (
          f'{node.name} has {code + signature} lines')


@pytest.mark.parametrize(
    'file', SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_our_own_modules_keep_their_names(file):
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module.startswith(
        ('ddt_jax', 'experiments', 'configs')
    ):
      assert not [n.asname for n in node.names if n.asname], ast.unparse(node)
