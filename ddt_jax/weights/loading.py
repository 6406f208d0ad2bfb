"""Reads a Hugging Face folder into the parameter tree."""

import dataclasses
import json
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.weights import names
from ddt_jax.weights import tensor_files

EMBEDDING, HEAD = (names.TABLE[p] for p in ('embed/embedding', 'head/kernel'))
FLOATS = ('F32', 'F16', 'BF16', 'F64')  # names of dtypes in a safetensors header
ROWS = 4096  # of a table, compared at a time
SMALL_FILES = (  # beside the weights, for the config and the tokenizer
    'config.json', 'generation_config.json', '*token*', 'vocab*', 'merges*',
    'chat_template*',
)


def load(
    path: Any,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    remat: str = 'none',
    param_dtype: str = 'float32',
) -> tuple[model.ModelConfig, dict[str, Any]]:
  """Loads a decoder from a Hugging Face folder.

  Each device's shard of a parameter comes straight from the files. Beside the
  arrays on its devices, a process holds one shard of one parameter. Files and
  tensors of the folder that the model does not need are named in a warning.

  Args:
    path: local folder with config.json and safetensors.
    mesh: devices to place the parameters on, by `sharding.RULES`; default one
      device of this process.
    dtype: compute dtype, default float32.
    remat: see `model.ModelConfig`.
    param_dtype: of the parameters; the compute dtype saves memory where they are
      not trained.

  Returns:
    (config, params).

  Raises:
    errors.InputError: a file is missing or unreadable, or tensors do not fit
      config.json. All such tensors are named before any weight is read.
  """
  config, files, table, abstract = _checked(storage.path(path))
  config = dataclasses.replace(config, dtype=dtype or 'float32', remat=remat)
  mesh = mesh or sharding.make_mesh(devices=jax.local_devices()[:1])

  def read(key_path, leaf, place):
    name = sharding.path_name(key_path)
    # The callback gets the slices of one shard of this process, and reads no more.
    return jax.make_array_from_callback(
        leaf.shape, place,
        lambda index: _read(files, name, table[name], index).astype(
            jnp.dtype(param_dtype), copy=False))

  shardings = sharding.tree_shardings(abstract, mesh)
  return config, jax.tree_util.tree_map_with_path(read, abstract, shardings)


def open(path: Any) -> tuple[model.ModelConfig, dict[str, Any]]:
  """Opens a Hugging Face folder as by `load`, and reads no weight yet.

  Args:
    path: local folder with config.json and safetensors.

  Returns:
    (config, params): leaves have a shape; `leaf[i]` of stacked layers reads one of
    them, `np.asarray(leaf)` all, in float32.

  Raises:
    errors.InputError: see `load`.
  """
  config, files, table, abstract = _checked(storage.path(path))

  def stored(key_path, leaf):
    name = sharding.path_name(key_path)
    return _Stored(files, name, table[name], leaf.shape)

  return config, jax.tree_util.tree_map_with_path(stored, abstract)


@dataclasses.dataclass(frozen=True)
class _Stored:
  """A parameter in its files: their tensors, and its shape, stacked or not."""

  files: tensor_files.TensorFiles
  path: str
  tensors: list[str]
  shape: tuple[int, ...]

  def __getitem__(self, layer: int) -> np.ndarray:
    index = slice(layer, layer + 1), *(slice(None),) * (len(self.shape) - 1)
    return _read(self.files, self.path, self.tensors, index)[0]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    index = (slice(None),) * len(self.shape)
    return np.asarray(_read(self.files, self.path, self.tensors, index), dtype)


def _checked(folder):
  """Config, files, tensors behind each parameter, and shapes, checked."""
  config = check_folder(folder)
  files = tensor_files.TensorFiles(folder)
  if config.num_layers > len(files):  # before a list of all names is built
    raise errors.InputError(
        f'{folder}/config.json: num_hidden_layers is {config.num_layers}, but there'
        f' are only {len(files)} tensors'
    )
  config = _untie(folder, files, config)
  table, abstract = _table(files, config), names.abstract(config)
  _check(folder, files, table, abstract)
  if files.unread:
    _warn(f'{folder}: {_some(files.read)} is read; not read: {_some(files.unread)}')
  if unused := [x for x in _unused(files, table) if x != HEAD]:
    _warn(f'{folder}: {len(unused)} tensor(s) are not used: {_some(unused)}')
  return config, files, table, abstract


def check_folder(path: Any) -> model.ModelConfig:
  """Refuses a folder whose small files already say that `load` would fail.

  Readers of the tokenizer use config.json too, and fail in other words: call
  this function before them.

  Args:
    path: the folder.

  Returns:
    Its config.

  Raises:
    errors.InputError: config.json cannot be used; an adapter is not merged; or
      git has left pointers in the place of files.
  """
  folder = storage.path(path)
  if folder.is_dir():
    storage.refuse_pointers(
        file for kind in SMALL_FILES for file in sorted(folder.glob(kind)))
  config = model.ModelConfig.from_hf(folder)
  # Reading the base alone would silently score and train another model.
  if adapter := sorted(f.name for f in folder.glob('adapter_[cm]*')):
    raise errors.InputError(
        f'{folder}: an adapter stands beside its base ({", ".join(adapter)});'
        ' merge the two (peft: model.merge_and_unload(), then save_pretrained),'
        ' or move these files away to use the base alone'
    )
  return config


