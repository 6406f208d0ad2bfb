"""A stage's output in shards: whole, checked and never made twice.

A shard is a file of JSON lines. Its first line is the digest of the rest, its
second says what it was made from. It is published at once, so that after a kill
it is there or not; one that was damaged since is named and made again.
"""

from collections.abc import Callable, Iterator, Sequence
import hashlib
import json
import time
from typing import Any, TypeVar

from absl import logging

from ddt_jax import records
from ddt_jax import storage

Record = TypeVar('Record', records.Problem, records.Response)
MANIFEST = 'MANIFEST.json'


class Shards:
  """The shards of one stage, in a folder of its own."""

  def __init__(self, folder: Any, made_from: dict[str, Any]):
    """Args: the folder, and what the content follows from (config, seed, ...)."""
    self._folder = storage.path(folder)
    self._made_from = made_from

  def map(
      self,
      make: Callable[[int, Sequence[Any]], Sequence[Record]],
      items: Sequence[Any],
      cls: type[Record],
      *,
      size: int,
  ) -> Iterator[tuple[list[Record], float]]:
    """Each shard's records, read where they stand and made where they do not.

    Args:
      make: (index of the first item, items) -> records; deterministic.
      items: the stage's input, cut into shards of `size`.
      cls: of the records.

    Yields:
      (records, seconds that making them took).

    Raises:
      ValueError: a shard was made from something else; names the file.
    """
    counts, total = [], 0.0
    for first in range(0, len(items), size):
      file = self._folder / f'{first // size:05d}.jsonl'
      found = self._read(file, cls)
      if found is None:
        began = time.monotonic()
        made = list(make(first, items[first: first + size]))
        found = made, time.monotonic() - began
        self._write(file, *found)
      counts.append(len(found[0]))
      total += found[1]
      yield found
    storage.publish(self._folder / MANIFEST, json.dumps({
        'made_from': self._made_from, 'items': len(items), 'records': counts,
        'seconds': total,
    }, indent=2) + '\n')

  def _write(self, file, found, seconds) -> None:
    head = {'made_from': self._made_from, 'seconds': seconds}
    rest = ''.join(
        line + '\n' for line in (json.dumps(head), *map(records.to_json, found))
    )
    storage.publish(file, f'{_digest(rest.encode())}\n{rest}')

  def _read(self, file, cls) -> tuple[list[Any], float] | None:
    if not file.exists():
      return None
    digest, _, rest = file.read_bytes().partition(b'\n')
    if digest != _digest(rest).encode():
      logging.warning('%s is damaged and is made again.', file)
      return None
    # Not splitlines(): JSON strings may hold what it takes for an end.
    head, *lines = rest.decode().split('\n')[:-1]
    head = json.loads(head)
    if head['made_from'] != self._made_from:
      raise ValueError(
          f'{file} was made from {head["made_from"]}, not from {self._made_from};'
          ' choose another --workdir, or delete the folder'
      )
    return [records.from_json(line, cls) for line in lines], head['seconds']


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
