"""Rows of a JSON lines file, a Parquet file, or a data set of the Hugging Face hub.

A format yields (line, item) and parses an item into a row. These are two steps, so
that a broken item costs one row and not the whole file.
"""

from collections.abc import Callable, Collection, Iterator
import json
import os
import re
from typing import Any, NamedTuple

import numpy as np

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.data import public_sets


class Fault(Exception):
  """Why one row is bad; the reader adds the file and line."""


class Source(NamedTuple):
  """A file that is read row by row.

  Attributes:
    name: in messages and ids, with the line.
    file: None for a data set of the hub.
    items: (columns wanted, None for all) -> (line from 1, item) in order.
    parse: an item -> its values by column; raises `Fault`.
  """

  name: str
  file: os.PathLike[str] | None
  items: Callable[[Collection[str] | None], Iterator[tuple[int, Any]]]
  parse: Callable[[Any], dict[str, Any]]


# org/name of a data set, then its configuration and its split.
_HUB = re.compile(r'([\w.-]+/[\w.-]+)(?::([\w.-]*))?(?::([\w.\[\]:%+-]+))?')
_FILE_ENDING = re.compile(r'\.[A-Za-z]\w{0,8}')


def open_source(path: str | os.PathLike[str]) -> Source:
  """Finds the format of a file, or the data set that a name stands for.

  Args:
    path: a .jsonl, .json or .parquet file; or org/name, org/name:config or
      org/name:config:split of the Hugging Face hub, where the split is train by
      default; or a set of `public_sets`, e.g. gsm8k:FOLDER.

  Raises:
    errors.InputError: there is no such file, or no format for it.
  """
  if public := public_sets.named(path):
    return Source(public.name, None, lambda wanted: enumerate(
        public_sets.rows(public), 1), lambda row: row)
  file, known = storage.path(path), ', '.join(_FORMATS)
  suffix = file.suffix.lower()
  hub = _HUB.fullmatch(str(path))
  # data/train.jsonl also looks like org/name; its ending says that a file is meant.
  if hub and not file.exists() and not _FILE_ENDING.fullmatch(suffix):
    return Source(
        hub[1], None, lambda wanted: _hub_items(*hub.groups(), wanted), _arrow_row)
  if file.is_dir():
    raise errors.InputError(f'{path} is a folder; name one file in it: {known}')
  if suffix not in _FORMATS:
    raise errors.InputError(
        f'{path}: no reader for files that end with {file.suffix!r}; convert it'
        f' to one of {known}{_mistyped(str(path), suffix)}')
  if not file.exists():
    raise errors.InputError(f'{path}: there is no such file')
  items, parse = _FORMATS[suffix]
  return Source(file.name, file, lambda wanted: items(file, wanted), parse)


def _mistyped(path: str, suffix: str) -> str:
  """What a mistyped ending, or name of a public set, may mean; '' for neither."""
  name, colon, _ = path.partition(':')
  return errors.did_you_mean(
      name if colon else suffix, public_sets.SETS if colon else _FORMATS)


def describe(value: Any) -> str:
  """A value's type, in JSON's words."""
  if value != value:  # NaN: data frames write it for a missing value
    return 'not a number'
  words = {type(None): 'null', bool: 'a boolean', int: 'a number',
           float: 'a number', str: 'text', list: 'a list', dict: 'an object'}
  return words.get(type(value), type(value).__name__)


def _json_items(file, wanted) -> Iterator[tuple[int, bytes]]:
  del wanted  # a line is parsed whole
  # Bytes, decoded a line at a time: one that is not UTF-8 costs one row.
  with file.open('rb') as f:
    for line, item in enumerate(f, 1):
      # Blank lines are skipped, but counted: line numbers are those of an editor.
      if item.strip():
        yield line, item


