"""The run on one host of a TPU VM: started, followed and stopped over ssh.

python -m experiments.vm.worker start HOSTS COMMAND...
python -m experiments.vm.worker follow OFFSET | state | stop SECONDS

The run belongs to a supervisor process in a session of its own, so it outlives the
ssh connection. The folder ~/ddt_jax_run holds its command, its log and, at the end,
its exit status. The supervisor holds a lock on a file there: the run is alive as
long as the lock is held. A process id alone could belong to another process after
a reboot.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

FOLDER = pathlib.Path.home() / 'ddt_jax_run'
COMMAND, LOCK, LOG, PID, STATUS = (
    FOLDER / name for name in ('command.json', 'lock', 'log', 'pid', 'status'))
BUSY = 3  # exit status of `start` if another command is running
_POLL_SECONDS = 0.1  # between two looks at the log


def start(hosts: int, command: list[str]) -> int:
  """Starts the command detached, unless it is running already.

  Args:
    hosts: number of hosts that start it; it finds the number in DDT_JAX_HOSTS.
    command: argument list; `python` is that of the environment of this process.

  Returns:
    0, or `BUSY` if another command is running.
  """
  FOLDER.mkdir(exist_ok=True)
  if _is_alive():
    if json.loads(COMMAND.read_text()) == command:
      print('the run is in progress already', file=sys.stderr)
      return 0
    print('another command is running', file=sys.stderr)
    return BUSY
  for file in (PID, STATUS):
    file.unlink(missing_ok=True)
  COMMAND.write_text(json.dumps(command))
  # Here and not in the supervisor: `follow` may open the log before that one is up.
  with LOG.open('wb') as log, _lock(fcntl.LOCK_EX) as lock:
    environment = os.environ | {
        'DDT_JAX_HOSTS': str(hosts), 'PYTHONUNBUFFERED': '1',
        'PATH': f'{pathlib.Path(sys.executable).parent}{os.pathsep}'
                f'{os.environ.get("PATH", os.defpath)}',
    }
    # The supervisor inherits the lock, so that there is no moment without one.
    subprocess.Popen(
        [sys.executable, '-m', 'experiments.vm.worker', 'supervise', *command],
        env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        pass_fds=[lock.fileno()], start_new_session=True)
  return 0


def supervise(command: list[str]) -> int:
  """Runs the command to its end and writes its exit status."""
  try:
    # close_fds, the default, keeps the lock from the command: helper processes that
    # outlive it would hold the lock.
    process = subprocess.Popen(command, start_new_session=True)
  except OSError as e:
    print(f'error: {command[0]}: {e.strerror}')
    status = 127  # as shells report a command that cannot be run
  else:
    _publish(PID, process.pid)
    status = process.wait()
    with contextlib.suppress(ProcessLookupError):
      # Helper processes that it left behind would keep the TPU busy.
      os.killpg(process.pid, signal.SIGKILL)
  # A shell's convention for signals: 128 + the signal's number.
  _publish(STATUS, status if status >= 0 else 128 - status)
  return 0


def state() -> dict[str, Any]:
  """The state of the run.

  Returns:
    state: 'none', 'running' or 'ended'.
    status: the exit status of an ended run; None if its supervisor was killed.
    command: the argument list.
  """
  if not COMMAND.exists():
    return {'state': 'none', 'status': None, 'command': []}
  alive = _is_alive()  # before the status is read, which is written before the end
  status = int(STATUS.read_text()) if STATUS.exists() else None
  return {'state': 'running' if alive else 'ended', 'status': status,
          'command': json.loads(COMMAND.read_text())}


def follow(offset: int) -> int:
  """Copies the log to standard output until the run has ended.

  Args:
    offset: bytes of the log to leave out: those that were copied before.
  """
  if not LOG.exists():
    return 0
  with contextlib.suppress(BrokenPipeError):  # the ssh connection is gone
    with LOG.open('rb') as log, open(1, 'wb', closefd=False) as out:
      log.seek(offset)
      alive = True
      while alive:
        alive = _is_alive()  # before reading, so that the last lines are not missed
        while data := log.read(1 << 16):
          out.write(data)
          out.flush()
        time.sleep(_POLL_SECONDS if alive else 0)
  return 0


def stop(seconds: float) -> int:
  """Asks the run to save and stop; kills it after so many seconds.

  Returns:
    0, or 1 if it could not be killed.
  """
  if not _is_alive():
    print('no run is in progress', file=sys.stderr)
    return 0
  while _is_alive() and not PID.exists():  # its supervisor is just starting
    time.sleep(_POLL_SECONDS)
  # SIGTERM for the command alone: it needs its helper processes to save.
  for send, number, patience in (
      (os.kill, signal.SIGTERM, seconds), (os.killpg, signal.SIGKILL, 10.0)
  ):
    end = time.monotonic() + patience
    with contextlib.suppress(ProcessLookupError):  # it has just ended
      send(int(PID.read_text()), number)
    while _is_alive():
      if time.monotonic() > end:
        break
      time.sleep(_POLL_SECONDS)
    else:
      return 0
  return 1


@contextlib.contextmanager
def _lock(kind: int):
  """Holds the lock; raises BlockingIOError if it is held in a way that excludes."""
  with LOCK.open('ab') as file:  # a: opening must not change the file
    fcntl.flock(file, kind | fcntl.LOCK_NB)
    yield file


def _is_alive() -> bool:
  try:
    with _lock(fcntl.LOCK_SH):  # shared: two that look must not see each other
      return False
  except BlockingIOError:
    return True


def _publish(file: pathlib.Path, number: int) -> None:
  """Writes a number so that readers see all of it or nothing."""
  part = file.with_suffix('.part')
  part.write_text(str(number))
  part.replace(file)


def main(verb: str, *arguments: str) -> int:
  if verb == 'start':
    return start(int(arguments[0]), list(arguments[1:]))
  if verb == 'supervise':
    return supervise(list(arguments))
  if verb == 'follow':
    return follow(int(arguments[0]))
  if verb == 'stop':
    return stop(float(arguments[0]))
  assert verb == 'state', verb
  print(json.dumps(state()))
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
