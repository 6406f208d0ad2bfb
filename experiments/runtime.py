"""What commands share: caches, quiet libraries, the run's config, errors."""

from collections.abc import Iterator
import contextlib
import json
import logging as python_logging
import os
import pathlib
import sys
from typing import Any
import warnings

from absl import logging
import jax

from ddt_jax import embedded
from ddt_jax import storage

_CACHE = pathlib.Path(
    os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache')
) / 'ddt_jax'

# What a resumed run may do otherwise than the one that was interrupted.
_MAY_CHANGE = ('mesh.', 'log.', 'report.', 'checkpoint.keep',
               'evaluation.workers', 'decoding.')


# What is wrong with a user's model, data or options, before any work.
INPUT_ERRORS = (ValueError, OSError, ImportError, storage.Locked)


def start() -> None:
  """Call once, before anything is compiled."""
  logging.set_verbosity(logging.WARNING)
  python_logging.getLogger('orbax').setLevel(python_logging.ERROR)
  warnings.filterwarnings('ignore', module='orbax')
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(_CACHE / 'xla'))
  # The defaults skip programs as small as the embedded student's.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


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
