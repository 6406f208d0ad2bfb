"""A scored corpus on disk: Parquet and JSON lines, in parts of some rows each.

Part k is k.parquet and k.jsonl with the same rows, and k.json, the record of
both. The record is published last, so after a kill a part is complete or
missing, and the next run computes the missing ones. A damaged part is computed
again.

Once all parts exist, each response is ranked among all. That step holds two
numbers for each response in memory; everything else holds one part.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import io
import json
import os
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow import parquet

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import significance
from ddt_jax import storage
from ddt_jax.data import chat
from ddt_jax.data import stage_cache
from ddt_jax.scoring import columns
from ddt_jax.scoring import forward
from ddt_jax.scoring import response_scores
from ddt_jax.scoring import sources
from ddt_jax.storage import typed_json


class Skipped(NamedTuple):
  """A row that could not be scored: its line, from 1, and the reason."""

  line: int
  reason: str


@dataclasses.dataclass(frozen=True)
class Record:
  """Content of k.json.

  Attributes:
    made_from: everything the scores depend on.
    rows: rows, skipped ones included; those of a split conversation each count.
    split: conversations that are split by turns.
    truncated: rows that were cut to the longest allowed.
    skipped: rows that could not be scored.
    ranked: whether the files have the columns `rank` and `rejected`.
    digests: 'parquet' and 'jsonl' -> SHA-256 of the file; two of them while a
      ranked file replaces the first.
  """

  made_from: dict[str, Any]
  rows: int
  split: int
  truncated: int
  skipped: tuple[Skipped, ...]
  ranked: bool
  digests: dict[str, tuple[str, ...]]


class ScoredCorpus:
  """The rows of one source with their scores, in a folder of its own."""

  def __init__(
      self, folder: str | os.PathLike[str], source: sources.Source, *, size: int,
      made_from: Mapping[str, Any], prefix: str = 'ddt_',
  ):
    """Opens the folder; touches no file yet.

    Args:
      folder: of this corpus alone.
      source: of the rows.
      size: rows in a part.
      made_from: everything the scores depend on besides the rows; JSON-able.
      prefix: of the added columns.

    Raises:
      errors.InputError: a column of the rows starts with the prefix.
    """
    self.folder = storage.path(folder)
    self.prefix = prefix
    self.source, self._size = source, size
    self._made_from = {**made_from, **source.made_from, 'prefix': prefix}
    if taken := [name for name in source.types if name.startswith(prefix)]:
      raise errors.InputError(
          f'{source.name} has a column {taken[0]!r} already; choose another'
          ' --config.write.prefix'
      )

  def __len__(self) -> int:
    """Number of parts."""
    return -(-self.source.count // self._size)

  # Writing ---------------------------------------------------------------------

  def score(
      self, dispatch: Callable[[list[chat.Example]], forward.Pending], *,
      seed: int, after: Callable[[int], None] = lambda rows: None,
      after_batch: Callable[[], None] = lambda: None,
  ) -> None:
    """Scores the missing parts, in all processes together, and ranks all.

    Args:
      dispatch: starts scoring examples, with `tail`; see `forward.dispatch`.
      seed: of the randomised PIT.
      after: called with the number of lines after each part; may raise to end.
      after_batch: called after each batch of a part; may raise to end, which
        costs the part.
    """
    complete = processes.from_first(
        lambda: [self._is_complete(k) for k in range(len(self))])
    missing = [k for k, done in enumerate(complete) if not done]
    # Rows before the first missing part are not even read.
    first = missing[0] if missing else len(self)
    after(min(first * self._size, self.source.count))

    def started():
      blocks = self.source.blocks(self._size, first)
      for k in range(first, len(self)):
        # Complete parts in between are read, too: blocks come in order.
        rows = next(blocks)
        examples = [row.example for row in rows if row.example is not None]
        pending = None
        if examples and not complete[k]:
          pending = dispatch(examples)
        yield k, rows, pending

    for k, rows, pending in forward.one_late(started()):
      if not complete[k]:
        scored = pending and pending.collect(after_batch)
        processes.from_first(self._write, k, rows, scored, seed)
      after(len({row.line for row in rows}))
    if not processes.from_first(self._is_ranked):
      processes.from_first(self._rank)

  def _write(self, k: int, rows: Sequence[sources.Row], scored, seed: int) -> None:
    """Publishes a part; `scored` is (lengths, stats), None without examples."""
    kept = [row for row in rows if row.example is not None]
    lengths, stats = scored or (np.zeros(0, np.int64), _no_stats())
    # The part's number is in the seed: a resumed run draws the same numbers.
    uniform = np.random.default_rng([seed, k]).random(len(stats.log_p))
    pit = ddt.randomised_pit(stats, uniform.astype(np.float32))
    # NaN in any one of them makes the sum NaN.
    self._check_finite(kept, lengths, stats.phi + stats.varentropy + pit)
    # Without the first token: it is no target and has no statistics.
    ids = [row.example.tokens[1:][row.example.supervised[1:]] for row in kept]
    tokens = {
        'ids': np.concatenate([np.zeros(0, np.int32), *ids]),
        **{name: getattr(stats, name) for name in columns.TOKENS[1:-1]},
        'pit': pit,
    }
    scores = {
        'line': np.array([row.line for row in kept], np.int64),
        'turn': np.array([row.turn for row in kept], np.int64),
        'truncated': np.array([row.truncated for row in kept], bool),
    } | response_scores.per_response(stats, lengths, pit)
    table = columns.arrow_table(
        kept, self.source.types, scores, tokens, lengths, self.prefix)
    lines = columns.json_lines(kept, scores, tokens, lengths, self.prefix)
    self._publish(k, table, lines, Record(
        made_from=self._made_from, rows=len(rows), ranked=False,
        split=sum(n > 1 for n in collections.Counter(
            row.line for row in rows).values()),
        truncated=sum(row.truncated for row in kept),
        skipped=tuple(Skipped(row.line, row.fault) for row in rows if row.fault),
        digests={'parquet': (), 'jsonl': ()},
    ))

  def _check_finite(self, rows, lengths, values) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
      row = rows[int(np.searchsorted(np.cumsum(lengths), bad.argmax(), 'right'))]
      raise errors.InputError(
          f'{self.source.name}:{row.line}: the model gives this text no finite'
          ' probability; are its weights complete, and is --config.model.dtype'
          ' wide enough?')

  def _is_ranked(self) -> bool:
    return all(self._record(k).ranked for k in range(len(self)))

  def _rank(self) -> None:
    """Adds to each response its rank by phi and whether the test rejects it."""
    found = self.columns('phi', 'pit_p_value')
    # Both need the whole corpus, hence a second pass over the files.
    ranks = significance.ordinal_ranks(found['phi'])
    rejected = significance.false_discoveries(found['pit_p_value'])
    start = 0
    for k in range(len(self)):
      record, table = self._record(k), self._table(k)
      here = slice(start, start + len(table))
      start += len(table)
      if record.ranked:
        continue
      added = {
          self.prefix + 'rank': ranks[here],
          self.prefix + 'rejected': rejected[here]}
      content = self._file(k, 'jsonl').read_bytes()
      lines = content.decode().split('\n')[:-1]
      # A kill may have come between the two files, so that one is ranked.
      if self.prefix + 'rank' not in table.column_names:
        for name, values in added.items():
          table = table.append_column(name, pyarrow.array(values))
      if stage_cache.digest(content) == record.digests['jsonl'][0]:
        lines = [
            columns.joined(line, new) for line, new in zip(
                lines, columns.json_objects(added), strict=True)]
      self._publish(k, table, lines, dataclasses.replace(record, ranked=True))

  def _publish(
      self, k: int, table: pyarrow.Table, lines: Sequence[str], record: Record
  ) -> None:
    """Publishes both files, then their record.

    Where they replace older files, the record first gets the digests of both
    versions: after a kill between the files each of them is still known.
    """
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression='zstd')
    contents = {
        'parquet': buffer.getvalue(),
        'jsonl': ''.join(line + '\n' for line in lines).encode(),
    }
    new = {kind: (stage_cache.digest(x),) for kind, x in contents.items()}
    file = self._file(k, 'json')
    if file.exists() and record.digests['parquet']:
      both = {kind: record.digests[kind][:1] + new[kind] for kind in new}
      storage.publish(file, typed_json.to_json(
          dataclasses.replace(record, digests=both, ranked=False)))
    for kind, content in contents.items():
      storage.publish(self._file(k, kind), content)
    storage.publish(
        file, typed_json.to_json(dataclasses.replace(record, digests=new)))

  def _is_complete(self, k: int) -> bool:
    """Whether a part need not be computed.

    Raises:
      errors.InputError: it was made from other settings; names the file.
    """
    file = self._file(k, 'json')
    if not file.exists():
      return False
    try:
      record = self._record(k)
    except errors.InputError:
      return stage_cache.is_intact(file, None, ())  # False, with its warning
    stage_cache.check_made_from(file, record.made_from, self._made_from)
    parts = {kind: self._file(k, kind) for kind in record.digests}
    return all(
        stage_cache.is_intact(
            part, part.read_bytes() if part.exists() else None,
            record.digests[kind])
        for kind, part in parts.items())

  # Reading ---------------------------------------------------------------------

  def columns(self, *names: str) -> dict[str, np.ndarray]:
    """Columns of scores, each over the whole corpus; names without prefix."""
    parts = [t.select(self._named(names)) for t in self.tables(names)]
    whole = pyarrow.concat_tables(parts)
    return {name: whole[self.prefix + name].to_numpy() for name in names}

  def tables(
      self, scores: Sequence[str] | None = None, own: Sequence[str] = ()
  ) -> Iterator[pyarrow.Table]:
    """Yields one table a part.

    Args:
      scores: names without prefix; None for all columns.
      own: names of the rows' own columns.
    """
    for k in range(len(self)):
      names = None if scores is None else [*self._named(scores), *own]
      yield self._table(k, names)

  def rows(self) -> Iterator[dict[str, Any]]:
    """Yields the scored rows as written to the JSON lines, all columns."""
    for k in range(len(self)):
      with self._file(k, 'jsonl').open() as f:
        yield from map(json.loads, f)

  def examples(
      self, chosen: Sequence[int]
  ) -> list[tuple[dict[str, Any], chat.Example]]:
    """Columns and tokens of some scored rows, given by their indices from 0."""
    found, start = {}, 0
    for k in range(len(self)):
      record = self._record(k)
      end = start + record.rows - len(record.skipped)
      if here := [i for i in chosen if start <= i < end]:
        rows = self._table(k).take([i - start for i in here]).to_pylist()
        for i, row in zip(here, rows, strict=True):
          found[i] = row, chat.Example(
              np.array(row.pop(self.prefix + 'tokens'), np.int32),
              np.array(row.pop(self.prefix + 'supervised'), bool))
      start = end
    return [found[i] for i in chosen]

  def skipped(self) -> Iterator[Skipped]:
    """Yields the rows that could not be scored."""
    for k in range(len(self)):
      yield from self._record(k).skipped

  def truncated(self) -> int:
    """Number of rows that were cut to the longest allowed."""
    return sum(self._record(k).truncated for k in range(len(self)))

  def split(self) -> int:
    """Number of conversations that were split by turns."""
    return sum(self._record(k).split for k in range(len(self)))

  def _named(self, names: Sequence[str]) -> list[str]:
    return [self.prefix + name for name in names]

  def _file(self, k: int, kind: str):
    return self.folder / f'{k:05d}.{kind}'

  def _record(self, k: int) -> Record:
    file = self._file(k, 'json')
    return typed_json.from_json(file.read_text(), Record, source=file)

  def _table(self, k: int, names: list[str] | None = None) -> pyarrow.Table:
    with self._file(k, 'parquet').open('rb') as f:
      return parquet.read_table(f, columns=names)


def _no_stats() -> ddt.TokenStats:
  return ddt.TokenStats(*[np.zeros(0, np.float32)] * 6)
