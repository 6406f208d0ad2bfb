"""Adapters <-> the folder that PEFT writes and vLLM serves.

  adapter_config.json        rank, alpha, the adapted layers, the base
  adapter_model.safetensors  A and B of each layer, transposed as PyTorch has them
"""

import json
import re
from typing import Any

from etils import epath
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import storage

CONFIG, FILE = 'adapter_config.json', 'adapter_model.safetensors'
_NAME = 'base_model.model.model.layers.{layer}.{part}.{target}.lora_{side}.weight'
_PARTS = {'attn': 'self_attn', 'mlp': 'mlp'}
# Fields of PEFT that change what an adapter computes, with the values read here.
# A field that is missing has the first value.
_SUPPORTED = {
    'bias': ('none',), 'use_dora': (False,), 'fan_in_fan_out': (False,),
    'modules_to_save': (None, []), 'rank_pattern': ({}, None),
    'alpha_pattern': ({}, None), 'lora_bias': (False,), 'alora_invocation_tokens':
    (None,), 'trainable_token_indices': (None,), 'target_parameters': (None, []),
    'layer_replication': (None,), 'exclude_modules': (None, []),
}


def save_adapter(
    path: Any, config: model.ModelConfig, adapters: lora.Adapters, *, base: str
) -> None:
  """Writes a folder that `load_adapter` and `peft` read.

  All processes must call this function, because gathering is collective.

  Args:
    path: of the folder, local or gs://; older files in it are replaced.
    config: of the base.
    adapters: sharded or not; written in float32.
    base: Hugging Face id or folder of the base model, for the readers.
  """
  folder = storage.path(path)
  tensors = {}
  for target, a, b in adapters:
    pair = {side: processes.to_host(x) for side, x in (('A', a), ('B', b))}
    for name, layer, side in _names(config, target):
      # safetensors writes memory as it is: a transposed view must be copied.
      tensors[name] = np.ascontiguousarray(
          np.asarray(pair[side][layer], np.float32).T)
  fields = {
      'peft_type': 'LORA', 'task_type': 'CAUSAL_LM',
      'base_model_name_or_path': base, 'r': adapters.rank,
      'lora_alpha': adapters.alpha, 'use_rslora': adapters.rslora,
      'target_modules': [target for target, *_ in adapters],
      'lora_dropout': 0.0, 'bias': 'none', 'fan_in_fan_out': False,
      'inference_mode': True, 'init_lora_weights': True, 'use_dora': False,
      'modules_to_save': None, 'rank_pattern': {}, 'alpha_pattern': {},
  }
  processes.from_first(_publish, folder, tensors, fields)


def load_adapter(path: Any, config: model.ModelConfig) -> lora.Adapters:
  """Reads a folder that PEFT or `save_adapter` wrote.

  Args:
    path: of the folder.
    config: of the base, whose shapes the adapters must have.

  Raises:
    errors.InputError: a file is missing or damaged, a tensor is missing or has
      another shape, or the adapter is of a kind that is not supported; names the
      file and the field or tensor.
  """
  folder = storage.path(path)
  fields = _read_config(folder / CONFIG)
  tensors = _read_tensors(folder / FILE)
  layers: dict[str, Any] = {}
  for target, (part, linear) in lora.TARGETS.items():
    if not any(f'.{target}.' in name for name in tensors):
      continue
    stacked = {'A': [], 'B': []}
    for name, _, side in _names(config, target):
      if name not in tensors:
        raise errors.InputError(f'{folder / FILE}: {name} is missing')
      stacked[side].append(tensors.pop(name).T)
    layers.setdefault(part, {})[linear] = {
        f'lora_{side.lower()}': jnp.asarray(
            _stack(folder / FILE, config, target, side, xs, fields['r']))
        for side, xs in stacked.items()}
  if tensors or not layers:
    unknown = next(iter(tensors), 'no tensor of an adapter')
    raise errors.InputError(
        f'{folder / FILE}: {unknown} is not of a linear layer of this model'
        f' ({config.num_layers} layers; {", ".join(lora.TARGETS)})')
  return lora.Adapters(
      layers, fields['r'], float(fields['lora_alpha']),
      bool(fields.get('use_rslora', False)))


def _names(config: model.ModelConfig, target: str):
  """Yields (PEFT's name, layer, side) of each tensor of an adapted layer."""
  part = _PARTS[lora.TARGETS[target][0]]
  for layer in range(config.num_layers):
    for side in 'AB':
      yield _NAME.format(
          layer=layer, part=part, target=target, side=side), layer, side


def _publish(folder: epath.Path, tensors, fields) -> None:
  storage.publish(folder / FILE, safetensors.numpy.save(tensors, {'format': 'pt'}))
  # Last: a folder with a config is complete.
  storage.publish(folder / CONFIG, json.dumps(fields, indent=2) + '\n')


def _read_config(file: epath.Path) -> dict[str, Any]:
  if not file.is_file():
    raise errors.InputError(f'{file} is missing; a PEFT folder has one')
  storage.refuse_pointers([file])
  try:
    fields = json.loads(file.read_text())
    known = fields['peft_type'] == 'LORA'
    sound = int(fields['r']) >= 1 and float(fields['lora_alpha']) > 0
  except (ValueError, TypeError, KeyError):
    known, sound = True, False
  if not known:
    raise errors.InputError(
        f'{file}: peft_type={fields["peft_type"]!r}; only LORA is read')
  if not sound:
    raise errors.InputError(
        f'{file}: not the config of a LoRA adapter (peft_type, r and lora_alpha)')
  for name, values in _SUPPORTED.items():
    if (value := fields.get(name, values[0])) not in values:
      raise errors.InputError(
          f'{file}: {name}={value!r} is not supported; merge the adapter into its'
          ' base (peft: model.merge_and_unload()) and load that folder')
  return fields


def _read_tensors(file: epath.Path) -> dict[str, np.ndarray]:
  if not file.is_file():
    raise errors.InputError(
        f'{file} is missing (pickled adapter_model.bin is not read)')
  storage.refuse_pointers([file])
  try:
    tensors = safetensors.numpy.load(file.read_bytes())
  except (safetensors.SafetensorError, KeyError) as e:
    raise errors.InputError(
        f'{file}: not a whole safetensors file ({e}); copy it again') from None
  # torch.compile and DDP put prefixes of their own into names.
  return {re.sub(r'(_orig_mod|module)\.', '', n): x for n, x in tensors.items()}


def _stack(file, config, target: str, side: str, xs, rank: int) -> np.ndarray:
  """[L, in, rank] or [L, rank, out], float32, its shape checked."""
  fan_in, out = lora.shape(config, target)
  want = (fan_in, rank) if side == 'A' else (rank, out)
  for layer, x in enumerate(xs):
    if x.shape != want:
      raise errors.InputError(
          f'{file}: {target}.lora_{side} of layer {layer} has the shape'
          f' {x.shape[::-1]}, not {want[::-1]}; is this adapter of another base?')
  return np.stack(xs).astype(np.float32)