def _json_row(item: bytes) -> dict[str, Any]:
  try:
    # Without the newline: the error would count its column from there.
    # utf-8-sig drops the byte order mark that Windows editors write.
    row = _DECODER.decode(item.decode('utf-8-sig').rstrip())
  except UnicodeDecodeError as e:
    raise Fault(f'not UTF-8: byte {e.start + 1} of the line is '
                f'0x{e.object[e.start]:02x}') from e
  except json.JSONDecodeError as e:
    hint = ('; the file must hold one object a line, not one array'
            if item.rstrip() == b'[' else '')
    raise Fault(f'broken JSON at column {e.colno}: {e.msg}{hint}') from e
  # Python limits the digits of an integer and the depth of nested brackets.
  except (ValueError, RecursionError) as e:
    raise Fault(f'unreadable JSON: {e}') from e
  if not isinstance(row, dict):
    raise Fault(f'{describe(row)}, not an object; a line must hold one')
  return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  fields = dict(pairs)
  # Python keeps the last of equal keys, other readers the first.
  if len(fields) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise Fault(f'the key {twice!r} stands twice in one object')
  return fields


# json.loads would make a decoder for each line.
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _parquet_items(file, wanted) -> Iterator[tuple[int, tuple]]:
  """Rows with the columns `wanted`, or with all if it is None."""
  import pyarrow  # here: it loads slowly, and JSON files do not need it
  from pyarrow import parquet
  with file.open('rb') as f:
    try:
      # Row groups are read one by one: the file may be larger than memory.
      table = parquet.ParquetFile(f)
      names = table.schema_arrow.names
      _check_distinct(file, names)
      read = [c for c in names if wanted is None or c in wanted]
      yield from _arrow_items(names, table.iter_batches(columns=read))
    except (pyarrow.ArrowException, OSError) as e:
      raise errors.InputError(f'{file}: broken Parquet: {e}') from e


def _hub_items(name, config, split, wanted) -> Iterator[tuple[int, tuple]]:
  """Rows of a data set of the hub; uses the network."""
  try:
    import datasets  # here: only a data set of the hub needs it
  except ImportError as e:
    raise errors.InputError(
        f'data.path={name!r} is no file. To read it as a data set of the Hugging'
        ' Face hub, install datasets: pip install datasets') from e
  try:
    found = datasets.load_dataset(name, config or None, split=split or 'train')
  # Network, cache, permissions, an unknown name or split: its own exceptions.
  except Exception as e:
    raise errors.InputError(
        f'data.path={name!r} is no file, and as a data set of the Hugging Face hub'
        f' it cannot be loaded: {" ".join(str(e).split())}; write'
        ' org/name:config:split') from e
  _check_distinct(name, found.column_names)
  if wanted is not None:
    found = found.select_columns([c for c in found.column_names if c in wanted])
  blocks = found.with_format('arrow').iter(batch_size=1000)
  yield from _arrow_items(
      found.column_names,
      # A block may have several chunks; `_arrow_row` needs one array per column.
      (part for block in blocks for part in block.combine_chunks().to_batches()))


def _check_distinct(file, names) -> None:
  # A dict of columns would keep only one of them.
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise errors.InputError(
        f'{file}: two columns have the name {twice[0]!r}; rename one')


def _arrow_items(names, batches) -> Iterator[tuple[int, tuple]]:
  line = 0
  for batch in batches:
    for index in range(batch.num_rows):
      line += 1
      yield line, (names, batch, index)


def _arrow_row(item: tuple) -> dict[str, Any]:
  columns, batch, index = item
  # Columns that are not read are None: errors list the names of all columns.
  row = dict.fromkeys(columns)
  for name, values in zip(batch.schema.names, batch.columns, strict=True):
    try:
      row[name] = _shortest(values[index].as_py(), values.type)
    except (ValueError, OverflowError) as e:  # not UTF-8, or a date after 9999
      raise Fault(f'{name!r} is unreadable: {e}') from e
  return row


def _shortest(value: Any, type_: Any) -> Any:
  """A float whose text is the shortest of its column's own width.

  The float32 nearest to 0.1 is 0.10000000149011612 as a Python float.
  """
  if not isinstance(value, float):
    return value
  width = {'float': np.float32, 'halffloat': np.float16}.get(
      str(getattr(type_, 'value_type', type_)))
  return float(str(width(value))) if width else value


_FORMATS = {
    '.jsonl': (_json_items, _json_row),
    '.json': (_json_items, _json_row),
    '.parquet': (_parquet_items, _arrow_row),
}
