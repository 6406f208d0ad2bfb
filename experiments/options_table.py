r"""Every field of the configs as a table: default, values, what it does.

python -m experiments.options_table
python -m experiments.options_table --out configs/OPTIONS.md
python -m experiments.options_table --out -

What a field does is the comment beside it in configs/; its values are those that
the commands accept (`experiments.run.checks`). A field without a comment is an error.
"""

import ast
from collections.abc import Iterator
import importlib
import io
import pathlib
import re
import tokenize
from typing import Any, NamedTuple

from absl import flags

from ddt_jax import errors
from ddt_jax import storage
from experiments.run import checks
from experiments.run import lifecycle
from experiments.run import options

CONFIGS = {
    'idft': 'Training: `idft.py`, and all configs that are made from it',
    'score': 'Scoring: `score.py`',
    'study': 'The study: `study.py`',
    'student': 'Pre-training of the embedded student: `student.py`',
}
INTRODUCTION = """\
# Options

Every field of the configs, set on the command line by `--config.FIELD=VALUE`. This
page is written by `python -m experiments.options_table`, from the comments in the
configs and the limits that commands check. Presets and the configs of other
objectives change defaults. A name of code above a table is the function or record
that takes the section as its arguments, and explains them at length.
"""
# Functions and records that take a section as their arguments.
_PATHS = re.compile(r'\b(?:ddt_jax|experiments|select)(?:\.\w+)+')
HEAD = ['| field | default | values | meaning |', '|---|---|---|---|']


class Documented(NamedTuple):
  """A field, or a section of fields, with the comment beside it in the config.

  Attributes:
    name: dotted.
    comment: one line.
    is_section: whether it holds fields of its own.
  """

  name: str
  comment: str
  is_section: bool


def documented(source: str) -> list[Documented]:
  r"""Returns fields and sections of a config's source, in order.

  The comment of a field begins on the line where its value ends, and continues on
  the lines below it at the same column. That of a section may also stand above it.

  A section may come from a function of the file, `c.NAME = function()`: its comment
  is then the first line of the docstring, and its fields are not listed.

  Args:
    source: Python, with `c.NAME = value` and `return dict(NAME=value)`.

  Example:
    >>> documented('c.optim = dict(\n    lr=1e-3,  # peak\n)')[1]
    Documented(name='optim.lr', comment='peak', is_section=False)
  """
  comments = {
      t.start[0]: (t.start[1], t.string.lstrip('# '), not t.line[:t.start[1]].strip())
      for t in tokenize.generate_tokens(io.StringIO(source).readline)
      if t.type == tokenize.COMMENT
  }
  found, tree = [], ast.parse(source)
  made = {f.name: ast.get_docstring(f) for f in tree.body
          if isinstance(f, ast.FunctionDef)}

  def above(line: int) -> list[str]:
    column, text, alone = comments.get(line, (0, '', False))
    return [*above(line - 1), text] if alone else []

  def beside(line: int) -> list[str]:
    if line not in comments:
      return []
    column, text, _ = comments[line]
    texts = [text]
    while comments.get(line := line + 1, ())[::2] == (column, True):
      texts.append(comments[line][1])
    return texts

  def add(name: str, line: int, value: ast.expr) -> None:
    called = _called(value)
    if called and called[0] in made:
      found.append(Documented(name, made[called[0]].partition('\n')[0], True))
    elif called == ['dict']:
      text = ' '.join([*above(line - 1), *beside(line)])
      found.append(Documented(name, text, True))
      for k in value.keywords:
        add(f'{name}.{k.arg}'.lstrip('.'), k.lineno, k.value)
    else:
      found.append(Documented(name, ' '.join(beside(value.end_lineno)), False))

  assigned = {  # functions whose sections are not listed
      name for node in ast.walk(tree) if isinstance(node, ast.Assign)
      for name in _called(node.value)}
  for top in tree.body:
    function = getattr(top, 'name', 'get_config')
    for node in [top, *_in_order(top)] if function not in assigned else ():
      if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
        for k in node.value.keywords:
          add(k.arg, k.lineno, k.value)
      elif (function == 'get_config' and isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)):
        add(node.targets[0].attr, node.lineno, node.value)
  return found


