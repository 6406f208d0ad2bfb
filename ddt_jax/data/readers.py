"""A user's file of problems, JSON lines or Parquet, checked row by row.

Bad rows are found here, before any work on the device. Each is reported with its
line, the reason, and the option that helps.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
import dataclasses
import itertools
import json
import os
from typing import Any

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax import verify
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
) -> tuple[list[records.Problem], list[BadRow]]:
  r"""Reads all problems of a file.

  A row has either `messages`, a conversation that ends with the assistant, or
  `problem` and `solution`.

  - Its answer is the column `answer`. Without that column it is the last
    \boxed{...} of the solution, or the text after another marker.
  - Its id is the column `id`. Without that column, or where it is null, it is
    file and line: 'data.jsonl:17'.

  Args:
    path: a .jsonl or .json file with one object a line, or a .parquet file.
    columns: {one of `NAMES`: the file's own name for that column}. The name ''
      makes the reader ignore a column.
    bad_rows: 'error' raises if there is any; 'skip' leaves them out.
    kind: how answers are verified, see `verify.verify`.
    question: template of the user turn of a `problem`, for example
      '{problem}\nEnd with the line "Answer: ..."'. Conversations are not changed.
    marker: the text before a final answer, see `verify.extract`.

  Returns:
    The problems in the order of the file, and the rows left out.

  Raises:
    errors.InputError: there are bad rows, no good row, or no such file; or an
      option has no such value.
  """
  _check_choice('bad_rows', bad_rows, ('error', 'skip'))
  problems, bad = [], []
  seen: set[str] = set()  # columns of all rows
  lines: dict[str, int] = {}  # from id to the line that has it
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

  check(path, columns, seen, len(problems), bad, len(bad), bad_rows)
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
  """Yields the rows of a file, holding one at a time.

  Ids are not compared: `read` does that.

  Args:
    path, columns, kind, question, marker: see `read`.
    whole: read every column of a Parquet file, not only those of `NAMES`.
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
  file, items, parse = _open(path)
  numbered = items(file, None if whole else names.values())
  for line, item in itertools.islice(numbered, first, None):
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
) -> None:
  """Raises if the rows that were read do not allow the file to be used.

  Args:
    path, columns, bad_rows: see `read`.
    seen: names of all columns, over all rows.
    good: number of good rows.
    bad: the first bad rows, `LISTED` of them if there are so many.
    bad_count: number of all bad rows.

  Raises:
    errors.InputError: there are bad rows, or no good row.
  """
  _check_choice('bad_rows', bad_rows, ('error', 'skip'))
  if not good and not bad:
    raise errors.InputError(f'{path}: the file is empty')
  if seen:  # a column that every row lacks is reported once, not for each row
    try:
      rows.check_columns(seen, _column_names(columns or {}))
    except rows.Fault as fault:
      raise errors.InputError(f'{path}: in every row: {fault}') from None
  if bad and (bad_rows == 'error' or not good):
    raise errors.InputError(_explain(path, bad[:LISTED], good, bad_count))


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
    raise errors.InputError(
        f'{name} is {value!r}; choose from {", ".join(choices)}')


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
  return names


# File formats. A format yields (line, item) and parses an item into a row. These
# are two steps, so that a broken item costs one row and not the whole file.


def _open(path):
  """(file, its format's generator of items, its format's parser)."""
  file, known = storage.path(path), ', '.join(_FORMATS)
  if file.is_dir():
    raise errors.InputError(f'{path} is a folder; name one file in it: {known}')
  if file.suffix.lower() not in _FORMATS:
    raise errors.InputError(
        f'{path}: no reader for files that end with {file.suffix!r}; convert it'
        f' to one of {known}')
  if not file.exists():
    raise errors.InputError(f'{path}: there is no such file')
  return file, *_FORMATS[file.suffix.lower()]


def _json_items(file, wanted) -> Iterator[tuple[int, bytes]]:
  del wanted  # a line is parsed whole
  # Bytes, decoded a line at a time: one that is not UTF-8 costs one row.
  with file.open('rb') as f:
    for line, item in enumerate(f, 1):
      if item.strip():
        yield line, item


def _json_row(item: bytes) -> dict[str, Any]:
  try:
    # Without the newline: the error would count its column from there.
    row = json.loads(item.decode('utf-8-sig').rstrip())
  except UnicodeDecodeError as e:
    raise rows.Fault(f'not UTF-8: byte {e.start + 1} of the line is '
                     f'0x{e.object[e.start]:02x}') from e
  except json.JSONDecodeError as e:
    hint = ('; the file must hold one object a line, not one array'
            if item.rstrip() == b'[' else '')
    raise rows.Fault(f'broken JSON at column {e.colno}: {e.msg}{hint}') from e
  # Python limits the digits of an integer and the depth of nested brackets.
  except (ValueError, RecursionError) as e:
    raise rows.Fault(f'unreadable JSON: {e}') from e
  if not isinstance(row, dict):
    raise rows.Fault(
        f'{rows.describe(row)}, not an object; a line must hold one')
  return row


def _parquet_items(file, wanted) -> Iterator[tuple[int, tuple]]:
  """Rows with the columns `wanted`, or with all if it is None."""
  import pyarrow  # here: it loads slowly, and JSON files do not need it
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
      raise errors.InputError(f'{file}: broken Parquet: {e}') from e


def _parquet_row(item: tuple) -> dict[str, Any]:
  columns, batch, index = item
  # Columns that are not read are None: errors list the names of all columns.
  row = dict.fromkeys(columns)
  for name, values in zip(batch.schema.names, batch.columns, strict=True):
    try:
      row[name] = values[index].as_py()
    except (ValueError, OverflowError) as e:  # not UTF-8, or a date after 9999
      raise rows.Fault(f'{name!r} is unreadable: {e}') from e
  return row


_FORMATS = {
    '.jsonl': (_json_items, _json_row),
    '.json': (_json_items, _json_row),
    '.parquet': (_parquet_items, _parquet_row),
}
