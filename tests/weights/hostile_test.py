"""200 damaged folders: each is read rightly, or refused in one line."""

import dataclasses
import functools
import json
import random

import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import weights
from tests.support import folders
from tests.support import paths

CASES = 200
VALUES = (
    None, True, False, 0, -1, 3, 7, 65, 2**31, 10**30, 10**400, 0.5, 1e30,
    float('nan'), float('inf'), '', '64', 'silu', [], [64], [None], ['full_attention'],
    {}, {'rope_type': 'default'}, {'rope_type': 'yarn'}, {'rope_theta': 'x'},
    {'a': {'rope_theta': 1.0}},
)
# The field of our config for each that may change without contradicting the
# tensors; heads are counted by their product with `head_dim` alone.
FREE = {
    'max_position_embeddings': 'max_positions', 'rope_theta': 'rope_theta',
    'rms_norm_eps': 'norm_eps', 'initializer_range': 'init_std',
    'eos_token_id': 'eos_ids', 'num_attention_heads': 'num_heads',
    'num_key_value_heads': 'num_kv_heads', 'head_dim': 'head_dim',
    'tie_word_embeddings': 'tied_head',
}
READ = (*FREE, 'model_type', 'vocab_size', 'hidden_size', 'intermediate_size',
        'num_hidden_layers', 'hidden_act', 'use_sliding_window', 'attention_bias',
        'mlp_bias', 'layer_types', 'quantization_config', 'rope_scaling',
        'rope_parameters', 'partial_rotary_factor')

golden = functools.cache(
    lambda: weights.load(paths.GOLDEN / 'models' / 'qwen2-tiny'))


def config_field(rng, folder):
  name = rng.choice(READ)
  folder.config(**{name: rng.choice(VALUES)})
  return f'config.json: {name}', {FREE.get(name)}


def config_without_field(rng, folder):
  file = folder.path / 'config.json'
  fields = json.loads(file.read_text())
  name = rng.choice(sorted(fields))
  del fields[name]
  file.write_text(json.dumps(fields))
  return f'config.json without {name}', {FREE.get(name)}


def config_cut(rng, folder):
  file = folder.path / 'config.json'
  data = file.read_bytes().rstrip()
  file.write_bytes(data[:rng.randrange(len(data))])
  return 'config.json cut', set()


def header_flipped(rng, folder):
  file = folder.path / folders.WHOLE
  data = bytearray(file.read_bytes())
  end = 8 + int.from_bytes(data[:8], 'little')
  for _ in range(rng.randint(1, 3)):
    data[rng.randrange(end)] ^= 1 << rng.randrange(8)
  file.write_bytes(data)
  return 'header', set()


def file_cut(rng, folder):
  file = folder.path / folders.WHOLE
  data = file.read_bytes()
  file.write_bytes(data[:rng.choice((rng.randrange(9), rng.randrange(len(data))))])
  return 'file cut', set()


def renamed(rng, folder):
  tensors = folder.tensors()
  name = rng.choice(sorted(tensors))
  at = rng.randrange(len(name))
  new = rng.choice((
      f'student.{name}', name[at:], name[:at], name[:at] + '.' + name[at:],
      f'_orig_mod.{name}', name.replace('model.', ''), name.upper(), ''))
  tensors.setdefault(new, tensors.pop(name))
  folder.write(tensors)
  return f'{name} as {new!r}', set()


def another_type(rng, folder):
  tensors = folder.tensors()
  name = rng.choice(sorted(tensors))
  kind = rng.choice(('float64', 'int8', 'int32', 'uint8', 'bool', 'complex64'))
  tensors[name] = tensors[name].astype(kind)
  folder.write(tensors)
  return f'{name} as {kind}', set()


def another_shape(rng, folder):
  tensors = folder.tensors()
  name = rng.choice(sorted(tensors))
  x = tensors[name]
  tensors[name] = rng.choice((
      x[None], x[:-1], x[:0], x.reshape(-1, 1), np.concatenate([x, x]),
      np.zeros((), np.float32)))
  folder.write(tensors)
  return f'{name} of {tensors[name].shape}', set()


def index_changed(rng, folder):
  where = folder.split()
  name = rng.choice(sorted(where))
  change = rng.choice((
      *where.values(), 'none.safetensors', '', '..', '../copy', 'config.json', 7,
      None, [], '\0.safetensors', 'x' * 999 + '.safetensors', 'delete', 'extra'))
  if change == 'delete':
    del where[name]
  elif change == 'extra':
    where['model.extra.weight'] = where[name]
  else:
    where[name] = change
  folder.index(where)
  return f'index: {name} in {change!r}', set()


def shard_cut_or_gone(rng, folder):
  file = folder.path / rng.choice(sorted(set(folder.split().values())))
  data = file.read_bytes()
  file.unlink()
  if rng.random() < 0.7:
    file.write_bytes(data[:rng.randrange(len(data))])
  return f'{file.name} cut', set()


DAMAGES = (
    config_field, config_field, config_without_field, config_cut, header_flipped,
    header_flipped, file_cut, renamed, another_type, another_shape, index_changed,
    index_changed, shard_cut_or_gone,
)


def changed_fields(config) -> set[str]:
  ours, theirs = (dataclasses.asdict(c) | {'hf': ''} for c in (config, golden()[0]))
  return {k for k in ours if ours[k] != theirs[k]}


def test_damaged_folders_are_read_rightly_or_refused_in_one_line(tmp_path):
  rng = random.Random(20260)
  read = 0
  for i in range(CASES):
    folder = folders.Folder(tmp_path / f'{i}')
    case, free = rng.choice(DAMAGES)(rng, folder)
    try:
      config, params = weights.load(folder.path)
    except errors.InputError as e:
      message = str(e)
      assert str(folder.path) in message and '\n' not in message, (case, message)
      assert len(message) < 1000, case
      continue
    except Exception as e:
      pytest.fail(f'case {i}, {case}: {type(e).__name__}: {e}')
    read += 1
    assert changed_fields(config) <= free, case
    jax.tree.map(np.testing.assert_array_equal, params, golden()[1])
  assert CASES / 20 < read < CASES / 2  # both ends are reached