def _called(value: ast.expr) -> list[str]:
  """Names of the functions in `f()` or `f() | g()`."""
  if isinstance(value, ast.BinOp):
    return _called(value.left) + _called(value.right)
  name = getattr(value.func, 'id', '') if isinstance(value, ast.Call) else ''
  return [name] if name else []


def _in_order(tree: ast.AST) -> Iterator[ast.stmt]:
  """All statements, in the order of the source."""
  for node in getattr(tree, 'body', ()):
    yield node
    yield from _in_order(node)


def values(config: str, field: str, default: Any) -> str:
  """Says what a field may be: choices, limits, or the kind of value.

  Args:
    config: name of the config; limits are known of idft alone.
    field: dotted.
    default: of the field.

  Example:
    >>> values('idft', 'train.batch', 32), values('idft', 'lora.rslora', False)
    ('whole number, at least 1', 'True or False')
  """
  if field in checks.CHOICES:
    return ', '.join(choice or "''" for choice in checks.CHOICES[field])
  kinds = {bool: 'True or False', int: 'whole number', float: 'number', str: 'text'}
  kind = kinds.get(type(default), 'values in brackets')
  if config != 'idft' or field not in checks.RANGES:
    return kind
  least, most = checks.RANGES[field]
  parts = [kind]
  if least > -checks.FINITE:
    # A limit of 1e-12 stands for "not 0".
    parts.append('above 0' if 0 < least < 1e-6 else f'at least {least:g}')
  if most < checks.MANY:
    parts.append(f'at most {most:g}')
  if field in checks.OPEN:
    parts.append(f'or {checks.OPEN[field]}')
  return ', '.join(parts)


def tables(config: str) -> str:
  """Returns the tables of a config, one a section, as Markdown.

  Raises:
    errors.InputError: a field has no comment, or no line of its own.
  """
  module = importlib.import_module(f'configs.{config}')
  defaults = dict(options.flat(module.get_config()))
  found = documented(pathlib.Path(module.__file__).read_text(encoding='utf-8'))
  fields = [d for d in found if not d.is_section]
  listed = {d.name.partition('.')[0] for d in fields}
  made = tuple(f'{d.name}.' for d in found if d.is_section and d.name not in listed)
  unlisted = sorted(
      name for name in defaults.keys() - {d.name for d in fields}
      if not made or not name.startswith(made))
  if missing := [d.name for d in fields if not d.comment] + unlisted:
    raise errors.InputError(
        f'configs/{config}.py: no comment beside {", ".join(missing)}')
  lines = [f'## {CONFIGS[config]}', '']
  # Fields of no section may stand between sections.
  found.sort(key=lambda d: d.is_section or '.' in d.name)
  for name, comment, is_section in found:
    if (not is_section or '.' in name) and not lines[-1]:
      lines += HEAD
    if not is_section:
      default = defaults[name]
      lines.append(_row(
          f'`{name}`', f'`{default!r}`', values(config, name, default), comment))
    elif '.' in name:
      lines.append(_row(f'`{name}`', '', '', f'{comment}:' if comment else ''))
    else:
      lines += ['', f'### {name}', '']
      lines += [_text(_PATHS.sub(r'`\g<0>`', comment)), ''] if comment else []
  return re.sub('\n{3,}', '\n\n', '\n'.join(lines)).strip() + '\n'


def page() -> str:
  """Returns the whole page."""
  return '\n'.join([INTRODUCTION, *map(tables, CONFIGS)])


def _row(*cells: str) -> str:
  return f'| {" | ".join(map(_text, cells))} |'


def _text(text: str) -> str:
  # What would end a cell, or be taken for HTML.
  return text.replace('|', '\\|').replace('<', '&lt;')


def main():
  with lifecycle.explained_errors():
    text = page()
  if flags.FLAGS.out == '-':
    print(text)
  else:
    storage.publish(storage.path(flags.FLAGS.out), text)


if __name__ == '__main__':
  flags.DEFINE_string(
      'out', 'configs/OPTIONS.md', 'The file to write; - prints the page.')
  lifecycle.launch(main)
