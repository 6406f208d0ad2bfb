"""Whole files on an object store, which can neither rename nor append.

Uploading an object is atomic there, and that is how `publish` works. What is
appended to an existing `FILE` becomes numbered objects under `FILE.parts/`,
which `read` joins.
"""
import os
import secrets

from etils import epath

_WHOLE = '.whole'  # ends the name of a part that replaces all before it


def client(p: str | os.PathLike):
  """The store's client (gcsfs), or None for a local path."""
  return client_class()() if os.fspath(p).startswith('gs://') else None


def client_class():
  """gcsfs, imported when the first gs:// path is met.

  Raises:
    ImportError: it is not installed.
  """
  import fsspec

  # Other hosts write to the same bucket, and a cached listing hides what they
  # wrote for as long as the process lives. Holds for epath's client as well.
  conf = fsspec.config.conf.setdefault('gcs', {})
  conf.setdefault('use_listings_cache', False)
  try:
    return fsspec.get_filesystem_class('gcs')
  except ImportError as error:
    raise ImportError(
        "gs:// paths need gcsfs: pip install -e '.[gcs]'") from error


def publish(store, file: epath.Path, data: bytes) -> None:
  """Replaces the file and what was appended to it."""
  parts = _parts(store, file)
  if not parts:
    store.pipe_file(os.fspath(file), data)
    return
  # With parts there are several objects to change, and a kill may come between
  # any two. The first upload decides: it hides the object and the older parts.
  # It goes last, when the object says the same and no older part is left.
  whole = _add_part(store, file, parts, data, _WHOLE)
  store.pipe_file(os.fspath(file), data)
  store.rm(parts)
  store.rm(whole)


def append(store, file: epath.Path, data: bytes) -> None:
  """Adds to the file, or makes it."""
  parts = _parts(store, file)
  if parts or store.exists(os.fspath(file)):
    _add_part(store, file, parts, data)
  else:
    store.pipe_file(os.fspath(file), data)


def _add_part(store, file, parts: list[str], data: bytes, suffix='') -> str:
  """Uploads the next part. The random name makes a repeated upload harmless."""
  number = int(os.path.basename(parts[-1])[:8]) + 1 if parts else 0
  name = f'{file}.parts/{number:08d}-{secrets.token_hex(4)}{suffix}'
  store.pipe_file(name, data)
  return name


def _parts(store, file: epath.Path) -> list[str]:
  return sorted(store.find(f'{file}.parts'))


def _live_objects(store, file: epath.Path) -> list[str]:
  """The objects that make up the file's content, in order."""
  parts = _parts(store, file)
  wholes = [i for i, name in enumerate(parts) if name.endswith(_WHOLE)]
  return parts[wholes[-1]:] if wholes else [os.fspath(file), *parts]


def read(store, file: epath.Path) -> list[bytes]:
  """What was published and appended, in order; nothing if there is no file."""
  while True:
    names = _live_objects(store, file)
    contents = store.cat(names, on_error='return')
    # Unless the file was published meanwhile, these objects belong together.
    if _live_objects(store, file)[:len(names)] == names:
      break
  # The names sort in the order of writing. No parts and no object: no file.
  pieces = [contents[name] for name in sorted(contents)]
  pieces = [p for p in pieces if not isinstance(p, FileNotFoundError)]
  for piece in pieces:
    if isinstance(piece, Exception):
      raise piece
  return pieces
