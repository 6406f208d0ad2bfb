"""Hugging Face folders: safetensors <-> the parameter tree.

Loading reads by slice: each device's shard of a parameter comes straight from the
files. Beside the arrays on its devices, a process holds one shard of one
parameter. Saving gathers and writes one file after another, so no process holds
more than one file's tensors.
"""

from collections.abc import Iterable
import dataclasses
import json
import tempfile
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.weights import names

FILE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
SHARD_BYTES = 5 * 2**30  # most bytes of tensors per file, as in published models


# Loading ----------------------------------------------------------------------


def load(
    path: Any,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    remat: str = 'none',
) -> tuple[model.ModelConfig, dict[str, Any]]:
  """Loads a decoder from a Hugging Face folder; parameters become float32.

  Args:
    path: local folder with config.json and safetensors.
    mesh: devices to place the parameters on, by `sharding.RULES`; default one
      device of this process.
    dtype: compute dtype, default float32.
    remat: see `model.ModelConfig`.

  Returns:
    (config, params).

  Raises:
    errors.InputError: a file is missing or unreadable, or tensors do not fit
      config.json. All such tensors are named before any weight is read.
    ValueError, FileNotFoundError: config.json; see `model.ModelConfig.from_hf`.
  """
  folder = storage.path(path)
  config = model.ModelConfig.from_hf(
      folder, dtype=dtype or 'float32', remat=remat
  )
  files, table = _Files(folder), names.hf_names(config)
  abstract = names.abstract(config)
  _check(folder, files, table, abstract)
  mesh = mesh or sharding.make_mesh(devices=jax.local_devices()[:1])

  def read(key_path, leaf, place):
    name = sharding.path_name(key_path)
    return jax.make_array_from_callback(
        leaf.shape, place, lambda index: _read(files, name, table[name], index)
    )

  shardings = sharding.tree_shardings(abstract, mesh)
  return config, jax.tree_util.tree_map_with_path(read, abstract, shardings)


class _Files:
  """The tensors of a folder by name, from one file or from an index of several."""

  def __init__(self, folder: epath.Path):
    """Opens the files and reads their headers.

    Raises:
      errors.InputError: a file is missing or cannot be read.
    """
    index = folder / INDEX
    if index.exists():
      self._file = _read_index(index)
    elif (folder / FILE).exists():
      self._file = dict.fromkeys(_open(folder / FILE).keys(), FILE)
    else:
      raise errors.InputError(
          f'{folder}: neither {FILE} nor its index is there'
          ' (pickled weights are not read)'
      )
    missing = {f for f in self._file.values() if not (folder / f).exists()}
    if missing:
      raise errors.InputError(
          f'{folder}: missing {sorted(missing)}; download the folder again'
      )
    self._open = {f: _open(folder / f) for f in set(self._file.values())}

  def __contains__(self, name: str) -> bool:
    return name in self._file

  def slice(self, name: str):
    """The tensor, of which nothing is read before it is indexed."""
    return self._open[self._file[name]].get_slice(name)


def _open(file: epath.Path) -> safetensors.safe_open:
  try:
    return safetensors.safe_open(file, 'numpy')
  except safetensors.SafetensorError as e:
    raise errors.InputError(
        f'{file}: not a whole safetensors file ({e}); download it again'
    ) from None


def _read_index(index: epath.Path) -> dict[str, str]:
  """Tensor -> file."""
  try:
    return json.loads(index.read_text())['weight_map']
  except (ValueError, TypeError, KeyError):
    raise errors.InputError(
        f'{index}: not an index of safetensors; download it again'
    ) from None


def _check(folder, files: _Files, table, abstract) -> None:
  """Raises unless every tensor exists with its shape and a floating dtype."""
  problems = []
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
    path = sharding.path_name(key_path)
    shape = leaf.shape[1:] if names.is_stacked(path) else leaf.shape
    shape = shape[::-1] if names.is_transposed(path) else shape
    for name in table[path]:
      if name not in files:
        problems.append(f'{name} is missing')
        continue
      tensor = files.slice(name)
      if tuple(tensor.get_shape()) != shape:
        problems.append(f'{name} is {tensor.get_shape()}, not {list(shape)}')
      elif tensor.get_dtype() not in ('F32', 'F16', 'BF16', 'F64'):
        problems.append(f'{name} is {tensor.get_dtype()}, not a float')
  if problems:
    shown = '\n  '.join(problems[:10])
    raise errors.InputError(
        f'{folder}: {len(problems)} tensor(s) do not fit config.json\n  {shown}'
    )


def _read(files: _Files, path: str, tensors: list[str], index) -> np.ndarray:
  """One device's shard of a (stacked) parameter, float32."""

  def part(name, index):
    index = index[::-1] if names.is_transposed(path) else index
    x = files.slice(name)[index].astype(np.float32)
    return x.T if names.is_transposed(path) else x

  if not names.is_stacked(path):
    return part(tensors[0], index)
  return np.stack([part(name, index[1:]) for name in tensors[index[0]]])


# Saving -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A tensor to write: its name there, its leaf here, and the layer if stacked."""

  name: str
  path: str
  leaf: jax.Array
  layer: int | None
  nbytes: int


