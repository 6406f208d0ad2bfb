"""A run's folder: one owner at a time, one config, results that are made once."""

from collections.abc import Callable, Iterator
import contextlib
import hashlib
import json
import os
import shlex
import sys
import time
from typing import Any, TypeVar

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage
from experiments.run import lifecycle

T = TypeVar('T')
COMMAND = 'command.txt'  # the file with the command line that a run was called by

# A resumed run may differ from the interrupted one in these: where and how fast
# numbers are computed, and what is shown. Results change by rounding alone, which
# in bfloat16 can mean other samples.
_MAY_CHANGE = (
    'mesh.', 'log.', 'report.', 'write.keep', 'checkpoint.keep', 'verifier.workers',
    'decoding.slots', 'decoding.tensor', 'model.remat', 'train.micro_batches',
)


class Workdir:
  """JSON files of a run; every method may be called by several processes.

  Process 0 reads and writes; all of them get what it reads.
  """

  def __init__(self, folder: str | os.PathLike):
    self.path = storage.path(folder)

  def _file(self, name: str):
    return self.path / f'{name}.json'

  def has(self, name: str) -> bool:
    """Whether there is a <name>.json."""
    return processes.from_first(self._file(name).exists)

  def read(self, name: str) -> Any:
    """Returns the content of <name>.json.

    Raises:
      errors.InputError: there is no such file.
    """
    if not self.has(name):
      raise errors.InputError(
          f'{self._file(name)} is missing: restore it, or choose another'
          ' --workdir')
    return processes.from_first(
        lambda: json.loads(self._file(name).read_text()))

  def publish(self, name: str, text: str) -> None:
    """Writes <name>.json, whole or not at all."""
    processes.from_first(storage.publish, self._file(name), text)

  def remove(self, name: str) -> None:
    """Removes <name>.json, if it is there."""
    processes.from_first(self._file(name).unlink, missing_ok=True)

  def once(self, name: str, make: Callable[[], dict[str, Any]]) -> Any:
    """The content of <name>.json, which is made first if it is not there.

    Args:
      name: without the suffix; may contain folders.
      make: returns a JSON-able dict; the time it takes is added as `seconds`.
    """
    if not self.has(name):
      began = time.monotonic()
      content = make()
      content |= {'seconds': time.monotonic() - began}
      self.publish(name, json.dumps(content))
    # Also just after writing, so that a resumed run sees what the first one saw.
    return self.read(name)


@contextlib.contextmanager
def owned(
    c: Any, folder: str | os.PathLike, make: Callable[[Any], T]
) -> Iterator[T]:
  """Builds a command's inputs and holds the lock of its folder for the block.

  Wrong input, and a folder that another process owns or that holds a run of
  another config, end the process with one line; see `lifecycle.resumable` for
  what happens in the block.

  Args:
    c: the config, kept in the folder as config.json.
    folder: local or gs://.
    make: config -> inputs, e.g. `inputs.make`.
  """
  with contextlib.ExitStack() as stack:
    def own():
      # The lock before the config: two processes must not write it at once.
      stack.enter_context(storage.lock(folder))
      keep_config(folder, c)

    with lifecycle.explained_errors():
      # Inputs first: a wrong option then leaves no folder behind.
      ready = make(c)
      processes.from_first(own)
    stack.enter_context(lifecycle.resumable(folder))
    yield ready


def config_hash(c: Any) -> str:
  """Digest of the fields that may not change when a run is resumed."""
  flat = json.dumps(_fixed_fields(json.loads(c.to_json())), sort_keys=True)
  # 16 hexadecimal digits are 64 bits: enough to tell configs apart.
  return hashlib.sha256(flat.encode()).hexdigest()[:16]


def default_folder(command: str, c: Any) -> str:
  """Folder of a command's work where none is given, another for each config."""
  return f'runs/{command}/{c.name}-{config_hash(c)[:8]}'


def keep_config(folder: Any, c: Any) -> None:
  """Writes config.json and command.txt; refuses a run of another config.

  Raises:
    errors.InputError: naming the fields that differ.
  """
  file, new = folder / 'config.json', json.loads(c.to_json())
  if file.exists():
    old, now = _fixed_fields(json.loads(file.read_text())), _fixed_fields(new)
    if changed := [k for k in sorted(old | now) if old.get(k) != now.get(k)]:
      listed = '\n'.join(
          f'  config.{k}: {old.get(k)!r} -> {now.get(k)!r}' for k in changed
      )
      raise errors.InputError(
          f'{folder} holds a run with another config. Choose another --workdir'
          f' (curate: --out), or take these back to resume it:\n{listed}'
      )
  storage.publish(file, json.dumps(new, indent=2))
  storage.publish(folder / COMMAND, _command() + '\n')


def _command() -> str:
  """The command line of this process, as a user would type it."""
  spec = sys.modules['__main__'].__spec__  # None for a script, `python file.py`
  program = ['-m', spec.name] if spec else sys.argv[:1]
  return shlex.join(['python', *program, *sys.argv[1:]])


def _fixed_fields(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Dotted name -> value of all fields that may not change."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _fixed_fields(value, f'{prefix}{key}.')
    elif not f'{prefix}{key}'.startswith(_MAY_CHANGE):
      flat[f'{prefix}{key}'] = value
  return flat
