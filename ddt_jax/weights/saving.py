"""Writes the parameter tree as a Hugging Face folder.

Saving gathers and writes one file after another, so no process holds more than
one file's tensors.
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
import safetensors.numpy

from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.weights import names
from ddt_jax.weights import tensor_files

SHARD_BYTES = 5 * 2**30  # most bytes of tensors per file, as in published models


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
  files = plan_files(_tensors(config, params, dtype))
  # All processes plan the same files, from shapes alone, and gather in one order.
  for name, tensors in files.items():
    shard = _gather(tensors, dtype)
    processes.from_first(publish_shard, folder / name, shard)
    del shard  # before the next file is gathered
  processes.from_first(publish_rest, folder, config, files, tokenizer, dtype)


def _tensors(config, params, dtype: str) -> Iterable[_Tensor]:
  """The tensors in the order of the parameter tree; looks at shapes alone."""
  table, width = names.hf_names(config), jnp.dtype(dtype).itemsize
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    path = sharding.path_name(key_path)
    stacked = names.is_stacked(path)
    nbytes = leaf.size * width // (len(leaf) if stacked else 1)
    for i, name in enumerate(table[path]):
      yield _Tensor(name, path, leaf, i if stacked else None, nbytes)


def plan_files(tensors: Iterable[_Tensor]) -> dict[str, list[_Tensor]]:
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
    return {tensor_files.FILE: groups[0]}
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
  # One layer at a time: gathering the stack would hold all layers on the host.
  leaf = tensor.leaf if tensor.layer is None else tensor.leaf[tensor.layer]
  # Cast on the device, so that bfloat16 halves the bytes that are gathered.
  x = processes.to_host(leaf.astype(jnp.dtype(dtype)))
  # safetensors writes the memory as it is, so a transposed view must be copied.
  return np.ascontiguousarray(x.T if names.is_transposed(tensor.path) else x)


def publish_shard(file: epath.Path, shard: dict[str, np.ndarray]) -> None:
  # transformers refuses a file without this metadata.
  data = safetensors.numpy.save(shard, {'format': 'pt'})
  shard.clear()  # `data` is a second copy: free the first before uploading
  storage.publish(file, data)


def publish_rest(folder, config, files, tokenizer, dtype: str) -> None:
  """The index, if there are several files, config.json and the tokenizer."""
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
  if tokenizer is not None:
    with tempfile.TemporaryDirectory() as local:  # it cannot write to gs://
      tokenizer.save_pretrained(local)
      for file in epath.Path(local).iterdir():
        storage.publish(folder / file.name, file.read_bytes())
  # Last: a folder with this file is complete.
  fields = _hf_fields(config, dtype)
  storage.publish(folder / 'config.json', json.dumps(fields, indent=2))


def _hf_fields(config: model.ModelConfig, dtype: str) -> dict[str, Any]:
  """The fields of config.json for these weights, readable by transformers 4 and 5."""
  fields = json.loads(config.hf)
  scaling = config.rope_scaling and {
      'rope_type': 'llama3', **dataclasses.asdict(config.rope_scaling)
  }
  return fields | {
      'dtype': dtype,  # transformers 5; 4 reads torch_dtype
      'torch_dtype': dtype,
      'rope_theta': config.rope_theta,
      'rope_scaling': scaling,
      'rope_parameters': {
          'rope_type': 'default', **(scaling or {}),
          'rope_theta': config.rope_theta,
      },
  }
