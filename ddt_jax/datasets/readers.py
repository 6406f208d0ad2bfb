"""A user's own problems, from JSON lines or Parquet, checked row by row.

Whatever is wrong with a row is found here, before any training, and is told
with the line it stands in and the setting that helps.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
from typing import Any

from ddt_jax import records
from ddt_jax import storage
from ddt_jax import verify
from ddt_jax.datasets import rows

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
  """A file that cannot be trained on, explained for the screen."""


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
  _check_choice('kind', kind, ('math', 'text'))
  if '{problem}' not in question:
    raise ValueError(f'question {question!r} has no place for a {{problem}}')
  if not marker:
    raise ValueError('the marker of a final answer is empty')
  names = _column_names(columns or {})
  file, items, parse = _open(path)

  problems, bad = [], []
  seen: set[str] = set()  # every column that any row has
  lines: dict[str, int] = {}  # of the ids given so far
  for line, item in items(file, names):
    try:
      row = parse(item)
      seen |= row.keys()
      problem = rows.to_problem(
          row, names, f'{file.name}:{line}', kind=kind, question=question,
          marker=marker,
      )
      if problem.id in lines:
        raise rows.Fault(
            f'the id {problem.id!r} is already that of line '
            f"{lines[problem.id]}; --config.data.columns.id='' numbers the "
            'rows instead')
    except rows.Fault as fault:
      bad.append(BadRow(str(path), line, str(fault)))
    else:
      lines[problem.id] = line
      problems.append(problem)

  if not problems and not bad:
    raise BadData(f'{path}: the file is empty')
  if seen:  # what every row lacks is said once
    try:
      rows.check_columns(seen, names)
    except rows.Fault as fault:
      raise BadData(f'{path}: in every row: {fault}') from None
  if bad and (bad_rows == 'error' or not problems):
    raise BadData(_explain(path, bad, len(problems), limit_errors))
  return problems, bad


def _explain(path, bad: list[BadRow], good: int, limit: int) -> str:
  text = [f'{path}: {len(bad)} of {len(bad) + good} rows cannot be used:']
  text += [f'  {row}' for row in bad[:limit]]
  if len(bad) > limit:
    text.append(f'  and {len(bad) - limit} more')
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


def _json_items(file, names) -> Iterator[tuple[int, bytes]]:
  del names  # a line is parsed whole
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


def _parquet_items(file, names) -> Iterator[tuple[int, tuple]]:
  import pyarrow  # here, for whoever has JSON alone need not load it
  from pyarrow import parquet
  with file.open('rb') as f:
    try:
      table = parquet.ParquetFile(f)
      line = 0
      wanted = [c for c in table.schema_arrow.names if c in names.values()]
      for batch in table.iter_batches(columns=wanted):
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
