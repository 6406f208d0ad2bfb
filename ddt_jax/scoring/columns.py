"""Scored rows as Arrow tables and as JSON lines.

Both hold the row's own columns, then its scores, then lists over its tokens.
Names of what is added start with a prefix.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute

from ddt_jax.data import census
from ddt_jax.scoring import sources

# Lists over the tokens of a response.
TOKENS = ('ids', 'log_p', 'entropy', 'varentropy', 'phi', 'pit')
_DECIMALS = 4  # in JSON; Parquet has all of float32


def arrow_table(
    rows: Sequence[sources.Row], types: Mapping[str, Any],
    scores: Mapping[str, np.ndarray], tokens: Mapping[str, np.ndarray],
    lengths: Sequence[int], prefix: str,
) -> pyarrow.Table:
  """The rows as a table; also has the token ids of the whole conversation.

  Args:
    rows: with examples.
    types: of the rows' own columns.
    scores: name -> [rows].
    tokens: name -> [sum of lengths], over the tokens of the responses.
    lengths: [rows], tokens of each response.
    prefix: of the added names.
  """
  own = {
      name: census.to_arrow([row.columns.get(name) for row in rows], type_)
      for name, type_ in types.items()
  }
  added = {name: pyarrow.array(x) for name, x in scores.items()}
  added |= {f'token_{name}': _lists(x, lengths) for name, x in tokens.items()}
  # The whole conversation: `ScoredCorpus.examples` needs no tokenizer to score it
  # again.
  for name in ('tokens', 'supervised'):
    parts = [getattr(row.example, name) for row in rows]
    added[name] = _lists(
        np.concatenate(parts or [[]]), [len(part) for part in parts])
  return pyarrow.table(
      own | {prefix + name: x for name, x in added.items()})


def json_lines(
    rows: Sequence[sources.Row], scores: Mapping[str, np.ndarray],
    tokens: Mapping[str, np.ndarray], lengths: Sequence[int], prefix: str,
) -> list[str]:
  """The rows as JSON objects; arguments as of `arrow_table`."""
  parts = zip(
      rows, json_objects({prefix + name: x for name, x in scores.items()}),
      _token_objects(tokens, lengths, prefix), strict=True)
  return [
      joined(json.dumps(row.columns, default=str), *others)
      for row, *others in parts
  ]


def json_objects(columns: Mapping[str, np.ndarray]) -> list[str]:
  """One JSON object for each row of some columns."""
  rows = zip(*(x.tolist() for x in columns.values()), strict=True)
  return [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]


def joined(*objects: str) -> str:
  """JSON objects, given as text, as one object.

  Parsing the lists over tokens to add a field would take longer than writing
  them.

  Example:
    >>> joined('{"a": 1}', '{}', '{"b": [2, 3]}')
    '{"a": 1, "b": [2, 3]}'
  """
  inner = (text[1:-1] for text in objects)
  return f'{{{", ".join(text for text in inner if text)}}}'


def _token_objects(tokens, lengths, prefix) -> list[str]:
  """For each response a JSON object of the lists over its tokens."""
  columns = []
  for name, values in tokens.items():
    # Token ids are int32; all others are float32.
    if values.dtype != np.int32:
      values = np.round(values, _DECIMALS) + np.float32(0)  # -0 becomes 0
    # Arrow formats millions of numbers some ten times as fast as `json`.
    text = compute.cast(pyarrow.array(values), pyarrow.string())
    lists = compute.binary_join(_lists(text, lengths), ', ').to_pylist()
    columns.append([f'{{"{prefix}token_{name}": [{x}]}}' for x in lists])
  return [joined(*row) for row in zip(*columns, strict=True)]


def _lists(values, lengths) -> pyarrow.ListArray:
  # int32 offsets are what Arrow's ListArray has; a part of a corpus stays below
  # 2^31 tokens.
  offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
  return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(values))
