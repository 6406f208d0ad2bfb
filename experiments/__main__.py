"""Lists the commands, a line each: `python -m experiments`."""

import ast
from collections.abc import Iterator
import pathlib
import sys

from ddt_jax import errors

HERE = pathlib.Path(__file__).parent
# The commands of a first day; the others follow by name.
FIRST = ('train', 'score', 'curate', 'evaluate', 'export', 'report')


def commands() -> Iterator[tuple[str, str]]:
  """Yields (name, first line of the docstring) of every command.

  The files are parsed and not imported, so the list is there at once.
  """
  files = [HERE / f'{name}.py' for name in FIRST]
  # A package is a command by its __main__.
  rest = [*HERE.glob('*.py'), *HERE.glob('*/__main__.py')]
  files += sorted(f for f in rest if f not in files and f != HERE / '__main__.py')
  files += sorted((HERE / 'bench').glob('*.py'))
  for file in files:
    source = file.read_text(encoding='utf-8')
    if "if __name__ == '__main__'" not in source:
      continue
    name = '.'.join(file.relative_to(HERE).with_suffix('').parts)
    yield (name.removesuffix('.__main__'),
           ast.get_docstring(ast.parse(source)).partition('\n')[0])


def listing() -> str:
  """Returns the list, with what to type next."""
  found = dict(commands())
  width = max(map(len, found))
  return '\n'.join([
      'python -m experiments.NAME --help explains a command:', '',
      *(f'  {name:<{width}}  {line}' for name, line in found.items()), '',
      'Fields of the configs: configs/OPTIONS.md. Recipes: experiments/RECIPES.md.'])


def main(words: list[str]) -> int:
  """Prints the list, or how a command is called; returns the exit status."""
  if not words or words[0] in ('--help', '-h', 'help'):
    print(listing())
    return 0
  name = words[0].removeprefix('experiments.')
  known = dict(commands())
  if name in known:
    print(f'error: it is called as python -m experiments.{name}', file=sys.stderr)
  else:
    print(f'error: there is no command {name!r}{errors.did_you_mean(name, known)};'
          ' python -m experiments lists them', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
