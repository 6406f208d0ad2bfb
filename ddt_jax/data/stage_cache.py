"""A stage's output in shards: whole, checked and never made twice.

A shard is a file of JSON lines. Its first line is the digest of the rest, its
second says what it was made from. It is published at once, so that after a kill
it is there or not; one that was damaged since is named and made again. What is
passed on is always what the file says.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import hashlib
import json
import time
from typing import Any, TypeVar

from absl import logging

from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import records

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
      text = processes.from_first(functools.partial(self._read, file))
      if text is None:
        began = time.monotonic()
        made = make(first, items[first: first + size])
        seconds = time.monotonic() - began
        write = functools.partial(self._write, file, made, seconds)
        text = processes.from_first(write)
      # Not splitlines(): JSON strings may hold what it takes for an end.
      head, *lines = text.split('\n')[:-1]
      seconds = json.loads(head)['seconds']
      counts.append(len(lines))
      total += seconds
      yield [records.from_json(line, cls) for line in lines], seconds
    manifest = json.dumps({
        'made_from': self._made_from, 'items': len(items), 'records': counts,
        'seconds': total,
    }, indent=2) + '\n'
    processes.from_first(
        lambda: storage.publish(self._folder / MANIFEST, manifest))

  def _write(self, file, found, seconds) -> str:
    """Publishes a shard; returns what is under its digest."""
    head = {'made_from': self._made_from, 'seconds': seconds}
    rest = ''.join(
        line + '\n' for line in (json.dumps(head), *map(records.to_json, found))
    )
    storage.publish(file, f'{_digest(rest.encode())}\n{rest}')
    return rest

  def _read(self, file) -> str | None:
    """What is under the digest of a shard; None if it has to be made."""
    if not file.exists():
      return None
    digest, _, rest = file.read_bytes().partition(b'\n')
    if digest != _digest(rest).encode():
      logging.warning('%s is damaged and is made again.', file)
      return None
    rest = rest.decode()
    made_from = json.loads(rest.partition('\n')[0])['made_from']
    if made_from != self._made_from:
      raise ValueError(
          f'{file} was made from {made_from}, not from {self._made_from};'
          ' choose another --workdir, or delete the folder'
      )
    return rest


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
