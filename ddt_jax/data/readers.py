"""A user's own problems, from JSON lines or Parquet, checked row by row.

Whatever is wrong with a row is found here, before any training, and is told
with the line it stands in and the setting that helps.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
import dataclasses
import itertools
import json
import os
from typing import Any

from ddt_jax import storage
from ddt_jax import verify
from ddt_jax.data import records
from ddt_jax.data import rows

NAMES = ('problem', 'solution', 'answer', 'messages', 'id')


@dataclasses.dataclass(frozen=True)
class BadRow:
  """A row that cannot be used."""
  file: str
  line: int  # from 1; in Parquet the number of the row
  reason: str

  def __str__(self) -> str:
    return f'{self.file}:{self.line}: {self.reason}'


class BadData(ValueError):
  """A file that cannot be used, explained for the screen."""


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a file, good or bad.

  Attributes:
    line: from 1; in Parquet the number of the row.
    columns: what it holds, {} where it cannot be parsed.
    problem: what it states, None if nothing.
    fault: why that is so, '' of a good row.
  """
  line: int
  columns: dict[str, Any]
  problem: records.Problem | None
  fault: str = ''


def read(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    bad_rows: str = 'error',
    kind: str = 'math',
    question: str = '{problem}',
    marker: str = verify.BOX,
    limit_errors: int = 20,
) -> tuple[list[records.Problem], list[BadRow]]:
  r"""Reads problems, and says of every row that is none why it is not.

  A row has either `messages`, a conversation that ends with the assistant, or
  `problem` and `solution`. Its `answer` is that column or, where there is no
  such column, the last \boxed{...} of the solution, or what follows the marker. Its id is the column `id`
  or else the file and line, as in 'data.jsonl:17'.

  Args:
    path: a .jsonl or .json file with one object a line, or a .parquet file.
    columns: the file's name for each of `NAMES` that it calls otherwise; ''
      leaves the column of that name alone.
    bad_rows: 'error' raises if there is any; 'skip' leaves them out.
    kind: how the answers are to be verified, 'math' or 'text'.
    question: what is asked about a `problem`, e.g. '{problem}\nEnd with the
      line "Answer: ..."'; conversations are left as they are.
    marker: what a final answer follows, see `verify.extract`.
    limit_errors: how many bad rows the error lists.
  Returns:
    The problems in the order of the file, and the rows left out.
  Raises:
    BadData: for bad rows, or if nothing usable is in the file.
    FileNotFoundError, IsADirectoryError: if the path is no file.
  """
  _check_choice('bad_rows', bad_rows, ('error', 'skip'))
  problems, bad = [], []
  seen: set[str] = set()  # every column that any row has
  lines: dict[str, int] = {}  # of the ids given so far
  for row in stream(
      path, columns=columns, kind=kind, question=question, marker=marker
  ):
    seen |= row.columns.keys()
    fault = row.fault
    if not fault and row.problem.id in lines:
      fault = (f'the id {row.problem.id!r} is already that of line '
               f"{lines[row.problem.id]}; --config.data.columns.id='' numbers "
               'the rows instead')
    if fault:
      bad.append(BadRow(str(path), row.line, fault))
    else:
      lines[row.problem.id] = row.line
      problems.append(row.problem)

  check(path, columns, seen, len(problems), bad, len(bad), bad_rows, limit_errors)
  return problems, bad


def stream(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    kind: str = 'math',
    question: str = '{problem}',
    marker: str = verify.BOX,
    whole: bool = False,
    first: int = 0,
) -> Iterator[Row]:
  """The rows of a file one at a time, of which none is held.

  Args:
    path, columns, kind, question, marker: see `read`.
    whole: read every column of a Parquet file, not only those that are used.
    first: so many rows at the beginning are left out, unread.
  Raises:
    BadData: the file as a whole is broken.
    FileNotFoundError, IsADirectoryError: if the path is no file.
  """
  _check_choice('kind', kind, ('math', 'text'))
  if '{problem}' not in question:
    raise ValueError(f'question {question!r} has no place for a {{problem}}')
  if not marker:
    raise ValueError('the marker of a final answer is empty')
  names = _column_names(columns or {})
  file, items, parse = _open(path)
  found = items(file, None if whole else names.values())
  for line, item in itertools.islice(found, first, None):
    row = {}
    try:
      row = parse(item)
      problem = rows.to_problem(
          row, names, f'{file.name}:{line}', kind=kind, question=question,
          marker=marker,
      )
    except rows.Fault as fault:
      yield Row(line, row, None, str(fault))
    else:
      yield Row(line, row, problem)


