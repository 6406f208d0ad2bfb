"""A scored corpus on disk: Parquet and JSON lines, in shards that are made once.

A shard is two files and a record of them that is published last, so that after
a kill it is there or not; one that was damaged since is made again. Once all are
there each response is ranked, which is the one step that sees the whole corpus:
it holds two numbers for each response.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import hashlib
import io
import json
from typing import Any

from absl import logging
import numpy as np
import pyarrow
from pyarrow import compute
from pyarrow import parquet

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.scoring import corpus_stats
from ddt_jax.scoring import forward
from ddt_jax.scoring import sources

# Of each token of a response, in lists.
TOKENS = ('ids', 'log_p', 'entropy', 'varentropy', 'phi', 'pit')
_DECIMALS = 4  # in JSON; Parquet has all of float32


class Shards:
  """The shards of one corpus, in a folder of its own."""

  def __init__(
      self, folder: Any, source: sources.Source, *, size: int,
      made_from: dict[str, Any], prefix: str = 'ddt_',
  ):
    """What there is and what there will be.

    Args:
      folder: where.
      source: of the rows.
      size: rows in a shard.
      made_from: what the scores follow from besides the rows; JSON-able.
      prefix: of the columns that are added.

    Raises:
      errors.InputError: the rows have such columns already.
    """
    self.folder = storage.path(folder)
    self.prefix = prefix
    self.source, self._size = source, size
    self._made_from = made_from | source.made_from | {'prefix': prefix}
    if taken := [name for name in source.types if name.startswith(prefix)]:
      raise errors.InputError(
          f'{source.name} has a column {taken[0]!r} already; choose another'
          ' --config.write.prefix'
      )

  def __len__(self) -> int:
    return -(-self.source.count // self._size)

  def make(
      self, dispatch: Callable[[list], forward.Pending], *, seed: int,
      after: Callable[[int], None] = lambda rows: None,
  ) -> None:
    """Scores what is not there yet, in all processes together.

    Args:
      dispatch: sets the device to work at examples, with tail; see
        `forward.dispatch`.
      seed: of the randomised PIT.
      after: called with the number of rows after each shard; may raise to end.
    """
    there = processes.from_first(
        lambda: [self._whole(k) for k in range(len(self))])
    first = next((k for k, whole in enumerate(there) if not whole), len(there))
    after(min(first * self._size, self.source.count))

    def under_way():
      blocks = self.source.blocks(self._size, first)
      for k in range(first, len(self)):
        rows = next(blocks)
        examples = [row.example for row in rows if row.example is not None]
        made = None if there[k] or not examples else dispatch(examples)
        yield k, rows, made

    for k, rows, pending in forward.one_behind(under_way()):
      if not there[k]:
        scored = pending and pending.collect()
        processes.from_first(
            functools.partial(self._write, k, rows, scored, seed))
      after(len(rows))

  def rank(self) -> None:
    """Adds to each response its rank by phi and whether the test rejects it."""
    if processes.from_first(
        lambda: all(self._record(k)['ranked'] for k in range(len(self)))
    ):
      return
    processes.from_first(self._rank)

  def columns(self, *names: str) -> dict[str, np.ndarray]:
    """Columns of scores, of the whole corpus."""
    tables = [t.select(self._named(names)) for t in self.tables(names)]
    whole = pyarrow.concat_tables(tables)
    return {name: whole[self.prefix + name].to_numpy() for name in names}

  def tables(
      self, scores: Sequence[str] | None = None, own: Sequence[str] = ()
  ) -> Iterator[pyarrow.Table]:
    """Shard after shard, with these columns or all."""
    for k in range(len(self)):
      names = None if scores is None else [*self._named(scores), *own]
      yield self._table(k, names)

  def examples(
      self, chosen: Sequence[int]
  ) -> list[tuple[dict[str, Any], chat.Example]]:
    """Own columns and tokens of some scored rows, by their places from 0."""
    found, start = {}, 0
    for k in range(len(self)):
      record = self._record(k)
      end = start + record['rows'] - len(record['skipped'])
      if here := [i for i in chosen if start <= i < end]:
        rows = self._table(k).take([i - start for i in here]).to_pylist()
        for i, row in zip(here, rows, strict=True):
          found[i] = row, chat.Example(
              np.array(row.pop(self.prefix + 'tokens'), np.int32),
              np.array(row.pop(self.prefix + 'supervised'), bool))
      start = end
    return [found[i] for i in chosen]

  def skipped(self) -> Iterator[tuple[int, str]]:
    """Line and reason of each row that could not be scored."""
    for k in range(len(self)):
      yield from map(tuple, self._record(k)['skipped'])

  def truncated(self) -> int:
    return sum(self._record(k)['truncated'] for k in range(len(self)))

  def _rank(self) -> None:
    found = self.columns('phi', 'pit_p_value')
    ranks = corpus_stats.ranks(found['phi'])
    rejected = corpus_stats.rejected(found['pit_p_value'])
    start = 0
    for k in range(len(self)):
      record, table = self._record(k), self._table(k)
      here = slice(start, start + len(table))
      start += len(table)
      if record['ranked']:
        continue
      added = {'rank': ranks[here], 'rejected': rejected[here]}
      # A kill may have come when one of the two files was ranked.
      if self.prefix + 'rank' not in table.column_names:
        for name, values in added.items():
          table = table.append_column(self.prefix + name, pyarrow.array(values))
      lines = self._file(k, 'jsonl').read_text().split('\n')[:-1]
      tails = _json_rows({self.prefix + n: v for n, v in added.items()})
      self._publish(k, table, [
          line if line.endswith(f', {tail[1:]}') else f'{line[:-1]}, {tail[1:]}'
          for line, tail in zip(lines, tails, strict=True)
      ], record | {'ranked': True})

  def _named(self, names: Sequence[str]) -> list[str]:
    return [self.prefix + name for name in names]

  def _file(self, k: int, kind: str):
    return self.folder / f'{k:05d}.{kind}'

  def _record(self, k: int) -> dict[str, Any]:
    return json.loads(self._file(k, 'json').read_text())

  def _table(self, k: int, names: list[str] | None = None) -> pyarrow.Table:
    with self._file(k, 'parquet').open('rb') as f:
      return parquet.read_table(f, columns=names)

  def _whole(self, k: int) -> bool:
    """Whether a shard need not be made.

    Raises:
      ValueError: it was made from something else; names the file.
    """
    file = self._file(k, 'json')
    if not file.exists():
      return False
    try:
      record = json.loads(file.read_text())
      made_from, digests = record['made_from'], record['digests']
    except (ValueError, KeyError):
      made_from = digests = None
    if made_from and made_from != self._made_from:
      raise ValueError(
          f'{file} was made from {made_from}, not from {self._made_from};'
          ' choose another --workdir, or delete the folder'
      )
    for kind in ('parquet', 'jsonl'):
      part = self._file(k, kind)
      known = digests and part.exists() and _digest(part.read_bytes())
      if not known or known not in digests[kind]:
        logging.warning('%s is damaged and is made again.', part)
        return False
    return True

  def _write(self, k, rows, scored, seed) -> None:
    """Publishes a shard of these rows; `scored` is what the device found."""
    kept = [row for row in rows if row.example is not None]
    lengths, stats = scored or (np.zeros(0, np.int64), _no_stats())
    uniform = np.random.default_rng([seed, k]).random(len(stats.log_p))
    pit = ddt.randomised_pit(stats, uniform.astype(np.float32))
    tokens = {
        'ids': np.concatenate([
            np.zeros(0, np.int32),
            *(row.example.tokens[1:][row.example.supervised[1:]] for row in kept)
        ]),
        **{name: getattr(stats, name) for name in TOKENS[1:-1]}, 'pit': pit,
    }
    bad = ~np.isfinite(tokens['phi'] + stats.varentropy + pit)
    if bad.any():
      row = kept[int(np.searchsorted(np.cumsum(lengths), bad.argmax(), 'right'))]
      raise FloatingPointError(
          f'{self.source.name}:{row.line}: the model gives this text no finite'
          ' probability; are its weights whole, and is model.dtype wide enough?')
    scores = {
        'line': np.array([row.line for row in kept], np.int64),
        'truncated': np.array([row.truncated for row in kept], bool),
    } | corpus_stats.per_response(stats, lengths, pit)
    own = {
        name: census.to_arrow([row.columns.get(name) for row in kept], type_)
        for name, type_ in self.source.types.items()
    }
    table = pyarrow.table(own | {
        self.prefix + name: pyarrow.array(x) for name, x in scores.items()
    } | {
        f'{self.prefix}token_{name}': _lists(x, lengths)
        for name, x in tokens.items()
    } | {
        self.prefix + name: _lists(
            np.concatenate([getattr(row.example, name) for row in kept] or [[]]),
            [len(row.example.tokens) for row in kept])
        for name in ('tokens', 'supervised')
    })
    lines = [
        f'{json.dumps(row.columns, default=str)[:-1]}, {mine[1:-1]}, {listed[1:]}'
        for row, mine, listed in zip(
            kept, _json_rows({self.prefix + n: x for n, x in scores.items()}),
            self._json_lists(tokens, lengths), strict=True)
    ]
    self._publish(k, table, lines, {
        'made_from': self._made_from, 'rows': len(rows), 'ranked': False,
        'truncated': sum(row.truncated for row in kept),
        'skipped': [[row.line, row.fault] for row in rows if row.fault],
        'digests': {'parquet': [], 'jsonl': []},
    })

  def _json_lists(self, tokens, lengths) -> list[str]:
    """Of each response its tokens' numbers as a JSON object."""
    columns = []
    for name, values in tokens.items():
      if values.dtype != np.int32:
        values = np.round(values, _DECIMALS) + np.float32(0)  # -0 becomes 0
      text = compute.cast(pyarrow.array(values), pyarrow.string())
      lists = compute.binary_join(_lists(text, lengths), ', ').to_pylist()
      columns.append([f'"{self.prefix}token_{name}": [{x}]' for x in lists])
    return [f'{{{", ".join(row)}}}' for row in zip(*columns, strict=True)]

  def _publish(self, k, table, lines, record) -> None:
    """Both files, and the record before and after.

    A kill between the files leaves each whole, old or new: both are known to the
    record by then.
    """
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression='zstd')
    new = {
        'parquet': buffer.getvalue(),
        'jsonl': ''.join(line + '\n' for line in lines).encode(),
    }
    file = self._file(k, 'json')
    if file.exists() and record['digests']['parquet']:
      both = {kind: [*record['digests'][kind], _digest(new[kind])] for kind in new}
      old = record | {'digests': both, 'ranked': False}
      storage.publish(file, json.dumps(old))
    for kind, content in new.items():
      storage.publish(self._file(k, kind), content)
    digests = {kind: [_digest(content)] for kind, content in new.items()}
    storage.publish(file, json.dumps(record | {'digests': digests}))


def _lists(values, lengths) -> pyarrow.ListArray:
  offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
  return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(values))


def _json_rows(columns: dict[str, np.ndarray]) -> list[str]:
  names = list(columns)
  rows = zip(*(x.tolist() for x in columns.values()), strict=True)
  return [json.dumps(dict(zip(names, row, strict=True))) for row in rows]


def _no_stats() -> ddt.TokenStats:
  return ddt.TokenStats(*[np.zeros(0, np.float32)] * 6)


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
