"""Subprocesses that judge one pair at a time and can be killed.

Each is ``python -m ddt_jax.verify``: a fresh interpreter, which works from
notebooks and from scripts without a guard, and which does not inherit what JAX
holds. It speaks JSON lines: a job in, `judge`'s arguments; (correct, reason) out.
"""
from collections.abc import Callable, Sequence
from concurrent import futures
import contextlib
import json
import os
import pathlib
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time

COMMAND = [sys.executable, '-m', 'ddt_jax.verify']
_START_S = 120.0  # a worker imports sympy before it is ready
_STARTS = 3  # attempts before workers are declared broken
_BYTES = 4 << 30  # address space of one worker
_READY = 'ready'


def judge_all(jobs: Sequence[tuple[str, str, str]], workers: int,
              timeout_s: float) -> list[tuple[bool | None, str]]:
  """(correct, reason) of each job; a worker is started when one is needed.

  Raises:
    RuntimeError: workers cannot be started.
  """
  idle: list[Worker] = []  # shared by the threads; pop and append are atomic
  kinds = sorted({kind for kind, *_ in jobs})

  def judge(job):
    try:
      worker = idle.pop()
    except IndexError:
      worker = _start(kinds)
    try:
      reply = worker.ask(job, timeout_s)
    except TimeoutError:
      worker.kill()
      return None, f'timeout after {timeout_s} s'
    # The process ended, or what it wrote is no JSON.
    except (EOFError, OSError, ValueError):
      worker.kill()
      return None, 'worker died'
    # Not in a finally: a worker that timed out or died is not used again.
    idle.append(worker)
    return tuple(reply)

  pool = futures.ThreadPoolExecutor(workers)
  try:
    return list(pool.map(judge, jobs))
  finally:
    pool.shutdown(cancel_futures=True)
    for worker in idle:
      worker.kill()


def _start(kinds: Sequence[str]) -> 'Worker':
  for _ in range(_STARTS):
    worker = Worker(kinds)
    try:
      if worker.reply(_START_S) == _READY:
        return worker
    except (EOFError, TimeoutError, ValueError):
      pass
    worker.kill()
  raise RuntimeError(
      f'Workers do not start: {" ".join(COMMAND)} ended or hung {_STARTS} times '
      'before it was ready. Is math-verify installed?')


class Worker:
  """The parent's end of one subprocess; it prepares for `kinds` of jobs."""

  def __init__(self, kinds: Sequence[str] = ()):
    root = str(pathlib.Path(__file__).resolve().parents[2])
    # A verifier of the user's is imported from where this process finds it.
    path = os.pathsep.join([root, *map(os.path.abspath, sys.path)])
    # The hash seed orders sympy's terms: the same verdict in every run.
    env = os.environ | {'PYTHONPATH': path, 'PYTHONHASHSEED': '0'}
    self.process = subprocess.Popen(
        [*COMMAND, *kinds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
        start_new_session=True)  # its own group, to be killed as a whole

  def ask(self, job: tuple[str, str, str], timeout_s: float):
    self.process.stdin.write(json.dumps(job).encode() + b'\n')
    self.process.stdin.flush()
    return self.reply(timeout_s)

  def reply(self, timeout_s: float):
    """The next line; TimeoutError, or EOFError if there will be none."""
    fd, line = self.process.stdout.fileno(), b''
    poll, deadline = select.poll(), time.monotonic() + timeout_s
    # Not select.select(): that fails on descriptors above 1023.
    poll.register(fd, select.POLLIN)
    while not line.endswith(b'\n'):
      # A user's time limit, so wall clock and not processor time.
      if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeoutError
      chunk = os.read(fd, 1 << 16)
      if not chunk:
        raise EOFError
      line += chunk
    return json.loads(line)

  def kill(self) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()
    with contextlib.suppress(BrokenPipeError):
      self.process.stdin.close()
    self.process.stdout.close()


def serve(
    judge: Callable[[str, str, str], tuple[bool | None, str]],
    prepare: Callable[[str], None] = lambda kind: None,
) -> None:
  """The worker: answers until its parent closes the pipe or is gone.

  Args:
    judge: from (kind, answer, reference) to (correct, reason).
    prepare: called first with each kind on the command line.
  """
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  # Beyond it an allocation raises MemoryError: one hostile pair must not take the
  # machine's memory.
  soft = _BYTES if hard < 0 else min(_BYTES, hard)  # < 0: none
  resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
  # Replies own the pipe; whatever libraries print goes to stderr.
  replies = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  requests = queue.SimpleQueue()

  def read():
    for line in sys.stdin:
      requests.put(json.loads(line))
    os._exit(0)  # the parent is gone: stop even in the middle of a pair

  def reply(value):
    print(json.dumps(value), file=replies, flush=True)

  # Before "ready", so that the first pair's time limit does not pay for it:
  judge('math', '2x', 'x+x')  # imports, and the parser's tables
  for kind in sys.argv[1:]:
    prepare(kind)
  reply(_READY)
  threading.Thread(target=read, daemon=True).start()
  while True:
    reply(judge(*requests.get()))
