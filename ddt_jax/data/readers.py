"""A user's file of problems, JSON lines or Parquet, checked row by row.

Bad rows are found here, before any work on the device. Each is reported with its
line, the reason, and the option that helps.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
import dataclasses
import itertools
import os
from typing import Any, NamedTuple

from ddt_jax import errors
from ddt_jax import verify
from ddt_jax.data import formats
from ddt_jax.data import layouts
from ddt_jax.data import records
from ddt_jax.data import rows

NAMES = ('problem', 'solution', 'answer', 'messages', 'id')  # our columns
LISTED = 20  # bad rows that an error names one by one


@dataclasses.dataclass(frozen=True)
class BadRow:
  """A row that cannot be used."""
  file: str
  line: int  # from 1; in Parquet the number of the row
  reason: str

  def __str__(self) -> str:
    return f'{self.file}:{self.line}: {self.reason}'


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a file, good or bad.

  Attributes:
    line: from 1; in Parquet the number of the row.
    columns: its values by column; {} if it cannot be parsed.
    problem: None for a bad row.
    fault: why the row is bad; '' for a good one.
    layout: name of another project's layout, see `layouts`; '' for ours.
  """
  line: int
  columns: dict[str, Any]
  problem: records.Problem | None
  fault: str = ''
  layout: str = ''


class File(NamedTuple):
  """All rows of a file.

  Attributes:
    problems: in the order of the file.
    bad: the rows left out.
    layouts: number of problems by `Row.layout`.
  """
  problems: list[records.Problem]
  bad: list[BadRow]
  layouts: Mapping[str, int]


def read(
    path: str | os.PathLike[str], **options: Any
) -> tuple[list[records.Problem], list[BadRow]]:
  r"""Reads all problems of a file.

  A row has either `messages`, a conversation that ends with the assistant, or
  `problem` and `solution`; or it has a layout of `layouts`.

  - Its answer is the column `answer`. Without that column, or where it is empty, it
    is the last \boxed{...} of the solution, the text after another marker, or what
    follows #### in the last line. A row without an answer is kept: it is trained on
    and not verified.
  - Its id is the column `id`. Without that column, or where it is null, it is
    file and line: 'data.jsonl:17'.

  Args:
    path: a .jsonl or .json file with one object a line, a .parquet file, or a data
      set of the Hugging Face hub, see `formats.open_source`.
    **options: of `read_file`.

  Returns:
    The problems in the order of the file, and the rows left out.

  Raises:
    errors.InputError: there are bad rows, no good row, or no such file; or an
      option has no such value.
  """
  return read_file(path, **options)[:2]


def read_file(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    bad_rows: str = 'error',
    kind: str = 'math',
    question: str = '{problem}',
    marker: str = verify.BOX,
    label: str = '',
    accept: Callable[[records.Problem], None] = lambda problem: None,
) -> File:
  r"""`read`, with the layouts of the rows.

  Args:
    path: see `read`.
    columns: {one of `NAMES`: the file's own name for that column}. The name ''
      makes the reader ignore a column.
    bad_rows: 'error' raises if there is any; 'skip' leaves them out.
    kind: how answers are verified, see `verify.verify`.
    question: template of the last user turn, for example
      '{problem}\nEnd with the line "Answer: ..."'.
    marker: the text before a final answer, see `verify.extract`.
    label: name of the file in `Problem.source`, and the beginning of all ids, which
      must differ between the files of a run. By default sources have the file's
      name, and ids of the file stay as they are.
    accept: called with each problem; where it raises `errors.InputError`, the row
      is a bad one for that reason.
  """
  _check_choice('data.bad_rows', bad_rows, ('error', 'skip'))
  problems, bad, used = [], [], collections.Counter()
  seen: set[str] = set()  # columns of all rows
  lines: dict[str, int] = {}  # from id to the line that has it
  for row in stream(
      path, columns=columns, kind=kind, question=question, marker=marker,
      label=label,
  ):
    seen |= row.columns.keys()
    fault = row.fault or _fault(row.problem, lines, accept)
    if fault:
      bad.append(BadRow(str(path), row.line, fault))
    else:
      lines[row.problem.id] = row.line
      problems.append(row.problem)
      used[row.layout] += 1

  check(path, columns, seen, len(problems), bad, len(bad), bad_rows)
  return File(problems, bad, used)


def _fault(problem, lines, accept) -> str:
  """Why a problem that was read cannot be used; '' if it can."""
  if problem.id in lines:
    return (f'the id {problem.id!r} is already that of line {lines[problem.id]};'
            " --config.data.columns.id='' numbers the rows instead")
  try:
    accept(problem)
  except errors.InputError as e:
    return str(e)
  return ''


