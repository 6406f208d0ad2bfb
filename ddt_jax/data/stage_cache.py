"""A stage's output in files, written once and checked when read.

A stage maps a list of items to records, a block of items at a time. Each block's
records are one file of JSON lines:

  line 1    SHA-256 of everything below it
  line 2    {"made_from": ..., "seconds": ...}
  line 3... one record a line

A file is published whole, so a killed run leaves complete files only, and the
next run computes the missing ones. A damaged file is reported and computed again.
A file that was made from other settings is an error.

`digest`, `check_made_from` and `is_intact` serve every cache of this kind.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import hashlib
import json
import os
import time
from typing import Any, TypeVar

from absl import logging

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import records

Record = TypeVar('Record', records.Problem, records.Response)
MANIFEST = 'MANIFEST.json'  # written once the stage is complete


def digest(data: bytes) -> str:
  """SHA-256 of `data` in hexadecimal."""
  return hashlib.sha256(data).hexdigest()


def check_made_from(
    file: str | os.PathLike[str], found: Any, expected: Any
) -> None:
  """Refuses a cached file that was made from other settings than this run's.

  Args:
    file: named in the message.
    found: the `made_from` that is recorded for the file.
    expected: the `made_from` of this run.

  Raises:
    errors.InputError: they differ.
  """
  if found != expected:
    raise errors.InputError(
        f'{file} was made from {found}, not from {expected};'
        ' choose another --workdir, or delete the folder'
    )


def is_intact(
    file: str | os.PathLike[str], content: bytes | None, digests: Collection[str]
) -> bool:
  """Whether a cached file holds what was written; logs a warning if not.

  Args:
    file: named in the warning.
    content: what it holds now; None if it is missing.
    digests: SHA-256 of every content that would be right. Two of them while a
      file is being replaced: a kill may leave either.
  """
  if content is not None and digest(content) in digests:
    return True
  logging.warning('%s is damaged and will be written again.', file)
  return False


def finished(
    folder: str | os.PathLike[str], cls: type[Record]
) -> list[Record]:
  """All records of a finished stage, for whoever did not make them.

  Args:
    folder: of the stage.
    cls: type of the records.

  Raises:
    errors.InputError: the stage is not finished, or a file of it is damaged.
  """
  folder = storage.path(folder)
  manifest = folder / MANIFEST
  if not manifest.exists():
    raise errors.InputError(f'{manifest} is missing: the stage is not finished')
  fields, found = json.loads(manifest.read_text()), []
  cache = StageCache(folder, fields['made_from'], complete=True)
  for index in range(len(fields['records'])):
    found += cache.block(index, lambda: (), cls)[0]
  return found


class StageCache:
  """The cached files of one stage, in a folder of its own."""

  def __init__(
      self, folder: str | os.PathLike[str], made_from: dict[str, Any], *,
      complete: bool = False,
  ):
    """Opens the cache; touches no file yet.

    Args:
      folder: of this stage alone.
      made_from: everything the output depends on (config, seed, step of the
        parameters, ...); JSON-able. Recorded in each file and compared on
        reading.
      complete: every file must be there: what they were made from is gone.
    """
    self._folder = storage.path(folder)
    self._made_from, self._complete = made_from, complete

  def map(
      self,
      make: Callable[[int, Sequence[Any]], Sequence[Record]],
      items: Sequence[Any],
      cls: type[Record],
      *,
      size: int,
  ) -> Iterator[tuple[list[Record], float]]:
    """Applies `make` to each block of items, or reads its cached output.

    Records are always parsed from the file, also just after it was written, so
    that a resumed run sees exactly what the first run saw.

    Args:
      make: (index of the block's first item, the block's items) -> records. Must
        be deterministic.
      items: input of the stage.
      cls: type of the records.
      size: items in a block.

    Yields:
      (records of the block, seconds that `make` took when it ran).

    Raises:
      errors.InputError: a file was made from other settings, or is missing
        from a complete cache; names the file.
    """
    counts, total = [], 0.0
    for first in range(0, len(items), size):
      block, seconds = self.block(
          first // size,
          lambda first=first: make(first, items[first: first + size]), cls)
      counts.append(len(block))
      total += seconds
      yield block, seconds
    # Last: a manifest says that every block is there.
    manifest = json.dumps({
        'made_from': self._made_from, 'items': len(items), 'records': counts,
        'seconds': total,
    }, indent=2) + '\n'
    processes.from_first(storage.publish, self._folder / MANIFEST, manifest)

  def block(
      self, index: int, make: Callable[[], Sequence[Record]], cls: type[Record], *,
      complete: bool = False,
  ) -> tuple[list[Record], float]:
    """One block by itself: its records, and the seconds that `make` took.

    Args:
      index: names its file.
      make, cls: see `map`.
      complete: this file must be there, see `StageCache`.

    Raises:
      errors.InputError: see `map`.
    """
    file = self._folder / f'{index:05d}.jsonl'
    # Process 0 reads and the others get its text. So all take the same branch:
    # `make` needs every process.
    text = processes.from_first(self._read, file)
    if text is None and (complete or self._complete):
      raise errors.InputError(
          f'{file} is missing or damaged, and the parameters that it was made'
          ' with are gone; restore it, or choose another --workdir')
    if text is None:
      began = time.monotonic()
      made = make()
      seconds = time.monotonic() - began
      text = processes.from_first(self._write, file, made, seconds)
    # Not splitlines(): it also splits at U+2028, which JSON strings may hold.
    head, *lines = text.split('\n')[:-1]
    return ([records.from_json(line, cls) for line in lines],
            json.loads(head)['seconds'])

  def _write(self, file, made, seconds) -> str:
    """Publishes a block's file; returns its text below the digest."""
    head = {'made_from': self._made_from, 'seconds': seconds}
    body = ''.join(
        line + '\n' for line in (json.dumps(head), *map(records.to_json, made))
    )
    storage.publish(file, f'{digest(body.encode())}\n{body}')
    return body

  def _read(self, file) -> str | None:
    """The text below the digest; None if the block has to be computed."""
    if not file.exists():
      return None
    recorded, _, body = file.read_bytes().partition(b'\n')
    # errors='replace': a damaged digest may be no text at all.
    if not is_intact(file, body, {recorded.decode(errors='replace')}):
      return None
    text = body.decode()
    found = json.loads(text.partition('\n')[0])['made_from']
    check_made_from(file, found, self._made_from)
    return text
