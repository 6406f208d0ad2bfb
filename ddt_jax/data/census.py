"""One pass over a user's data: row counts, column types, a random sample.

A file is read one row at a time, so it may be larger than memory. The pass
comes before any scoring. It finds the bad rows, and one type for each column, so
that every file of scores written later has the same schema.
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

from ddt_jax.data import formats
from ddt_jax.data import readers
from ddt_jax.data import records

JSON = 'JSON'  # a column without a common type is written as JSON text
_BLOCK = 1024  # rows whose types are inferred together
# Most fields of a structure. One with more is a dictionary: its keys are data,
# and a Parquet column for each key would be too many.
_FIELDS = 200


@dataclasses.dataclass(frozen=True)
class Census:
  """Facts about a file.

  Attributes:
    rows: number of rows, bad ones included.
    bad: number of rows that cannot be used.
    sha256: digest of the file; for a data set of the hub, of its rows.
    types: Arrow type of each column, or `JSON`.
    sample: problems drawn at random without replacement, in the file's order.
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
  """Reads a file, or a data set of the hub, and reports what it holds.

  Args:
    path, columns, bad_rows: see `readers.read`.
    sample: problems to draw; all of them if there are fewer.
    seed: of the draw.
    **options: of `readers.stream`.

  Raises:
    errors.InputError: see `readers.read`.
  """
  file = formats.open_source(path).file
  of_rows = hashlib.sha256()
  good, bad_count, bad, block, chosen = 0, 0, [], [], []
  types: dict[str, pyarrow.DataType | str] = {}
  seen: set[str] = set()
  rng = random.Random(seed)
  for row in readers.stream(path, columns=columns, whole=True, **options):
    seen |= row.columns.keys()
    # A data set of the hub has no single file to take a digest of.
    if file is None:
      of_rows.update(json.dumps(row.columns, default=str).encode())
    if row.fault:
      bad_count += 1
      # A file may have millions of bad rows; the error names only the first ones.
      if len(bad) < readers.LISTED:
        bad.append(readers.BadRow(str(path), row.line, row.fault))
      continue
    good += 1
    # Reservoir sampling: the n-th problem replaces a random one of the sample
    # with probability sample / n, so that every problem is equally likely.
    place = good - 1 if good <= sample else rng.randrange(good)
    if place < sample:
      chosen[place:place + 1] = [(row.line, row.problem)]
    block.append(row.columns)
    if len(block) == _BLOCK:
      types, block = _merged(types, types_of(block)), []
  types = _merged(types, types_of(block))
  readers.check(path, columns, seen, good, bad, bad_count, bad_rows)
  sha256 = of_rows.hexdigest()
  if file is not None:
    with file.open('rb') as f:
      sha256 = hashlib.file_digest(f, 'sha256').hexdigest()
      # The file's own schema, not the inferred one: an int32 column stays int32.
      if file.suffix.lower() == '.parquet':
        types = {
            field.name: _plain(field.type)
            for field in parquet.ParquetFile(f).schema_arrow
        }
  return Census(
      good + bad_count, bad_count, sha256, types,
      # By line alone: problems cannot be compared.
      [problem for _, problem in sorted(chosen, key=lambda x: x[0])],
  )


def to_arrow(
    values: Sequence[Any], type_: pyarrow.DataType | str
) -> pyarrow.Array:
  """An Arrow array of a column's values; see `Census.types` for the type."""
  if type_ == JSON:
    return pyarrow.array(
        [None if v is None else json.dumps(v) for v in values], pyarrow.string())
  return pyarrow.array(values, type_)


def types_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Arrow type of each column over some rows, or `JSON`."""
  names = dict.fromkeys(name for row in rows for name in row)
  return {name: _type([row.get(name) for row in rows]) for name in names}


def _type(values: list[Any]) -> pyarrow.DataType | str:
  try:
    return _plain(pyarrow.array(values).type)
  # Mixed types, or an integer beyond 64 bits: Arrow has no type for the column.
  except (pyarrow.ArrowException, ValueError, OverflowError):
    return JSON


def _plain(type_: pyarrow.DataType) -> pyarrow.DataType | str:
  """The type without dictionary encoding; `JSON` if Parquet cannot hold it."""
  # Dictionary encoding is how a file stores values, not another type.
  if pyarrow.types.is_dictionary(type_):
    return type_.value_type
  inner = [type_.field(i) for i in range(type_.num_fields)]
  # Parquet cannot write a structure without fields.
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
  """A type that holds the values of both, or `JSON`."""
  if JSON in (one, two):
    return JSON
  try:
    both = pyarrow.unify_schemas(
        [pyarrow.schema([('x', t)]) for t in (one, two)],
        # int and float become float, null and text become text.
        promote_options='permissive',
    )
  except pyarrow.ArrowException:
    return JSON
  return _plain(both.field('x').type)
