"""What is in a user's file, found in one pass that holds none of it.

Bad rows are refused here, before any work; the types of the columns are found,
so that what is written in pieces has one schema.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import random
from typing import Any

import pyarrow
from pyarrow import parquet

from ddt_jax import storage
from ddt_jax.data import readers
from ddt_jax.data import records

JSON = 'JSON'  # a column without one type is kept as text in JSON
_BLOCK = 1024  # rows whose types are looked at together
_FIELDS = 200  # of a structure; one with more has names for keys
# What others call a problem and its solution.
_PAIRS = (
    ('prompt', 'response'), ('prompt', 'completion'), ('question', 'response'),
    ('question', 'solution'), ('question', 'answer'), ('instruction', 'output'),
)


@dataclasses.dataclass(frozen=True)
class Census:
  """A file in numbers.

  Attributes:
    rows: all of them; `bad` of these cannot be used.
    sha256: of the file.
    types: by column its Arrow type, or JSON.
    sample: some of its problems, drawn at random, in the file's order.
  """

  rows: int
  bad: int
  sha256: str
  types: dict[str, pyarrow.DataType | str]
  sample: list[records.Problem]


def take(
    path: str,
    *,
    columns: Mapping[str, str],
    bad_rows: str = 'error',
    sample: int = 0,
    seed: int = 0,
    **options: Any,
) -> Census:
  """Reads a file once.

  Args:
    path, columns, bad_rows, **options: see `readers.read` and `readers.stream`.
    sample: problems to draw.
    seed: of the draw.

  Raises:
    readers.BadData: what is wrong with it, by line.
  """
  good, bad_count, bad, block, chosen = 0, 0, [], [], []
  types: dict[str, pyarrow.DataType | str] = {}
  seen: set[str] = set()
  rng = random.Random(seed)
  for row in readers.stream(path, columns=columns, whole=True, **options):
    seen |= row.columns.keys()
    if row.fault:
      bad_count += 1
      if len(bad) < 20:
        bad.append(readers.BadRow(str(path), row.line, row.fault))
      continue
    good += 1
    place = good - 1 if good <= sample else rng.randrange(good)  # a reservoir
    if place < sample:
      chosen[place:place + 1] = [(row.line, row.problem)]
    block.append(row.columns)
    if len(block) == _BLOCK:
      types, block = _merged(types, types_of(block)), []
  types = _merged(types, types_of(block))
  readers.check(path, columns, seen, good, bad, bad_count, bad_rows)
  file = storage.path(path)
  with file.open('rb') as f:
    sha256 = hashlib.file_digest(f, 'sha256').hexdigest()
    if file.suffix.lower() == '.parquet':
      types = {
          field.name: _plain(field.type)
          for field in parquet.ParquetFile(f).schema_arrow
      }
  return Census(
      good + bad_count, bad_count, sha256, types,
      [problem for _, problem in sorted(chosen, key=lambda x: x[0])],
  )


def named_columns(path: str, columns: Mapping[str, str]) -> dict[str, str]:
  """The columns to read, by what others call them if the first row says so.

  The user's own choice stands, and so do our names where the row has them.
  """
  row = next(readers.stream(path, columns=columns, whole=True), None)
  names = row.columns.keys() if row else ()
  ours = columns['problem'], columns['solution']
  if ours == ('problem', 'solution') and not {'problem', 'messages'} & names:
    for problem, solution in _PAIRS:
      if problem in names and solution in names:
        return dict(columns) | {'problem': problem, 'solution': solution}
  return dict(columns)


def to_arrow(
    values: Sequence[Any], type_: pyarrow.DataType | str
) -> pyarrow.Array:
  """A column's values as Arrow has them."""
  if type_ == JSON:
    return pyarrow.array(
        [None if v is None else json.dumps(v) for v in values], pyarrow.string())
  return pyarrow.array(values, type_)


def types_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """By column the Arrow type of what some rows hold, or JSON."""
  names = dict.fromkeys(name for row in rows for name in row)
  return {name: _type([row.get(name) for row in rows]) for name in names}


def _type(values: list[Any]) -> pyarrow.DataType | str:
  try:
    return _plain(pyarrow.array(values).type)
  except (pyarrow.ArrowException, ValueError, OverflowError):
    return JSON


def _plain(type_: pyarrow.DataType) -> pyarrow.DataType | str:
  """The type, or JSON where a table of it could not be written."""
  if pyarrow.types.is_dictionary(type_):
    return type_.value_type
  inner = [type_.field(i) for i in range(type_.num_fields)]
  if pyarrow.types.is_struct(type_) and not 0 < len(inner) <= _FIELDS:
    return JSON
  nested = (_plain(field.type) for field in inner)
  return JSON if JSON in nested else type_


def _merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
  return one | {
      name: _common(one.get(name, new), new) for name, new in two.items()
  }


@functools.cache
def _common(one, two):
  """A type for the values of both."""
  if JSON in (one, two):
    return JSON
  try:
    both = pyarrow.unify_schemas(
        [pyarrow.schema([('x', t)]) for t in (one, two)],
        promote_options='permissive',
    )
  except pyarrow.ArrowException:
    return JSON
  return _plain(both.field('x').type)