def save(
    path: Any,
    config: model.ModelConfig,
    params: dict[str, Any],
    *,
    tokenizer: Any = None,
    dtype: str = 'float32',
) -> None:
  """Writes a folder that `load` and `transformers` (4 and 5) read.

  Process 0 holds the tensors of one file of at most `SHARD_BYTES`, and their
  serialised copy; the other processes hold one tensor. All processes must call
  this function, because gathering is collective.

  Args:
    path: a new or existing folder, local or gs://. Older weights in it are
      replaced.
    config: its Hugging Face fields are written unchanged, except that rope is
      written in both formats: transformers 4 and 5 read only their own.
    params: sharded or not.
    tokenizer: saved beside the weights where given.
    dtype: of the files; float32 makes a round trip bit-exact.
  """
  folder = storage.path(path)
  files = _plan_files(_tensors(config, params, dtype))
  for name, tensors in files.items():
    shard = _gather(tensors, dtype)
    processes.from_first(_publish_shard, folder / name, shard)
    del shard  # before the next file is gathered
  processes.from_first(_publish_rest, folder, config, files, tokenizer, dtype)


def _tensors(config, params, dtype: str) -> Iterable[_Tensor]:
  """The tensors in the order of the parameter tree; looks at shapes alone."""
  table, width = names.hf_names(config), jnp.dtype(dtype).itemsize
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    path = sharding.path_name(key_path)
    stacked = names.is_stacked(path)
    nbytes = leaf.size * width // (len(leaf) if stacked else 1)
    for i, name in enumerate(table[path]):
      yield _Tensor(name, path, leaf, i if stacked else None, nbytes)


def _plan_files(tensors: Iterable[_Tensor]) -> dict[str, list[_Tensor]]:
  """File name -> its tensors: as many as fit into `SHARD_BYTES`, at least one."""
  groups, size = [[]], 0
  for tensor in tensors:
    if groups[-1] and size + tensor.nbytes > SHARD_BYTES:
      groups.append([])
      size = 0
    groups[-1].append(tensor)
    size += tensor.nbytes
  n = len(groups)
  if n == 1:
    return {FILE: groups[0]}
  return {f'model-{i:05d}-of-{n:05d}.safetensors': group
          for i, group in enumerate(groups, 1)}


def _gather(tensors: list[_Tensor], dtype: str) -> dict[str, np.ndarray]:
  """A file's tensors in process 0; empty in the others, which help to gather."""
  shard = {}
  for tensor in tensors:
    x = _gather_one(tensor, dtype)
    if processes.is_first():
      shard[tensor.name] = x
    del x  # or it would live on while the next one is gathered
  return shard


def _gather_one(tensor: _Tensor, dtype: str) -> np.ndarray:
  leaf = tensor.leaf if tensor.layer is None else tensor.leaf[tensor.layer]
  x = processes.to_host(leaf.astype(jnp.dtype(dtype)))
  # safetensors writes the memory as it is, so a transposed view must be copied.
  return np.ascontiguousarray(x.T if names.is_transposed(tensor.path) else x)


def _publish_shard(file: epath.Path, shard: dict[str, np.ndarray]) -> None:
  # transformers refuses a file without this metadata.
  data = safetensors.numpy.save(shard, {'format': 'pt'})
  shard.clear()  # `data` is a second copy: free the first before uploading
  storage.publish(file, data)


def _publish_rest(folder, config, files, tokenizer, dtype: str) -> None:
  """The index, if there are several files, config.json and the tokenizer."""
  if len(files) > 1:
    total = sum(t.nbytes for tensors in files.values() for t in tensors)
    weight_map = {t.name: file for file, tensors in files.items() for t in tensors}
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    storage.publish(folder / INDEX, json.dumps(index, indent=2))
  else:
    (folder / INDEX).unlink(missing_ok=True)  # readers prefer it to the file
  for old in folder.glob('model*.safetensors'):
    if old.name not in files:
      old.unlink()
  fields = _hf_fields(config, dtype)
  storage.publish(folder / 'config.json', json.dumps(fields, indent=2))
  if tokenizer is not None:
    with tempfile.TemporaryDirectory() as local:  # it cannot write to gs://
      tokenizer.save_pretrained(local)
      for file in epath.Path(local).iterdir():
        storage.publish(folder / file.name, file.read_bytes())


def _hf_fields(config: model.ModelConfig, dtype: str) -> dict[str, Any]:
  """The fields of config.json for these weights, readable by transformers 4 and 5."""
  fields = json.loads(config.hf)
  scaling = fields.get('rope_scaling') or {
      k: v for k, v in (fields.get('rope_parameters') or {}).items()
      if k != 'rope_theta'
  }
  if scaling.get('rope_type', 'default') == 'default':
    scaling = None
  return fields | {
      'dtype': dtype,
      'torch_dtype': dtype,
      'rope_theta': config.rope_theta,
      'rope_scaling': scaling,
      'rope_parameters': {
          'rope_type': 'default', **(scaling or {}),
          'rope_theta': config.rope_theta,
      },
  }
