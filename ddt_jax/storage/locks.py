"""The two ways in which a process becomes the one owner of a folder."""
from collections.abc import Iterator
import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time

from etils import epath

LOCK = '.lock'  # in the folder: a file, or numbered objects under this name

_RENEW_S, _STALE_S = 30.0, 300.0  # a lock object's heartbeat and its lifetime


class Locked(RuntimeError):
  """Another process owns the folder."""


def _locked(folder: epath.Path, holder: dict, more: str = '') -> Locked:
  return Locked(
      f'{folder} is in use by process {holder.get("pid", "(unknown)")} on host '
      f'{holder.get("host", "(unknown)")}. Wait for it to end, stop it, or '
      f'choose another folder.{more}')


def _identity() -> dict:
  return {'host': socket.gethostname(), 'pid': os.getpid(), 'time': time.time()}


# Local folders ----------------------------------------------------------------

_lock_fds: set[int] = set()  # of this process


def _drop_locks() -> None:
  """A forked child shares its parent's descriptors, and the lock with them."""
  while _lock_fds:
    os.close(_lock_fds.pop())


os.register_at_fork(after_in_child=_drop_locks)  # exec'd ones: O_CLOEXEC


@contextlib.contextmanager
def file_lock(folder: epath.Path) -> Iterator[None]:
  """The kernel's lock on a file: it goes with the process."""
  folder.mkdir(parents=True, exist_ok=True)
  fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
  _lock_fds.add(fd)
  try:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      try:
        holder = json.loads(os.read(fd, 4096))
      except ValueError:  # it has the lock and has not yet written its name
        holder = {}
      raise _locked(folder, holder) from None
    # The file is never removed: a rival may have it open, and would then lock
    # a file that nobody else can find.
    os.ftruncate(fd, 0)
    os.write(fd, json.dumps(_identity()).encode())
    yield
  finally:
    if fd in _lock_fds:  # not in a forked child
      _lock_fds.remove(fd)
      os.close(fd)


# Object stores ----------------------------------------------------------------


@contextlib.contextmanager
def object_lock(store, folder: epath.Path) -> Iterator[None]:
  """An object that its owner renews; whoever has the highest number owns.

  To take over an expired lock is to create the next number. Creation is atomic,
  so that one of several rivals succeeds.
  """
  token = secrets.token_hex(8)
  mine = _take(store, folder, token)
  stop = threading.Event()

  def renew():
    while not stop.wait(_RENEW_S):
      try:
        if _find(store, folder)[-1:] != [mine]:
          # All that is written survives a kill, and this one is due: whatever
          # the process does next could harm its successor's files.
          logging.critical('Another process has taken over %s.', folder)
          os._exit(1)
        _write(store, mine, token)
      except Exception as error:  # the network's; the lock lasts for a while
        logging.warning('Could not renew the lock of %s: %s', folder, error)

  thread = threading.Thread(target=renew, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()
    with contextlib.suppress(FileNotFoundError):  # if it was taken over
      store.rm(mine)


def _take(store, folder: epath.Path, token: str) -> str:
  """Name of the lock object that makes this process the owner."""
  older = _find(store, folder)
  if older:
    holder = _read(store, older[-1])
    left = holder.get('time', 0.0) + _STALE_S - time.time()
    if left > 0:
      raise _locked(folder, holder, ' If that process is dead, its lock expires '
                    f'in {left:.0f} seconds.')
  number = int(os.path.basename(older[-1])) + 1 if older else 0
  mine = f'{_root(folder)}/{number:08d}'
  try:
    _write(store, mine, token, mode='create')
  except FileExistsError:
    holder = _read(store, mine)
    if holder.get('token') != token:  # else the client has repeated the upload
      raise _locked(folder, holder) from None
  for name in older:
    with contextlib.suppress(FileNotFoundError):
      store.rm(name)
  return mine


def _root(folder: epath.Path) -> str:
  return os.fspath(folder / LOCK).removeprefix('gs://')


def _find(store, folder: epath.Path) -> list[str]:
  return sorted(store.find(_root(folder)))


def _write(store, name: str, token: str, mode: str = 'overwrite') -> None:
  holder = json.dumps(_identity() | {'token': token})
  store.pipe_file(name, holder.encode(), mode=mode)


def _read(store, name: str) -> dict:
  """What a lock object says; nothing if it is gone."""
  try:
    return json.loads(store.cat_file(name))
  except FileNotFoundError:
    return {}