def check(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None,
    seen: Set[str],
    good: int,
    bad: Sequence[BadRow],
    bad_count: int,
    bad_rows: str = 'error',
    limit_errors: int = 20,
) -> None:
  """Refuses a file for what was found in it.

  Args:
    path, columns, bad_rows, limit_errors: see `read`.
    seen: every column that any row has.
    good, bad_count: rows of either kind.
    bad: the first of them, at least limit_errors.
  Raises:
    BadData: for bad rows, or if nothing usable is in the file.
  """
  _check_choice('bad_rows', bad_rows, ('error', 'skip'))
  if not good and not bad:
    raise BadData(f'{path}: the file is empty')
  if seen:  # what every row lacks is said once
    try:
      rows.check_columns(seen, _column_names(columns or {}))
    except rows.Fault as fault:
      raise BadData(f'{path}: in every row: {fault}') from None
  if bad and (bad_rows == 'error' or not good):
    raise BadData(_explain(path, bad[:limit_errors], good, bad_count))


def _explain(path, bad: Sequence[BadRow], good: int, count: int) -> str:
  text = [f'{path}: {count} of {count + good} rows cannot be used:']
  text += [f'  {row}' for row in bad]
  if count > len(bad):
    text.append(f'  and {count - len(bad)} more')
  text.append('--config.data.bad_rows=skip leaves them out' if good else
              'no row is left to train on')
  return '\n'.join(text)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f'{name} is {value!r}; choose from {", ".join(choices)}')


def _column_names(columns: Mapping[str, str]) -> dict[str, str]:
  """The file's name of each of our columns."""
  for name in columns:
    _check_choice('a column', name, NAMES)
  names = {name: name for name in NAMES} | dict(columns)
  # Whoever names the problem's column wants it read, even if the rows carry a
  # conversation as well.
  if ((names['problem'], names['solution']) != ('problem', 'solution')
      and names['messages'] == 'messages'):
    names['messages'] = ''
  return names


# Files. A format yields (line, item) and parses an item to a row, apart from
# each other so that a broken item costs one row, not the file.


def _open(path):
  """The file, how its items are found and how one is parsed."""
  file, known = storage.path(path), ', '.join(_FORMATS)
  if file.is_dir():
    raise IsADirectoryError(f'{path} is a folder; name one file in it: {known}')
  if file.suffix.lower() not in _FORMATS:
    raise BadData(f'{path}: no reader for {file.suffix or "such"!r} files; '
                  f'there are {known}')
  if not file.exists():
    raise FileNotFoundError(f'{path}: there is no such file')
  return file, *_FORMATS[file.suffix.lower()]


def _json_items(file, wanted) -> Iterator[tuple[int, bytes]]:
  del wanted  # a line is parsed whole
  with file.open('rb') as f:  # bytes end at \n alone; text may hold U+2028
    for line, item in enumerate(f, 1):
      if item.strip():
        yield line, item


def _json_row(item: bytes) -> dict[str, Any]:
  try:
    # Without the newline, after which the error's columns would start anew.
    row = json.loads(item.decode('utf-8-sig').rstrip())
  except UnicodeDecodeError as e:
    raise rows.Fault(f'not UTF-8: byte {e.start + 1} of the line is '
                     f'0x{e.object[e.start]:02x}') from e
  except json.JSONDecodeError as e:
    hint = ('; the file must hold one object a line, not one array'
            if item.rstrip() == b'[' else '')
    raise rows.Fault(f'broken JSON at column {e.colno}: {e.msg}{hint}') from e
  except (ValueError, RecursionError) as e:  # endless digits or brackets
    raise rows.Fault(f'unreadable JSON: {e}') from e
  if not isinstance(row, dict):
    raise rows.Fault(
        f'{rows.describe(row)}, not an object; a line must hold one')
  return row


def _parquet_items(file, wanted) -> Iterator[tuple[int, tuple]]:
  """Rows of the columns `wanted`, of all where it is None."""
  import pyarrow  # here, for whoever has JSON alone need not load it
  from pyarrow import parquet
  with file.open('rb') as f:
    try:
      table = parquet.ParquetFile(f)
      line = 0
      read = [c for c in table.schema_arrow.names
              if wanted is None or c in wanted]
      for batch in table.iter_batches(columns=read):
        for index in range(batch.num_rows):
          line += 1
          yield line, (table.schema_arrow.names, batch, index)
    except (pyarrow.ArrowException, OSError) as e:
      raise BadData(f'{file}: broken Parquet: {e}') from e


def _parquet_row(item: tuple) -> dict[str, Any]:
  columns, batch, index = item
  row = dict.fromkeys(columns)  # those not read are still named in errors
  for name, values in zip(batch.schema.names, batch.columns, strict=True):
    try:
      row[name] = values[index].as_py()
    except ValueError as e:  # not UTF-8, or a date that Python cannot hold
      raise rows.Fault(f'{name!r} is unreadable: {e}') from e
  return row


_FORMATS = {
    '.jsonl': (_json_items, _json_row),
    '.json': (_json_items, _json_row),
    '.parquet': (_parquet_items, _parquet_row),
}
