"""Seals: the digests of a finished folder, which reveal damage and removal.

A local file's digest is its SHA-256. An object's is the checksum that its store
keeps, so that a checkpoint of 84 GB on gs:// is not read back: `crc32c:` and the
store's own text. A folder may be copied between the two: the file is then read, and
the kind of digest follows the seal.
"""

import base64
from collections.abc import Iterator, Mapping
import hashlib
import json
import os

from etils import epath

from ddt_jax.storage import files
from ddt_jax.storage import locks
from ddt_jax.storage import object_store

SEAL = 'DIGESTS.json'
_CRC = 'crc32c:'
_BLOCK = 1 << 24  # bytes


class Damaged(ValueError):
  """The content of a folder differs from its seal."""


def digests(
    folder: str | os.PathLike[str], like: Mapping[str, str] | None = None
) -> dict[str, str]:
  """Returns the digest of every file under a folder, sorted by relative name.

  The folder's own seal and lock are left out, and so are the temporary files of
  a `publish` that was killed.

  Args:
    folder: local or gs://.
    like: digests by name whose kind is taken; by default the cheapest kind.

  Raises:
    FileNotFoundError: there is no such local folder.
  """
  folder = files.path(folder)
  store = object_store.client(folder)
  known = _store_checksums(store, folder) if store else {}
  result = {}
  for name in sorted(_names(store, folder)):
    wanted = (like or known).get(name, '')
    if wanted.startswith(_CRC) and name in known:
      result[name] = known[name]
      continue
    read = _crc32c if wanted.startswith(_CRC) else _sha256
    file = os.fspath(folder / name)
    with store.open(file, 'rb') if store else open(file, 'rb') as f:
      result[name] = read(f)
  return result


def _sha256(f) -> str:
  # Read in blocks: files of a checkpoint may exceed the memory.
  return hashlib.file_digest(f, 'sha256').hexdigest()


def _crc32c(f) -> str:
  """The checksum in the store's own words, of a copy elsewhere."""
  import google_crc32c  # of gcsfs, without which no such seal is written
  found = google_crc32c.Checksum()
  while block := f.read(_BLOCK):
    found.update(block)
  return _CRC + base64.b64encode(found.digest()).decode()


def _store_checksums(store, folder: epath.Path) -> dict[str, str]:
  """Checksums that the store keeps, by relative name; {} where it keeps none."""
  root = object_store.key(folder) + '/'
  return {
      name.removeprefix(root): _CRC + info['crc32c']
      for name, info in store.find(os.fspath(folder), detail=True).items()
      if info.get('crc32c')}


def seal(folder: str | os.PathLike[str]) -> None:
  """Writes the digests of a finished folder into it, as `DIGESTS.json`."""
  folder = files.path(folder)
  files.publish(folder / SEAL, json.dumps(digests(folder), indent=2) + '\n')


def check_seal(folder: str | os.PathLike[str]) -> None:
  """Compares a folder with its seal. Reads every file of a local one.

  Raises:
    Damaged: the seal is missing or unreadable, or a file was changed, removed
      or added since. The message names the first such file and the remedy.
  """
  folder = files.path(folder)
  advice = 'Delete the folder and make it again, or restore it from a copy.'
  try:
    sealed = json.loads((folder / SEAL).read_bytes())
  except FileNotFoundError:
    raise Damaged(f'{folder} has no {SEAL}: it was not finished. {advice}'
                  ) from None
  except ValueError:
    sealed = None
  if not isinstance(sealed, dict):
    raise Damaged(f'{folder / SEAL} is unreadable. {advice}')
  current = digests(folder, sealed)
  # Both sides, because an added file is damage too.
  for name in sorted(sealed | current):
    if sealed.get(name) != current.get(name):
      what = ('is missing' if name not in current else 'was added'
              if name not in sealed else 'has changed')
      raise Damaged(f'{folder / name} {what} since it was sealed. {advice}')


def _names(store, folder: epath.Path) -> Iterator[str]:
  """Relative names of the files that count as the folder's content."""
  if store:
    root = object_store.key(folder) + '/'
    names = [name.removeprefix(root) for name in store.find(os.fspath(folder))]
  else:
    # os.walk ignores a missing folder unless it is given `onerror`.
    names = [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder, onerror=_raise)
        for name in names
    ]
  for name in names:
    base = os.path.basename(name)
    temporary = base.startswith('.') and base.endswith('.tmp')
    if not temporary and name.split('/')[0] not in (SEAL, locks.LOCK):
      yield name


def _raise(error: OSError) -> None:
  raise error
