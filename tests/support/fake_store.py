"""An object store in this process's memory, in place of the client of gs://."""

import contextlib
import os

from etils.epath import backend
from fsspec.implementations import memory
from fsspec.registry import _registry
import pytest


class Killed(BaseException):
  """The process ends here."""


class Upload:
  """A file that is being written: it becomes an object when it is closed."""

  def __init__(self, store, path):
    self._store, self._path, self._parts, self.closed = store, path, [], False

  def write(self, data):
    self._parts.append(bytes(data))
    return len(data)

  def discard(self):
    self._parts = None

  def close(self):
    if not self.closed:
      self.closed = True
      self._store.pipe_file(self._path, b''.join(self._parts))

  __del__ = close  # as of fsspec's files

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()


class FakeStore(memory.MemoryFileSystem):
  """An object store: single writes are atomic; no rename, no append."""

  protocol = ('gs', 'gcs')
  store = {}
  pseudo_dirs = ['']
  before_change = staticmethod(lambda: None)  # a test's hook

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(os.fspath(path).removeprefix('gs://'))

  def find(self, path, detail=False, **kwargs):
    found = super().find(path, detail=True, **kwargs)
    found = {name.lstrip('/'): info for name, info in found.items()}
    return found if detail else list(found)

  def pipe_file(self, path, value, mode='overwrite', **kwargs):
    self.before_change()
    super().pipe_file(path, value, mode, **kwargs)

  def rm_file(self, path):
    self.before_change()
    super().rm_file(path)

  def _open(self, path, mode='rb', **kwargs):
    if 'a' in mode or '+' in mode:
      raise NotImplementedError('an object store cannot append')
    if mode == 'wb' and 'data' not in kwargs:  # `pipe_file` brings its data
      return Upload(self, path)
    return super()._open(path, mode, **kwargs)

  def mv(self, *args, **kwargs):
    raise NotImplementedError('an object store cannot rename')

  rename = move = mv


@contextlib.contextmanager
def installed():
  """An empty store, which all clients of gs:// use inside the block."""
  clear = backend.fsspec_backend._get_filesystem.cache_clear
  with pytest.MonkeyPatch.context() as m:
    m.setitem(_registry, 'gcs', FakeStore)
    m.setattr(FakeStore, 'store', {})
    m.setattr(FakeStore, 'pseudo_dirs', [''])
    clear()
    yield FakeStore()
  clear()


@contextlib.contextmanager
def killed_after(changes: int):
  """Ends the block, as a kill would, at the change of the store after these.

  Yields a list that holds True once the block has been killed.
  """
  left, killed = iter(range(changes)), []

  def die_later():
    if next(left, None) is None:
      killed.append(True)
      raise Killed

  with pytest.MonkeyPatch.context() as m:
    m.setattr(FakeStore, 'before_change', staticmethod(die_later))
    with contextlib.suppress(Killed):
      yield killed
