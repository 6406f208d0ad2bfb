"""Files whose content is whole or absent, whenever the process is killed."""

from collections.abc import Iterable
import os
import secrets

from etils import epath

from ddt_jax import errors
from ddt_jax.storage import object_store

_BLOCK = 1 << 16  # bytes per read when looking for the last newline


def path(p: str | os.PathLike[str]) -> epath.Path:
  """Returns the path with `~` expanded.

  Raises:
    errors.InputError: the scheme is not gs://.
    ImportError: the path is on gs://, and gcsfs is not installed.

  Example:
    >>> path('runs/idft') / 'results.json'
    PosixGPath('runs/idft/results.json')
  """
  scheme, separator, _ = os.fspath(p).partition('://')
  if separator and scheme != 'gs':
    raise errors.InputError(
        f'{p}: only local paths and gs:// are supported.')
  if separator:
    object_store.client_class()  # a missing gcsfs fails here, not hours later
  return epath.Path(p).expanduser()


def user_cache() -> epath.Path:
  """Returns the project's folder in the user's cache, which may not exist yet."""
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return path(home) / 'ddt_jax'


def publish(
    file: str | os.PathLike[str], data: str | bytes | Iterable[bytes]
) -> None:
  """Writes a file so that readers see the old or the new content, never a part.

  The new content is durable on return. If writing fails, the old content stays
  and no temporary file remains. Missing parent folders are created.

  Args:
    file: the file to create or replace.
    data: the content; a `str` is encoded as UTF-8. Parts of a content that need
      not fit into memory are bytes-like objects, of which one is held at a time.

  Raises:
    OSError: the disk or the store refused the write.
  """
  file = path(file)
  data = data.encode() if isinstance(data, str) else data
  store = object_store.client(file)
  if store:
    object_store.upload(store, file, data)
    return
  parts = [data] if isinstance(data, bytes) else data
  file = epath.Path(os.path.realpath(file))  # replace a link's target, not the link
  file.parent.mkdir(parents=True, exist_ok=True)
  # In the same folder, because a rename is atomic only within a file system.
  temporary = file.parent / f'.{file.name}.{secrets.token_hex(4)}.tmp'
  try:
    with open(temporary, 'xb') as f:
      f.writelines(parts)
      f.flush()
      # Content before name: after a power cut the new name could be empty otherwise.
      os.fsync(f.fileno())
    os.replace(temporary, file)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  _sync_folder(file.parent)


def append(file: str | os.PathLike[str], text: str) -> None:
  """Adds whole lines to a local file; they are durable on return.

  An incomplete last line, left by a kill, is cut off first. If writing fails,
  the file keeps its old length. Only one process may append at a time: see
  `lock`.

  Args:
    file: a local file, created if it is missing.
    text: one or more lines, each with its newline.

  Raises:
    ValueError: the text does not end with a newline, or the file is on gs://,
      where only `publish` works.
    OSError: the disk refused the write.
  """
  if not text.endswith('\n'):
    raise ValueError(f'{file}: append whole lines, not {text[-40:]!r}.')
  file, data = path(file), text.encode()
  if object_store.client(file):
    raise ValueError(f'{file}: objects cannot be appended to; publish the whole.')
  file.parent.mkdir(parents=True, exist_ok=True)
  is_new = not file.exists()
  # Unbuffered: closing would write a failed buffer a second time otherwise.
  with open(file, 'a+b', buffering=0) as f:
    size = _size_of_whole_lines(f)
    f.truncate(size)
    rest = memoryview(data)
    try:
      while rest:
        # An unbuffered write may take only a part.
        rest = rest[f.write(rest):]
      os.fsync(f.fileno())
    except BaseException:
      f.truncate(size)
      raise
  if is_new:
    _sync_folder(file.parent)


def read_lines(file: str | os.PathLike[str]) -> list[str]:
  """Returns the whole lines of a file, without their newlines.

  A last line without a newline is left out: a kill cut it short. A missing file
  has no lines.

  Args:
    file: a file that `publish` or `append` wrote.
  """
  file = path(file)
  store = object_store.client(file)
  try:
    # One request to a store: a reader never mixes two versions of an object.
    data = store.cat_file(os.fspath(file)) if store else file.read_bytes()
  except FileNotFoundError:
    return []
  # Not splitlines(): it also splits at U+2028, which JSON strings may contain.
  return data[:data.rfind(b'\n') + 1].decode().split('\n')[:-1]


def _size_of_whole_lines(f) -> int:
  """Size in bytes of an open file up to and including its last newline."""
  end = f.seek(0, os.SEEK_END)
  # Backwards in blocks: a log of gigabytes is not read to find its end.
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
