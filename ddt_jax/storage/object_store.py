"""The client of gs://, which can neither rename nor append, only replace."""

from collections.abc import Iterable
import os

from etils import epath
import fsspec


def client(p: str | os.PathLike[str]) -> fsspec.AbstractFileSystem | None:
  """Returns the store's client (gcsfs), or None for a local path.

  Raises:
    ImportError: the path is on gs://, and gcsfs is not installed.
  """
  return client_class()() if os.fspath(p).startswith('gs://') else None


def client_class() -> type[fsspec.AbstractFileSystem]:
  """Imports gcsfs and returns its class.

  Raises:
    ImportError: it is not installed.
  """
  # Other hosts write to the same bucket. A cached listing would hide their files
  # for as long as this process lives. epath's own client reads the same setting.
  conf = fsspec.config.conf.setdefault('gcs', {})
  conf.setdefault('use_listings_cache', False)
  try:
    return fsspec.get_filesystem_class('gcs')
  except ImportError as error:
    raise ImportError(
        "gs:// paths need gcsfs: pip install -e '.[gcs]'") from error


def key(p: epath.Path) -> str:
  """Returns 'BUCKET/NAME', the form of a path in the store's listings."""
  return os.fspath(p).removeprefix('gs://')


def upload(
    store: fsspec.AbstractFileSystem, file: epath.Path,
    data: bytes | Iterable[bytes],
) -> None:
  """Writes an object, whole or not at all."""
  if isinstance(data, bytes):
    store.pipe_file(os.fspath(file), data)
    return
  f = store.open(os.fspath(file), 'wb')
  try:
    for part in data:
      f.write(part)
      del part  # the next one may be as large
  except BaseException:
    # `close`, and so `with`, would publish the parts that have come.
    f.discard()
    f.closed = True
    raise
  f.close()
