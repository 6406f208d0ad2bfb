"""Rows in the files that other trainers read."""

from collections.abc import Iterable
import io
import json
import os
from typing import Any

import pyarrow
from pyarrow import parquet

from ddt_jax import storage


def write(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
  """Writes rows as Parquet if the name ends so, else as JSON lines.

  If interrupted, the old file stays as it was.

  Args:
    path: local or gs://.
    rows: JSON-able, all with the same fields.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   write(f'{folder}/x.parquet', [{'id': 'a', 'phi': 0.5}])
    ...   parquet.read_table(f'{folder}/x.parquet').to_pylist()
    [{'id': 'a', 'phi': 0.5}]
  """
  if storage.path(path).suffix.lower() != '.parquet':
    storage.publish(path, ''.join(json.dumps(row) + '\n' for row in rows))
    return
  buffer = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
  storage.publish(path, buffer.getvalue())
