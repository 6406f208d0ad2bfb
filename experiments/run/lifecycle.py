"""How a command starts and ends: caches, quiet libraries, signals, exit codes.

Exit status: 0 done; 2 the input is wrong, and the message says what to change;
74 no space is left; 75 stopped by SIGTERM or Ctrl-C; 130 ended by a second
Ctrl-C. After 74, 75 and 130 the same command resumes.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import itertools
import logging as python_logging
import os
import signal
import sys
import threading
import warnings

from absl import app
from absl import logging
import jax
from jax.experimental import multihost_utils

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage
from experiments.run import options

# 2 as of a wrong command line; 74 and 75 are EX_IOERR and EX_TEMPFAIL of
# sysexits.h; 130 is 128 + SIGINT, as shells report it.
BAD_INPUT, FULL, RESUME, INTERRUPTED = 2, 74, 75, 130  # exit status

# A user can mend these; every other exception is a bug and keeps its traceback.
INPUT_ERRORS = (
    errors.InputError, OSError, ImportError, storage.Damaged, storage.Locked,
    processes.FirstFailed,
)
_HOSTS_TIMEOUT_SECONDS = 1800
_NO_SPACE = os.strerror(errno.ENOSPC)



class Stopped(Exception):
  """A stop was requested in the middle of work that is not kept."""


_stopped = threading.Event()
_sync_points = itertools.count()  # all processes count alike

def launch(main: Callable[[], None]) -> None:
  """Parses the flags, prepares JAX and runs `main`: the last line of a command."""

  def started(argv):
    del argv
    with explained_errors(errors.InputError):
      start()
    main()

  app.run(started, flags_parser=options.parse)


def start() -> None:
  """Prepares JAX; call once, before anything is compiled.

  In a run of several processes each gets JAX_COORDINATOR_ADDRESS (host:port of
  the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID. On a TPU VM of several hosts
  each gets DDT_JAX_HOSTS, their number; JAX finds the rest by itself.

  Raises:
    errors.InputError: JAX does not see all hosts.
  """
  logging.set_verbosity(logging.WARNING)
  python_logging.getLogger('orbax').setLevel(python_logging.ERROR)
  warnings.filterwarnings('ignore', module='orbax')
  if '--xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    # By default XLA starts one thread for each fake device; two collectives in
    # flight can then wait for each other's threads forever.
    os.environ.setdefault('PJRT_NPROC', '32')
  if address := os.environ.get('JAX_COORDINATOR_ADDRESS'):
    jax.distributed.initialize(
        address, int(os.environ['JAX_NUM_PROCESSES']),
        int(os.environ['JAX_PROCESS_ID']),
    )
  elif (hosts := int(os.environ.get('DDT_JAX_HOSTS', '1'))) > 1:
    # By the VM's metadata. The default timeout of 5 minutes is short for hosts of
    # which one may still install or compile.
    jax.distributed.initialize(initialization_timeout=_HOSTS_TIMEOUT_SECONDS)
    if jax.process_count() != hosts:
      # Otherwise each host would train by itself, all in one folder.
      raise errors.InputError(
          f'DDT_JAX_HOSTS is {hosts}, but JAX sees {jax.process_count()} process(es)')
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(storage.user_cache() / 'xla'))
  # The default thresholds skip programs as small as the embedded student's.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def stop_requested() -> bool:
  """Whether SIGTERM or Ctrl-C has come, within `resumable`.

  With several processes all of them must call it together: the signal may have
  reached any one, and all get the same answer.
  """
  if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(
      next(_sync_points)
  ):
    _stopped.set()
  return _stopped.is_set()


def check_stop() -> None:
  """Ends the process if a stop was requested; call where everything is saved."""
  if stop_requested():
    print('stopped; the same command resumes', file=sys.stderr)
    sys.exit(RESUME)


def give_up_on_stop() -> None:
  """Raises `Stopped` if a stop was requested; for work that the caller repeats."""
  if stop_requested():
    raise Stopped


def _request_stop(signum, frame) -> None:
  """Asks for a stop; a second Ctrl-C ends the process at once."""
  if signum == signal.SIGINT and _stopped.is_set():
    signal.default_int_handler(signum, frame)
  if signum == signal.SIGINT:
    print(
        '\nstopping where everything is saved; Ctrl-C again ends at once',
        file=sys.stderr)
  _stopped.set()


@contextlib.contextmanager
def resumable(workdir: os.PathLike) -> Iterator[None]:
  """Within the block SIGTERM and Ctrl-C ask for a stop; a full disk is explained."""
  _stopped.clear()
  # With several processes JAX's preemption service owns SIGTERM.
  signals = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
  before = {s: signal.signal(s, _request_stop) for s in signals}
  try:
    yield
  except KeyboardInterrupt:
    print('ended at once; the same command resumes from what is saved',
          file=sys.stderr)
    sys.exit(INTERRUPTED)
  except Exception as e:
    # Orbax's storage backend raises types of its own, without an errno.
    if getattr(e, 'errno', None) != errno.ENOSPC and _NO_SPACE not in str(e):
      raise
    print(
        f'error: no space is left for {workdir}: make room, and the same command'
        ' resumes', file=sys.stderr,
    )
    sys.exit(FULL)
  finally:
    for s, handler in before.items():
      signal.signal(s, handler)


@contextlib.contextmanager
def explained_errors(*kinds: type[Exception]) -> Iterator[None]:
  """Prints errors of these kinds as one line and exits with `BAD_INPUT`.

  Args:
    *kinds: default: `INPUT_ERRORS`.
  """
  kinds = kinds or INPUT_ERRORS
  try:
    yield
  except kinds as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(BAD_INPUT)
