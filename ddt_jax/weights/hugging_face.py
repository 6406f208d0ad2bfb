"""Hugging Face folders: safetensors <-> the parameter tree.

Reading is by slice: every device's shard of a stacked parameter is read from
the files directly, so no process holds more than one shard of one parameter
beside what its devices hold.
"""

import json
import tempfile
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import safetensors
import safetensors.numpy

from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage

INDEX = 'model.safetensors.index.json'
SHARD_BYTES = 5 * 2**30  # a file's size when saving, as in published checkpoints

# Our path -> Hugging Face's name. `{}` is the layer; kernels are transposed
# ([in, out] here, [out, in] there), tables [V, D] are not.
TABLE = {
    'embed/embedding': 'model.embed_tokens.weight',
    'final_norm/scale': 'model.norm.weight',
    'head/kernel': 'lm_head.weight',
    'layers/attn_norm/scale': 'model.layers.{}.input_layernorm.weight',
    'layers/mlp_norm/scale': 'model.layers.{}.post_attention_layernorm.weight',
    **{f'layers/attn/{n}/kernel': f'model.layers.{{}}.self_attn.{n}_proj.weight'
       for n in 'qkvo'},
    **{f'layers/mlp/{n}/kernel': f'model.layers.{{}}.mlp.{n}_proj.weight'
       for n in ('gate', 'up', 'down')},
}
FAMILY_TABLE = {
    'llama': {},
    'qwen2': {  # biases on q, k and v
        f'layers/attn/{n}/bias': f'model.layers.{{}}.self_attn.{n}_proj.bias'
        for n in 'qkv'
    },
    'qwen3': {  # a norm per head on q and k
        f'layers/attn/{n}_norm/scale':
            f'model.layers.{{}}.self_attn.{n}_norm.weight' for n in 'qk'
    },
}


def _transposed(path: str) -> bool:
  return path.startswith('layers/') and path.endswith('/kernel')


def _abstract(config: model.ModelConfig) -> dict[str, Any]:
  return jax.eval_shape(lambda: model.init(config, jax.random.key(0)))


def hf_names(config: model.ModelConfig) -> dict[str, list[str]]:
  """Our paths -> the tensors they are stacked from, in the order of layers."""
  table = TABLE | FAMILY_TABLE[config.model_type]
  names = {}
  for path, _ in jax.tree_util.tree_leaves_with_path(_abstract(config)):
    path = sharding.path_name(path)
    layers = range(config.num_layers) if path.startswith('layers/') else [0]
    names[path] = [table[path].format(i) for i in layers]
  return names


class _Files:
  """The tensors of a folder, by name, single file or sharded index."""

  def __init__(self, folder: epath.Path):
    index = folder / INDEX
    if index.exists():
      self._file = json.loads(index.read_text())['weight_map']
    elif (folder / 'model.safetensors').exists():
      with safetensors.safe_open(folder / 'model.safetensors', 'numpy') as f:
        self._file = dict.fromkeys(f.keys(), 'model.safetensors')
    else:
      raise FileNotFoundError(
          f'{folder}: neither model.safetensors nor its index is there'
          ' (pickled weights are not read)'
      )
    missing = {f for f in self._file.values() if not (folder / f).exists()}
    if missing:
      raise FileNotFoundError(f'{folder}: missing {sorted(missing)}')
    self._open = {
        f: safetensors.safe_open(folder / f, 'numpy')
        for f in set(self._file.values())
    }

  def __contains__(self, name: str) -> bool:
    return name in self._file

  def slice(self, name: str):
    return self._open[self._file[name]].get_slice(name)


def load(
    path: Any,
    *,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    remat: str = 'none',
) -> tuple[model.ModelConfig, dict[str, Any]]:
  """A decoder from a Hugging Face folder; parameters are upcast to float32.

  Args:
    path: local folder with config.json and safetensors.
    mesh: places each parameter by `sharding.RULES`; default one device of this
      process.
    dtype: compute dtype, default float32.
    remat: see `model.ModelConfig`.

  Returns:
    (config, params).

  Raises:
    FileNotFoundError, ValueError: naming the file or tensor, before any weight
      is read.
  """
  folder = storage.path(path)
  config = model.ModelConfig.from_hf(
      folder, dtype=dtype or 'float32', remat=remat
  )
  files, names = _Files(folder), hf_names(config)
  abstract = _abstract(config)
  _check(folder, files, names, abstract)
  mesh = mesh or sharding.make_mesh(devices=jax.local_devices()[:1])
  places = sharding.tree_shardings(abstract, mesh)

  def read(key_path, shape, place):
    path = sharding.path_name(key_path)
    return jax.make_array_from_callback(
        shape.shape, place,
        lambda index: _read(files, path, names[path], index),
    )

  return config, jax.tree_util.tree_map_with_path(read, abstract, places)


