"""What commands share: caches, quiet libraries, the run's config, errors."""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import itertools
import json
import logging as python_logging
import os
import pathlib
import signal
import sys
import threading
from typing import Any
import warnings

from absl import logging
import jax
from jax.experimental import multihost_utils

from ddt_jax import embedded
from ddt_jax import processes
from ddt_jax import storage

_CACHE = pathlib.Path(
    os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache')
) / 'ddt_jax'

# What a resumed run may do otherwise than the one that was interrupted.
_MAY_CHANGE = ('mesh.', 'log.', 'report.', 'checkpoint.keep',
               'evaluation.workers', 'decoding.')


NO_SPACE = os.strerror(errno.ENOSPC)
# What is wrong with a user's model, data or options, before any work.
INPUT_ERRORS = (
    ValueError, OSError, ImportError, storage.Locked, processes.FirstFailed
)


RESUME = 75  # exit status: stopped from outside; the same command resumes
FULL = 74  # exit status: no room to write in
_stopped = threading.Event()
_asked = itertools.count()  # how often a stop has been asked for


def start() -> None:
  """Call once, before anything is compiled.

  One of several processes is told so by JAX_COORDINATOR_ADDRESS (host:port of
  the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
  """
  logging.set_verbosity(logging.WARNING)
  python_logging.getLogger('orbax').setLevel(python_logging.ERROR)
  warnings.filterwarnings('ignore', module='orbax')
  if '--xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    # XLA starts one thread for each fake device; collectives that are in flight
    # together would now and then wait for each other for ever.
    os.environ.setdefault('PJRT_NPROC', '32')
  if address := os.environ.get('JAX_COORDINATOR_ADDRESS'):
    jax.distributed.initialize(
        address, int(os.environ['JAX_NUM_PROCESSES']),
        int(os.environ['JAX_PROCESS_ID']),
    )
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(_CACHE / 'xla'))
  # The defaults skip programs as small as the embedded student's.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def stop_requested() -> bool:
  """Whether SIGTERM has come, within `resumable`.

  Several processes ask together: it may have come to any of them, and all get
  the same answer.
  """
  if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(
      next(_asked)
  ):
    _stopped.set()
  return _stopped.is_set()


def check_stop() -> None:
  """Ends the process if SIGTERM has come; call where everything is saved."""
  if stop_requested():
    print('stopped; the same command resumes', file=sys.stderr)
    sys.exit(RESUME)


@contextlib.contextmanager
def resumable(workdir: Any) -> Iterator[None]:
  """SIGTERM asks for a stop, and a full disk ends in words, not a traceback."""
  _stopped.clear()
  alone = jax.process_count() == 1  # of several, JAX waits for the signal
  if alone:
    before = signal.signal(signal.SIGTERM, lambda *_: _stopped.set())
  try:
    yield
  except Exception as e:
    # What Orbax writes with raises errors of its own.
    if getattr(e, 'errno', None) != errno.ENOSPC and NO_SPACE not in str(e):
      raise
    print(
        f'error: no space is left for {workdir}: make room, and the same command'
        ' resumes', file=sys.stderr,
    )
    sys.exit(FULL)
  finally:
    if alone:
      signal.signal(signal.SIGTERM, before)


def config_hash(c: Any) -> str:
  """Of everything that may not change when a run is resumed."""
  flat = json.dumps(_flat(json.loads(c.to_json())), sort_keys=True)
  return hashlib.sha256(flat.encode()).hexdigest()[:16]


@contextlib.contextmanager
def explained_errors(*kinds: type[Exception]) -> Iterator[None]:
  """Errors of these kinds become a message instead of a traceback."""
  try:
    yield
  except kinds as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(2)


def model_folder(path: str) -> str:
  """The folder of 'embedded', of a local path, or of a Hugging Face id.

  Raises:
    FileNotFoundError: neither a folder nor such an id.
  """
  if path == 'embedded':
    return str(embedded.STUDENT)
  folder = pathlib.Path(path).expanduser()
  if path and folder.is_dir():
    return str(folder)
  if path.count('/') != 1 or path.startswith(('.', '/', '~')):
    raise FileNotFoundError(
        f'model.path={path!r} is no folder and no Hugging Face id'
    )
  import huggingface_hub  # only a named id uses the network
  return huggingface_hub.snapshot_download(
      path, allow_patterns=['*.json', '*.safetensors', '*.txt', '*.jinja']
  )


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{key}.')
    elif not f'{prefix}{key}'.startswith(_MAY_CHANGE):
      flat[f'{prefix}{key}'] = value
  return flat


def keep_config(workdir: Any, c: Any) -> None:
  """Writes config.json; a run is resumed only under the config it began with.

  Raises:
    ValueError: naming the keys that differ.
  """
  file, new = workdir / 'config.json', json.loads(c.to_json())
  if file.exists():
    old, now = _flat(json.loads(file.read_text())), _flat(new)
    if changed := [k for k in sorted(old | now) if old.get(k) != now.get(k)]:
      listed = '\n'.join(
          f'  config.{k}: {old.get(k)!r} -> {now.get(k)!r}' for k in changed
      )
      raise ValueError(
          f'{workdir} holds a run with another config. Choose another'
          f' --workdir, or take these back to resume it:\n{listed}'
      )
  storage.publish(file, json.dumps(new, indent=2))
