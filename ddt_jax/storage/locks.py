"""Locks: one process owns a run's folder at a time."""
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

from ddt_jax.storage import files
from ddt_jax.storage import object_store

LOCK = '.lock'  # in the folder: a file, or on gs:// the prefix of numbered objects

# Seconds between the renewals of a lock object, and its lifetime without one. Ten
# renewals fit in, so a short failure of the network does not cost the lock.
_RENEW_S, _STALE_S = 30.0, 300.0


class Locked(RuntimeError):
  """Another process owns the folder."""


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Makes this process the only owner of a folder for a `with` block.

  A local lock belongs to the kernel: it ends with the process, however that
  ends. Forked children release it as their first act.

  On gs:// the lock is an object that the owner renews every 30 seconds. After a
  kill it expires in five minutes by the hosts' clocks, which must agree to about
  a minute. One case is not covered: an owner that was suspended, or could not
  reach the store, for five minutes may have a successor without knowing it. It
  ends itself at its next renewal, at most 30 seconds after it resumes.

  With several hosts in one run, process 0 takes the lock.

  Args:
    folder: the folder to own; created if it is missing.

  Raises:
    Locked: another process owns the folder. The message names it.
  """
  folder = files.path(folder)
  store = object_store.client(folder)
  with _object_lock(store, folder) if store else _file_lock(folder):
    yield


def _locked(folder: epath.Path, holder: dict, more: str = '') -> Locked:
  return Locked(
      f'{folder} is in use by process {holder.get("pid", "(unknown)")} on host '
      f'{holder.get("host", "(unknown)")}. Wait for it to end, stop it, or '
      f'choose another folder.{more}')


def _identity() -> dict:
  return {'host': socket.gethostname(), 'pid': os.getpid(), 'time': time.time()}


# Local folders ----------------------------------------------------------------

_lock_fds: set[int] = set()  # descriptors of the locks that this process holds


def _release_in_child() -> None:
  """Closes the inherited descriptors: the lock lasts until the last is closed."""
  while _lock_fds:
    os.close(_lock_fds.pop())


# Python opens files with O_CLOEXEC, so a child started by exec inherits nothing.
os.register_at_fork(after_in_child=_release_in_child)


@contextlib.contextmanager
def _file_lock(folder: epath.Path) -> Iterator[None]:
  """The kernel's lock on a file; it ends with the process."""
  folder.mkdir(parents=True, exist_ok=True)
  fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
  _lock_fds.add(fd)
  try:
    try:
      # flock, not lockf: a lock of lockf ends when any descriptor of the file closes.
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      try:
        holder = json.loads(os.read(fd, 4096))
      except ValueError:  # the owner has not written its name yet
        holder = {}
      raise _locked(folder, holder) from None
    # Never remove the file: a rival that has it open would lock the removed file,
    # and a third process would lock a new one.
    os.ftruncate(fd, 0)
    os.write(fd, json.dumps(_identity()).encode())
    yield
  finally:
    if fd in _lock_fds:  # false in a forked child, which has closed it
      _lock_fds.remove(fd)
      os.close(fd)


# Object stores ----------------------------------------------------------------


@contextlib.contextmanager
def _object_lock(store, folder: epath.Path) -> Iterator[None]:
  """An object that its owner renews; the highest number is the owner's.

  A process takes over an expired lock by creating the next number. Creation is
  atomic, so only one of several rivals succeeds.
  """
  token = secrets.token_hex(8)
  mine = _take(store, folder, token)
  stop = threading.Event()

  def renew():
    while not stop.wait(_RENEW_S):
      try:
        if _find(store, folder)[-1:] != [mine]:
          # Every file survives a kill, so ending here is safe. Going on is not:
          # two owners would write the same files.
          logging.critical('Another process has taken over %s.', folder)
          os._exit(1)
        _write(store, mine, token)
      except Exception as error:  # of the network; the lock outlasts a short one
        logging.warning('Could not renew the lock of %s: %s', folder, error)

  thread = threading.Thread(target=renew, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    # A renewal in flight would write the object again after its removal.
    thread.join()
    with contextlib.suppress(FileNotFoundError):  # a successor has removed it
      store.rm(mine)


def _take(store, folder: epath.Path, token: str) -> str:
  """Creates the lock object that makes this process the owner; returns its name."""
  older = _find(store, folder)
  if older:
    holder = _read(store, older[-1])
    left = holder.get('time', 0.0) + _STALE_S - time.time()
    if left > 0:
      raise _locked(folder, holder, ' If that process is dead, its lock expires '
                    f'in {left:.0f} seconds.')
  # A new name: the client can create atomically, but not compare and swap.
  number = int(os.path.basename(older[-1])) + 1 if older else 0
  # Zero-padded, so that the names sort by number.
  mine = f'{_root(folder)}/{number:08d}'
  try:
    _write(store, mine, token, mode='create')
  except FileExistsError:
    holder = _read(store, mine)
    # The client repeats an upload whose answer was lost and then meets its own.
    if holder.get('token') != token:
      raise _locked(folder, holder) from None
  for name in older:
    with contextlib.suppress(FileNotFoundError):
      store.rm(name)
  return mine


def _root(folder: epath.Path) -> str:
  return object_store.key(folder / LOCK)


def _find(store, folder: epath.Path) -> list[str]:
  return sorted(store.find(_root(folder)))


def _write(store, name: str, token: str, mode: str = 'overwrite') -> None:
  holder = json.dumps(_identity() | {'token': token})
  store.pipe_file(name, holder.encode(), mode=mode)


def _read(store, name: str) -> dict:
  """The fields of a lock object; empty if it is gone."""
  try:
    return json.loads(store.cat_file(name))
  except FileNotFoundError:
    return {}
