"""Facts about the commands that are read from their sources, without imports."""

import ast
import re

from tests.support import paths

FOLDER = paths.ROOT / 'experiments'
FILES = {
    '.'.join(f.relative_to(FOLDER).with_suffix('').parts).removesuffix('.__main__'): f
    for f in sorted([*FOLDER.glob('*.py'), *(FOLDER / 'bench').glob('*.py'),
                     *FOLDER.glob('*/__main__.py')])
    if f != FOLDER / '__main__.py' and "if __name__ == '__main__'" in f.read_text()
}


def docstring(name):
  return ast.get_docstring(ast.parse(FILES[name].read_text()))


def flags(name):
  """Names of the flags that a command defines by absl, `config` included."""
  found = []
  for node in ast.walk(ast.parse(FILES[name].read_text())):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      if node.func.attr.startswith('DEFINE_'):
        found.append(node.args[0].value)
      elif node.func.attr == 'define_config':
        found.append('config')
  return found


def examples(name):
  """Calls of the command in its docstring, each as a list of words."""
  text = docstring(name).replace('\\\n', ' ')
  return [
      line.split()[3:] for line in text.splitlines()
      if re.match(rf'python -m experiments\.{re.escape(name)}\b', line)]