def _untie(folder, files: tensor_files.TensorFiles, config: model.ModelConfig):
  """The config; untied where the file has a head that is not the embedding.

  transformers 5 believes the tensors, not `tie_word_embeddings`.
  """
  if not config.tied_head or not {EMBEDDING, HEAD} <= set(files):
    return config
  if _equal(files.slice(EMBEDDING), files.slice(HEAD),
            (config.vocab_size, config.width)):
    return config
  _warn(f'{folder}: tie_word_embeddings is true, but {HEAD} and {EMBEDDING} differ:'
        ' the head is read as a parameter of its own, as by transformers 5')
  return untied(config)


def untied(config: model.ModelConfig) -> model.ModelConfig:
  """Returns the config with a head of its own."""
  # Also in `hf`, or a saved copy would be tied when it is read again.
  fields = json.loads(config.hf) | {'tie_word_embeddings': False}
  return dataclasses.replace(config, tied_head=False, hf=json.dumps(fields))


def _equal(a, b, shape: tuple[int, int]) -> bool:
  """Whether two tables hold the same numbers; reads some rows at a time."""
  for x in (a, b):
    # `_check` names a tensor that cannot be read.
    if tuple(x.get_shape()) != shape or x.get_dtype() not in FLOATS:
      return False
  for start in range(0, shape[0], ROWS):
    rows = slice(start, min(start + ROWS, shape[0]))  # past the end is an error
    if not np.array_equal(*(x[rows].astype(np.float32) for x in (a, b))):
      return False
  return True


def _table(files: tensor_files.TensorFiles, config) -> dict[str, list[str]]:
  """The tensors behind each parameter, by their names in these files."""
  table = names.hf_names(config)
  if config.tied_head and EMBEDDING not in files and HEAD in files:
    table['embed/embedding'] = [HEAD]  # some writers keep the head of the two
  return table


def _check(folder, files: tensor_files.TensorFiles, table, abstract) -> None:
  """Raises unless every tensor exists with its shape and a floating dtype."""
  problems, missing = [], []
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
    path = sharding.path_name(key_path)
    shape = leaf.shape[1:] if names.is_stacked(path) else leaf.shape
    shape = shape[::-1] if names.is_transposed(path) else shape
    for name in table[path]:
      if name not in files:
        problems.append(f'{name} is missing')
        missing.append(name)
        continue
      tensor = files.slice(name)
      if tuple(tensor.get_shape()) != shape:
        problems.append(f'{name} is {tensor.get_shape()}, not {list(shape)}'
                        f'{files.place(name)}')
      elif tensor.get_dtype() not in FLOATS:
        problems.append(f'{name} is {tensor.get_dtype()}, not a float'
                        f'{files.place(name)}')
  if problems:
    hint = _hint(missing, _unused(files, table))
    raise errors.InputError(
        f'{folder}: {len(problems)} tensor(s) do not fit config.json:'
        f' {_some(problems)}{hint}'
    )


def _hint(missing: list[str], unused: list[str]) -> str:
  """Words on what to do about the tensors."""
  if not missing:
    return '; take config.json and the weights from one model'
  if missing == [HEAD]:
    return ('; if the embedding is the head too, set tie_word_embeddings to true in'
            ' config.json')
  for name in missing:
    for other in unused:
      if other.endswith(f'.{name}') or other.endswith(
          f'.{name.removeprefix("model.")}'):
        return f'; is {other} meant? Rename the tensors as Hugging Face does'
  return f'; the folder also holds {_some(unused)}' if unused else ''


def _unused(files: tensor_files.TensorFiles, table) -> list[str]:
  """Tensors that no parameter is read from, other than known buffers."""
  used = {name for group in table.values() for name in group}
  return [name for name in files
          if name not in used and not names.is_buffer(name)]


def _some(things: list[str], count: int = 4) -> str:
  more = len(things) - count
  return ', '.join(things[:count]) + (f' and {more} more' if more > 0 else '')


def _warn(text: str) -> None:
  if processes.is_first():
    logging.warning('%s', text)


def _read(
    files: tensor_files.TensorFiles, path: str, tensors: list[str], index
) -> np.ndarray:
  """One device's shard of a (stacked) parameter, float32."""

  def part(name, index):
    index = index[::-1] if names.is_transposed(path) else index
    x = files.slice(name)[index].astype(np.float32)
    return x.T if names.is_transposed(path) else x

  if not names.is_stacked(path):
    return part(tensors[0], index)
  # index[0] slices the layers, each of which is a tensor of its own.
  return np.stack([part(name, index[1:]) for name in tensors[index[0]]])
