"""The one place that touches files: local folders and gs://, the same calls.

What a run leaves on disk must survive a kill, a full disk and a second process
that was started by mistake:

  publish, append, read_lines   content is whole, or it is not there
  seal, check_seal              a finished folder is told from a damaged one
  lock                          a run's folder has one owner at a time

Every function takes a `str` or a `Path`. For plain reads use the `epath.Path`
that `path` returns. What differs on gs:// is in `object_store` and `locks`.
"""
from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
import secrets

from etils import epath

from ddt_jax.storage import locks
from ddt_jax.storage import object_store

SEAL = 'DIGESTS.json'

_BLOCK = 1 << 16  # bytes read at a time when looking for the last newline


class Damaged(ValueError):
  """A folder's content is not what was sealed."""


Locked = locks.Locked


def path(p: str | os.PathLike) -> epath.Path:
  """The path, with `~` expanded.

  Raises:
    ValueError: a scheme other than gs://.
    ImportError: a gs:// path, and gcsfs is not installed.
  """
  scheme, separator, _ = os.fspath(p).partition('://')
  if separator and scheme != 'gs':
    raise ValueError(f'{p}: only local paths and gs:// are supported.')
  if separator:
    object_store.client_class()  # fails early where gcsfs is missing
  return epath.Path(p).expanduser()


# Files ------------------------------------------------------------------------


def publish(file: str | os.PathLike, data: str | bytes) -> None:
  """Writes a file so that readers see the old or the new content, never a part.

  The new content is on the disk when this returns. If it fails, the old content
  stays and nothing is left behind. Parent folders are created. Replaces what
  was appended to the file as well.

  Args:
    file: where to write.
    data: the content; a `str` is encoded as UTF-8.
  """
  file = path(file)
  data = data.encode() if isinstance(data, str) else data
  store = object_store.client(file)
  if store:
    object_store.publish(store, file, data)
    return
  file = epath.Path(os.path.realpath(file))  # a link stays, its target changes
  file.parent.mkdir(parents=True, exist_ok=True)
  temporary = file.parent / f'.{file.name}.{secrets.token_hex(4)}.tmp'
  try:
    with open(temporary, 'xb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, file)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  _sync_folder(file.parent)


def append(file: str | os.PathLike, text: str) -> None:
  """Adds whole lines to a file; they are on the disk when this returns.

  A last line that a kill has torn is cut off first. If writing fails, the file
  is as long as before. One process writes at a time: see `lock`.

  Raises:
    ValueError: the text does not end with a newline.
  """
  if not text.endswith('\n'):
    raise ValueError(f'{file}: append whole lines, not {text[-40:]!r}.')
  file, data = path(file), text.encode()
  store = object_store.client(file)
  if store:
    object_store.append(store, file, data)
    return
  file.parent.mkdir(parents=True, exist_ok=True)
  is_new = not file.exists()
  # Unbuffered: a buffer that could not be flushed is written again on closing.
  with open(file, 'a+b', buffering=0) as f:
    size = _whole_size(f)
    f.truncate(size)
    rest = memoryview(data)
    try:
      while rest:
        rest = rest[f.write(rest):]
      os.fsync(f.fileno())
    except BaseException:
      f.truncate(size)
      raise
  if is_new:
    _sync_folder(file.parent)


def read_lines(file: str | os.PathLike) -> list[str]:
  """The whole lines of a file that `publish` or `append` wrote, without '\\n'.

  A last line without a newline was torn by a kill and is left out. A missing
  file has no lines.
  """
  file = path(file)
  store = object_store.client(file)
  if store:
    pieces = object_store.read(store, file)
  else:
    pieces = [file.read_bytes()] if file.exists() else []
  # Not splitlines(): JSON strings may hold U+2028, which it takes for an end.
  return [
      line for piece in pieces
      for line in piece[:piece.rfind(b'\n') + 1].decode().split('\n')[:-1]
  ]


def _whole_size(f) -> int:
  """Size of a file up to and with its last newline."""
  end = f.seek(0, os.SEEK_END)
  while end > 0:
    start = max(0, end - _BLOCK)
    f.seek(start)
    newline = f.read(end - start).rfind(b'\n')
    if newline >= 0:
      return start + newline + 1
    end = start
  return 0


def _sync_folder(folder: epath.Path) -> None:
  """Makes the folder's entries durable; a file's own fsync does not."""
  fd = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


# Seals ------------------------------------------------------------------------


def digests(folder: str | os.PathLike) -> dict[str, str]:
  """SHA-256 of every file under a folder, by relative name, sorted.

  What this module adds to a folder is no content and is left out: the folder's
  own seal and lock, and temporary files of a `publish` that was killed.
  """
  folder = path(folder)
  store = object_store.client(folder)
  result = {}
  for name in sorted(_names(store, folder)):
    file = os.fspath(folder / name)
    with store.open(file, 'rb') if store else open(file, 'rb') as f:
      result[name] = hashlib.file_digest(f, 'sha256').hexdigest()
  return result


def seal(folder: str | os.PathLike) -> None:
  """Writes the digests of a finished folder into it, as `DIGESTS.json`."""
  folder = path(folder)
  publish(folder / SEAL, json.dumps(digests(folder), indent=2) + '\n')


def check_seal(folder: str | os.PathLike) -> None:
  """Checks a folder against its seal. Reads all of it.

  Raises:
    Damaged: the seal is missing or unreadable, or a file was changed, removed
      or added since. The message names the first one and says what to do.
  """
  folder = path(folder)
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
  found = digests(folder)
  for name in sorted(sealed | found):
    if sealed.get(name) != found.get(name):
      what = ('is missing' if name not in found else 'was added'
              if name not in sealed else 'has changed')
      raise Damaged(f'{folder / name} {what} since it was sealed. {advice}')


def _names(store, folder: epath.Path) -> Iterator[str]:
  """Relative names of the content of a folder."""
  if store:
    root = os.fspath(folder).removeprefix('gs://') + '/'
    names = [name.removeprefix(root) for name in store.find(os.fspath(folder))]
  else:
    names = [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, files in os.walk(folder, onerror=_raise)
        for name in files
    ]
  for name in names:
    base = os.path.basename(name)
    temporary = base.startswith('.') and base.endswith('.tmp')
    if not temporary and name.split('/')[0] not in (SEAL, locks.LOCK):
      yield name


def _raise(error: OSError) -> None:
  raise error


# Locks ------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
  """Makes this process the one owner of a folder, for a `with` block.

  A local lock is the kernel's: it goes with the process, however that ends.
  Child processes let go of it as they start.

  On an object store it is an object that the owner renews. After a kill it
  expires in five minutes by the hosts' clocks, which are taken to agree within
  a minute or so. Not guaranteed: an owner that was suspended for that long, or
  could not reach the store, may have a successor and not know it. It ends
  itself, as if killed, at its next renewal, within half a minute of waking.

  Where several hosts work on one run, the first of them takes the lock.

  Raises:
    Locked: another process owns the folder.
  """
  folder = path(folder)
  store = object_store.client(folder)
  with locks.object_lock(store, folder) if store else locks.file_lock(folder):
    yield
