"""Writes the parameter tree as a Hugging Face folder.

Tensors are gathered and written one after another, so a process holds one tensor
at a time, whatever the size of the model and of its files.
"""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import json
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.model import families
from ddt_jax.weights import kept_files
from ddt_jax.weights import names
from ddt_jax.weights import tensor_files

SHARD_BYTES = 5 * 2**30  # most bytes of tensors per file, as in published models


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A tensor to write: its name there, its leaf here, and the layer if stacked."""

  name: str
  path: str
  leaf: Any
  layer: int | None
  shape: tuple[int, ...]
  nbytes: int


def save(
    path: Any,
    config: model.ModelConfig,
    params: dict[str, Any],
    *,
    tokenizer: Any = None,
    source: Any = None,
    dtype: str | None = None,
    shard_bytes: int | None = None,
    progress: bool = False,
) -> None:
  """Writes a folder that `load`, `transformers` (4 and 5) and vLLM read.

  Each process holds one tensor at a time. All processes must call this function,
  because gathering is collective.

  Args:
    path: a new or existing folder, local or gs://. Older weights in it are
      replaced.
    config: its Hugging Face fields are written unchanged, except that rope is
      written in both formats: transformers 4 and 5 read only their own.
      generation_config.json lists its `eos_ids`.
    params: arrays, sharded or not; or arrays of a checkpoint that are read as
      they are written, see `checkpoint.Checkpoints.open`.
    tokenizer: saved beside the weights, unless `source` has its files.
    source: the folder that the parameters were loaded from. Its tokenizer, chat
      template, generation_config.json and licence are kept.
    dtype: of the files; default the source's, or float32 without a source, which
      makes a round trip bit-exact.
    shard_bytes: most bytes of tensors per file; default `SHARD_BYTES`.
    progress: show a progress bar.

  Raises:
    OSError: a file cannot be written.
  """
  folder = storage.path(path)
  if dtype is None:
    dtype = source_dtype(source) if source is not None else 'float32'
  files = plan_files(_tensors(config, params, dtype), shard_bytes)
  count = sum(map(len, files.values()))
  with tqdm.tqdm(
      total=count, desc='write tensors', disable=not progress
  ) as bar:
    # All processes plan the same files, from shapes alone, and gather in one order.
    for name, tensors in files.items():
      _write(folder / name, tensors, dtype, bar)
  processes.from_first(
      publish_rest, folder, config, files, dtype, tokenizer=tokenizer,
      source=source)


def source_dtype(source: Any) -> str:
  """Returns the dtype of most numbers in the weights of a Hugging Face folder."""
  return tensor_files.TensorFiles(storage.path(source)).dtype()


def _tensors(config, params, dtype: str) -> Iterable[_Tensor]:
  """The tensors in the order of the parameter tree; looks at shapes alone."""
  table, width = names.hf_names(config), jnp.dtype(dtype).itemsize
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    path = sharding.path_name(key_path)
    stacked = names.is_stacked(path)
    shape = tuple(leaf.shape[1:] if stacked else leaf.shape)
    nbytes = int(np.prod(shape)) * width
    shape = shape[::-1] if names.is_transposed(path) else shape
    for i, name in enumerate(table[path]):
      yield _Tensor(name, path, leaf, i if stacked else None, shape, nbytes)


def plan_files(
    tensors: Iterable[Any], shard_bytes: int | None = None
) -> dict[str, list[Any]]:
  """File name -> its tensors, sorted by name, as the safetensors library does.

  Args:
    tensors: with `name` and `nbytes`.
    shard_bytes: most bytes of a file, unless one tensor has more; default
      `SHARD_BYTES`.
  """
  groups, size = [[]], 0
  for tensor in tensors:
    if groups[-1] and size + tensor.nbytes > (shard_bytes or SHARD_BYTES):
      groups.append([])
      size = 0
    groups[-1].append(tensor)
    size += tensor.nbytes
  groups, n = [sorted(g, key=lambda t: t.name) for g in groups], len(groups)
  if n == 1:
    return {tensor_files.FILE: groups[0]}
  return {f'model-{i:05d}-of-{n:05d}.safetensors': group
          for i, group in enumerate(groups, 1)}


def _write(
    file: epath.Path, tensors: list[_Tensor], dtype: str, bar: tqdm.tqdm
) -> None:
  """Writes a file in process 0; the others help to gather its tensors."""
  arrays, error = _gathered(tensors, dtype, bar), None
  if processes.is_first():
    try:
      publish_file(file, tensors, arrays, dtype)
    except Exception as e:
      error = e
  if jax.process_count() > 1:
    # The others gather here. After an error so does process 0, or they would wait
    # for it forever.
    collections.deque(arrays, maxlen=0)
  processes.from_first(_raise, error)


def publish_file(
    file: epath.Path, tensors: list[Any], arrays: Iterator[np.ndarray], dtype: str
) -> None:
  """Writes a safetensors file, holding one array at a time.

  Args:
    file: local or gs://.
    tensors: with `name`, `shape` and `nbytes`.
    arrays: theirs, contiguous, in the same order.
    dtype: of all arrays.
  """
  def parts():
    yield tensor_files.header(
        {t.name: (t.shape, t.nbytes) for t in tensors}, dtype)
    for x in arrays:
      # As bytes: Python's buffers know no bfloat16.
      yield x.reshape(-1).view(np.uint8).data
      del x  # or it would be held while the next one is gathered

  storage.publish(file, parts())


def _raise(error: Exception | None) -> None:
  if error is not None:
    raise error


def _gathered(
    tensors: list[_Tensor], dtype: str, bar: tqdm.tqdm
) -> Iterator[np.ndarray]:
  """The tensors one after the other, whole, in every process."""
  for tensor in tensors:
    # One layer at a time: gathering the stack would hold all layers on the host.
    x = tensor.leaf if tensor.layer is None else tensor.leaf[tensor.layer]
    if isinstance(x, jax.Array):
      # Cast on the device, so that bfloat16 halves the bytes that are gathered.
      x = processes.to_host(x.astype(jnp.dtype(dtype)))
    else:  # read from a checkpoint
      x = np.asarray(x).astype(jnp.dtype(dtype), copy=False)
    # The file has the memory as it is, so a transposed view must be copied.
    x = np.ascontiguousarray(x.T if names.is_transposed(tensor.path) else x)
    yield x
    del x
    bar.update()


def publish_rest(
    folder: epath.Path, config: model.ModelConfig, files: dict[str, list[Any]],
    dtype: str, *, tokenizer: Any = None, source: Any = None,
) -> None:
  """The index, if there are several files, and the small files; config.json last."""
  if len(files) > 1:
    # Readers prefer a single file to the index.
    (folder / tensor_files.FILE).unlink(missing_ok=True)
    total = sum(t.nbytes for tensors in files.values() for t in tensors)
    weight_map = {t.name: file for file, tensors in files.items() for t in tensors}
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    storage.publish(folder / tensor_files.INDEX, json.dumps(index, indent=2))
  else:
    (folder / tensor_files.INDEX).unlink(missing_ok=True)
  # Left by an older save with another number of files.
  for old in folder.glob('model*.safetensors'):
    if old.name not in files:
      old.unlink()
  for name, data in kept_files.of(source, tokenizer).items():
    storage.publish(folder / name, data)
  storage.publish(
      folder / kept_files.GENERATION, kept_files.generation(source, config))
  # Last: without it no reader takes the folder for a model.
  fields = _hf_fields(config, dtype)
  storage.publish(folder / 'config.json', json.dumps(fields, indent=2))


def _hf_fields(config: model.ModelConfig, dtype: str) -> dict[str, Any]:
  """The fields of config.json for these weights, readable by transformers 4 and 5."""
  fields = json.loads(config.hf)
  scaling = config.rope_scaling and {
      'rope_type': 'llama3', **dataclasses.asdict(config.rope_scaling)
  }

  def rope(theta, scaling=None):
    return {'rope_type': 'default', **(scaling or {}), 'rope_theta': theta}

  result = fields | {
      'dtype': dtype,  # transformers 5; 4 reads torch_dtype
      'torch_dtype': dtype,
      'rope_theta': config.rope_theta,
      'rope_scaling': scaling,
      'rope_parameters': rope(config.rope_theta, scaling),
  }
  if config.model_type == families.GEMMA:  # transformers 5 has one object a type of layer
    result['rope_local_base_freq'] = config.local_rope_theta
    result['rope_parameters'] = {
        families.FULL: rope(config.rope_theta),
        families.SLIDING: rope(config.local_rope_theta),
    }
  return result