def stream(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    kind: str = 'math',
    question: str = '{problem}',
    marker: str = verify.BOX,
    whole: bool = False,
    first: int = 0,
    label: str = '',
) -> Iterator[Row]:
  """Yields the rows of a file, holding one at a time.

  Ids are not compared: `read` does that.

  Args:
    path, columns, kind, question, marker, label: see `read_file`.
    whole: read every column of a Parquet file, not only those of `NAMES` and of
      `layouts`.
    first: rows to skip at the beginning.

  Raises:
    errors.InputError: there is no such file, it is broken as a whole, or an
      option has no such value.
  """
  verify.check_kind(kind)
  if '{problem}' not in question:
    raise errors.InputError(
        f'data.question={question!r} has no place for a {{problem}}')
  if not marker:
    raise errors.InputError('data.marker, which a final answer follows, is empty')
  names = _column_names(columns or {})
  source = formats.open_source(path)
  wanted = None if whole else layouts.COLUMNS.union(names.values())
  # `first` counts rows and not lines: items leave out blank lines.
  for line, item in itertools.islice(source.items(wanted), first, None):
    row = {}
    try:
      row = source.parse(item)
      # The user named columns: no other layout is guessed.
      layout = layouts.of(row) if _is_default(names) else None
      problem = rows.to_problem(
          layout.read(row) if layout else row, names,
          f'{label or source.name}:{line}', kind=kind, question=question,
          marker=marker,
      )
    except formats.Fault as fault:
      # The columns are kept: the error that lists them needs those of bad rows,
      # too.
      yield Row(line, row, None, str(fault))
      continue
    # Ids made of the line begin with the label already; the user's own do not.
    if label and not problem.id.startswith(f'{label}:'):
      problem = dataclasses.replace(problem, id=f'{label}:{problem.id}')
    yield Row(line, row, problem, layout=layout.name if layout else '')


def check(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None,
    seen: Set[str],
    good: int,
    bad: Sequence[BadRow],
    bad_count: int,
    bad_rows: str = 'error',
) -> None:
  """Raises if the rows that were read do not allow the file to be used.

  Args:
    path, columns, bad_rows: see `read_file`.
    seen: names of all columns, over all rows.
    good: number of good rows.
    bad: the first bad rows, `LISTED` of them if there are so many.
    bad_count: number of all bad rows.

  Raises:
    errors.InputError: there are bad rows, or no good row.
  """
  _check_choice('data.bad_rows', bad_rows, ('error', 'skip'))
  if not good and not bad:
    raise errors.InputError(f'{path}: the file is empty')
  # A column that every row lacks is reported once, not for each row.
  names = _column_names(columns or {})
  if seen and not good and not (
      _is_default(names) and layouts.of(dict.fromkeys(seen, ''))):
    try:
      rows.check_columns(seen, names)
    except formats.Fault as fault:
      raise errors.InputError(f'{path}: in every row: {fault}') from None
  if bad and (bad_rows == 'error' or not good):
    raise errors.InputError(_explain(path, bad[:LISTED], good, bad_count))


def named(bad: Sequence[BadRow]) -> list[str]:
  """Lines for the screen that name rows left out, `LISTED` of them at most."""
  lines = [f'  {row}' for row in bad[:LISTED]]
  if len(bad) > LISTED:
    lines.append(f'  and {len(bad) - LISTED} more')
  return lines


def _explain(path, bad: Sequence[BadRow], good: int, count: int) -> str:
  text = [f'{path}: {count} of {count + good} rows cannot be used:']
  text += [f'  {row}' for row in bad]
  if count > len(bad):
    text.append(f'  and {count - len(bad)} more')
  text.append('--config.data.bad_rows=skip leaves them out' if good else
              'there is no good row')
  return '\n'.join(text)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise errors.no_choice(name, value, choices)


def _is_default(names: Mapping[str, str]) -> bool:
  """Whether the user named no column of the problem; layouts are then tried."""
  return all(names[n] == n for n in ('problem', 'solution', 'messages'))


def _column_names(columns: Mapping[str, str]) -> dict[str, str]:
  """From each of `NAMES` to the file's name for it."""
  for name in columns:
    _check_choice('a name in data.columns', name, NAMES)
  names = {name: name for name in NAMES} | dict(columns)
  # A user who names the problem's column wants it read, even if the rows hold a
  # conversation, too.
  if ((names['problem'], names['solution']) != ('problem', 'solution')
      and names['messages'] == 'messages'):
    names['messages'] = ''
  _check_roles(names)
  return names


def _check_roles(names: Mapping[str, str]) -> None:
  """Refuses one column for two roles."""
  roles: dict[str, str] = {}
  for role, column in names.items():
    # The default name of the answer may be the user's column of the solution.
    if not column or (role, column) == ('answer', 'answer'):
      continue
    if other := roles.get(column):
      raise errors.InputError(
          f'data.columns.{other} and data.columns.{role} both name {column!r};'
          f" --config.data.columns.{role}='' leaves one out")
    roles[column] = role