def _check(folder, files: _Files, names, abstract) -> None:
  """Every tensor is there, with its shape and a floating dtype."""
  problems = []
  for key_path, want in jax.tree_util.tree_leaves_with_path(abstract):
    path = sharding.path_name(key_path)
    shape = want.shape[1:] if path.startswith('layers/') else want.shape
    shape = shape[::-1] if _transposed(path) else shape
    for name in names[path]:
      if name not in files:
        problems.append(f'{name} is missing')
        continue
      found = files.slice(name)
      if tuple(found.get_shape()) != shape:
        problems.append(f'{name} is {found.get_shape()}, not {list(shape)}')
      elif found.get_dtype() not in ('F32', 'F16', 'BF16', 'F64'):
        problems.append(f'{name} is {found.get_dtype()}, not a float')
  if problems:
    shown = '\n  '.join(problems[:10])
    raise ValueError(
        f'{folder}: {len(problems)} tensor(s) do not fit config.json\n  {shown}'
    )


def _read(files: _Files, path: str, names: list[str], index) -> np.ndarray:
  """One device's shard of a (stacked) parameter, float32."""

  def part(name, index):
    index = index[::-1] if _transposed(path) else index
    x = files.slice(name)[index].astype(np.float32)
    return x.T if _transposed(path) else x

  if not path.startswith('layers/'):
    return part(names[0], index)
  return np.stack([part(name, index[1:]) for name in names[index[0]]])


def save(
    path: Any,
    config: model.ModelConfig,
    params: dict[str, Any],
    *,
    tokenizer: Any = None,
    dtype: str = 'float32',
) -> None:
  """Writes a folder that `transformers` (4 and 5) and `load` read.

  Args:
    path: a new or existing folder.
    config: its Hugging Face fields are written as they came; the rope fields
      in both shapes, as transformers 4 and 5 each read only their own.
    params: sharded or not; gathered one tensor at a time.
    tokenizer: saved beside the weights where given.
    dtype: float32 keeps a round trip bit-exact.
  """
  folder = storage.path(path)
  names = hf_names(config)
  shards, size = [{}], 0
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = sharding.path_name(key_path)
    stacked = name.startswith('layers/')
    for i, hf_name in enumerate(names[name]):
      x = leaf[i] if stacked else leaf
      x = processes.to_host(x.astype(jnp.dtype(dtype)))
      if not processes.is_first():
        continue  # and does not keep it
      if size + x.nbytes > SHARD_BYTES and shards[-1]:
        shards.append({})
        size = 0
      shards[-1][hf_name] = np.ascontiguousarray(
          x.T if _transposed(name) else x
      )
      size += x.nbytes

  def write():
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(folder, shards)
    storage.publish(
        folder / 'config.json', json.dumps(_hf_fields(config, dtype), indent=2)
    )
    if tokenizer is not None:
      with tempfile.TemporaryDirectory() as local:  # it cannot write to gs://
        tokenizer.save_pretrained(local)
        for file in epath.Path(local).iterdir():
          storage.publish(folder / file.name, file.read_bytes())

  processes.from_first(write)


def _write_shards(folder: epath.Path, shards: list[dict[str, Any]]) -> None:
  """One file, or several and their index; then removes an older model's."""
  count, weight_map = len(shards), {}
  for i, shard in enumerate(shards, 1):
    file = 'model.safetensors'
    if count > 1:
      file = f'model-{i:05d}-of-{count:05d}.safetensors'
    # transformers refuses a file without this metadata.
    data = safetensors.numpy.save(shard, {'format': 'pt'})
    storage.publish(folder / file, data)
    weight_map |= dict.fromkeys(shard, file)
  if count > 1:
    total = sum(x.nbytes for shard in shards for x in shard.values())
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    storage.publish(folder / INDEX, json.dumps(index, indent=2))
  else:
    (folder / INDEX).unlink(missing_ok=True)  # or it would be read instead
  for old in folder.glob('model*.safetensors'):
    if old.name not in weight_map.values():
      old.unlink()


def _hf_fields(config: model.ModelConfig, dtype: str) -> dict[str, Any]:
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
