"""Folders that others wrote and that others must be able to read."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.weights import saving
from tests.support import jobs
from tests.support import memory
from tests.support import paths

MODELS = (
    'qwen2-tiny', 'qwen2-tiny-untied', 'qwen3-tiny', 'llama-tiny', 'gemma3-tiny')
FAMILIES = ('qwen2-tiny', 'qwen3-tiny', 'llama-tiny')

load = functools.cache(weights.load)
forward = jax.jit(model.forward, static_argnames='config')


def folder(name):
  return paths.GOLDEN / 'models' / name


def tensors(path):
  return safetensors.numpy.load_file(path / 'model.safetensors')


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def copy(tmp_path):
  """A copy of qwen2-tiny, and a function that rewrites its tensors."""
  shutil.copytree(folder('qwen2-tiny'), tmp_path / 'copy')

  def rewrite(change):
    found = tensors(tmp_path / 'copy')
    change(found)
    safetensors.numpy.save_file(found, tmp_path / 'copy' / 'model.safetensors')
    return tmp_path / 'copy'

  return rewrite


@pytest.mark.parametrize('name', MODELS)
def test_round_trip_is_bit_exact(name, tmp_path):
  config, params = load(folder(name))
  weights.save(tmp_path, config, params)
  again_config, again = weights.load(tmp_path)
  assert_equal(again, params)
  assert again_config.rope_scaling == config.rope_scaling
  assert again_config.rope_theta == config.rope_theta
  # The files hold the same tensors as those that came.
  ours, theirs = tensors(tmp_path), tensors(folder(name))
  assert ours.keys() == theirs.keys()
  for key in ours:
    np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize('name', FAMILIES)
def test_saved_config_speaks_to_old_and_new_transformers(name, tmp_path):
  config, params = load(folder(name))
  weights.save(tmp_path, config, params)
  saved = json.loads((tmp_path / 'config.json').read_text())
  came = json.loads((folder(name) / 'config.json').read_text())
  assert saved['rope_theta'] == saved['rope_parameters']['rope_theta']
  assert saved['rope_theta'] == config.rope_theta
  if config.rope_scaling:
    assert saved['rope_scaling']['rope_type'] == 'llama3'
    assert saved['rope_parameters']['factor'] == config.rope_scaling.factor
  for field in ('architectures', 'eos_token_id', 'max_position_embeddings'):
    assert saved[field] == came[field]


def test_sharded_files_and_their_index(tmp_path, monkeypatch):
  config, params = load(folder('qwen2-tiny-untied'))
  monkeypatch.setattr(saving, 'SHARD_BYTES', 200_000)
  weights.save(tmp_path, config, params)
  files = sorted(tmp_path.glob('model-*.safetensors'))
  assert len(files) > 2
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert set(index['weight_map'].values()) == {file.name for file in files}
  sizes = [sum(x.nbytes for x in safetensors.numpy.load_file(f).values())
           for f in files]
  assert max(sizes) <= 200_000
  assert index['metadata']['total_size'] == sum(sizes)
  assert_equal(weights.load(tmp_path)[1], params)

  files[1].unlink()
  with pytest.raises(errors.InputError, match=files[1].name):
    weights.load(tmp_path)


def test_saving_holds_one_tensor_and_its_transposed_copy(tmp_path):
  config, params = load(folder('qwen2-tiny-untied'))
  largest = max(x.nbytes for x in tensors(folder('qwen2-tiny-untied')).values())
  with memory.peak_of_numpy(
      (processes, 'to_host'), (np, 'ascontiguousarray'), (storage, 'publish')
  ) as peak:
    weights.save(tmp_path, config, params)
  assert sum(x.nbytes for x in tensors(tmp_path).values()) > 4 * largest
  assert largest <= peak.bytes <= 2 * largest


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('shard_bytes', [None, 100_000])
def test_files_have_the_bits_of_the_safetensors_library(
    dtype, shard_bytes, tmp_path
):
  config, params = load(folder('qwen3-tiny'))
  weights.save(tmp_path, config, params, dtype=dtype, shard_bytes=shard_bytes)
  files = list(tmp_path.glob('*.safetensors'))
  assert len(files) > 3 if shard_bytes else len(files) == 1
  for file in files:
    expected = safetensors.numpy.save(
        safetensors.numpy.load_file(file), {'format': 'pt'})
    assert file.read_bytes() == expected


def test_a_file_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
  def full(file, parts):
    next(iter(parts))
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(storage, 'publish', full)
  config, params = load(folder('qwen2-loop'))
  with pytest.raises(OSError, match='No space left'):
    weights.save(tmp_path, config, params)


def test_two_processes_gather_together_and_the_first_writes(tmp_path):
  first, second = jobs.launch('save', tmp_path)
  largest = max(x.nbytes for x in tensors(jobs.MODEL).values())
  assert first['files'] > 2 and first['equal']
  assert largest <= first['peak'] <= 2 * largest
  assert second['files'] == 0  # none of its own
  assert second['peak'] <= largest  # it keeps no tensor


@pytest.mark.parametrize('sharded_first', [True, False])
def test_saving_over_an_older_model_leaves_no_trace_of_it(
    sharded_first, tmp_path, monkeypatch
):
  config, old = load(folder('qwen2-loop'))
  new = jax.tree.map(lambda x: x + 1, old)
  whole = saving.SHARD_BYTES
  for params, sharded in ((old, sharded_first), (new, not sharded_first)):
    monkeypatch.setattr(saving, 'SHARD_BYTES', 40_000 if sharded else whole)
    weights.save(tmp_path, config, params)
  assert_equal(weights.load(tmp_path)[1], new)
  # Readers differ in which of the two they prefer: only one may be there.
  index = tmp_path / 'model.safetensors.index.json'
  assert (tmp_path / 'model.safetensors').exists() != index.exists()


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_files_are_read_as_float32(dtype, tmp_path):
  config, params = load(folder('qwen2-loop'))
  weights.save(tmp_path, config, params, dtype=dtype)
  _, again = weights.load(tmp_path)
  assert_equal(again, jax.tree.map(
      lambda x: x.astype(dtype).astype(jnp.float32), params
  ))
  halves = (tmp_path / 'model.safetensors').stat().st_size
  full = (folder('qwen2-loop') / 'model.safetensors').stat().st_size
  assert halves < 0.55 * full


def test_tokenizer_is_saved_beside_the_weights(tmp_path):
  transformers = pytest.importorskip('transformers')
  tokenizer = transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')
  # Not Qwen2: for that model_type, transformers 5 puts its own pre-tokenizer in
  # place of the file's.
  config, params = load(folder('llama-tiny'))
  weights.save(tmp_path, config, params, tokenizer=tokenizer)
  again = transformers.AutoTokenizer.from_pretrained(tmp_path)
  text = '<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n'
  assert again.encode(text) == tokenizer.encode(text)
  assert again.chat_template == tokenizer.chat_template


def test_missing_and_misshapen_tensors_are_named_together(copy):
  def damage(found):
    del found['model.layers.1.mlp.up_proj.weight']
    del found['model.layers.2.self_attn.q_proj.bias']
    norm = found['model.norm.weight']
    found['model.norm.weight'] = np.concatenate([norm, norm])

  with pytest.raises(errors.InputError) as e:
    weights.load(copy(damage))
  for message in (
      '3 tensor(s)', 'model.layers.1.mlp.up_proj.weight is missing',
      'model.layers.2.self_attn.q_proj.bias is missing',
      'model.norm.weight is [128], not [64]',
  ):
    assert message in str(e.value)


def test_integers_are_refused(copy):
  def quantise(found):
    name = 'model.layers.0.mlp.up_proj.weight'
    found[name] = found[name].astype(np.int8)

  with pytest.raises(errors.InputError, match='up_proj.weight is I8, not a float'):
    weights.load(copy(quantise))


def test_quantised_models_are_refused_by_their_config(tmp_path):
  fields = json.loads((folder('qwen2-tiny') / 'config.json').read_text())
  fields['quantization_config'] = {'quant_method': 'awq', 'bits': 4}
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(errors.InputError, match='quantization_config'):
    weights.load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
  shutil.copy(folder('qwen2-tiny') / 'config.json', tmp_path)
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(errors.InputError, match='neither model.safetensors'):
    weights.load(tmp_path)


@pytest.mark.parametrize('damage', [
    lambda data: data[:-1], lambda data: data[:4], lambda data: b'',
    lambda data: b'\xff' * 8 + data[8:]],
    ids=['cut', 'cut in the header', 'empty', 'bad header'])
def test_a_file_that_is_not_whole_is_named(copy, damage):
  file = copy(lambda found: None) / 'model.safetensors'
  file.write_bytes(damage(file.read_bytes()))
  size = f'{file.stat().st_size:,} bytes'
  with pytest.raises(
      errors.InputError, match=f'copy/model.safetensors: not a whole.*{size}'):
    weights.load(file.parent)


@pytest.mark.parametrize('text', [
    '', '{', '[]', '{"metadata": {}}', '\xff', '{"weight_map": 7}',
    '{"weight_map": {}}', '{"weight_map": {"a": 7}}', '{"weight_map": {"a": ""}}',
    '{"weight_map": {"a": "model.bin"}}'])
def test_an_index_that_cannot_be_read_is_named(copy, text):
  index = copy(lambda found: None) / 'model.safetensors.index.json'
  (index.parent / 'model.safetensors').unlink()
  index.write_bytes(text.encode('latin1'))
  with pytest.raises(errors.InputError, match='index.json: not an index'):
    weights.load(index.parent)


@pytest.mark.parametrize('name', FAMILIES)
def test_eight_devices_hold_the_parameters_of_one(name, tmp_path):
  _, params = load(folder(name))
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  config, spread = weights.load(folder(name), mesh=mesh)
  assert_equal(spread, params)
  kernel = spread['layers']['mlp']['up']['kernel']  # [L, D, F]
  assert kernel.addressable_shards[0].data.shape == (3, 32, 80)
  weights.save(tmp_path, config, spread)  # gathers
  assert_equal(weights.load(tmp_path)[1], params)


@pytest.mark.parity
@pytest.mark.parametrize('name', FAMILIES)
def test_transformers_reads_what_we_save(name, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config, params = load(folder(name))
  weights.save(tmp_path, config, params)
  theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path, dtype='float32', output_loading_info=True
  )
  assert not any(info.values()), info
  ids = np.load(paths.GOLDEN / 'logits' / f'{name}.npz')['ids_long'][None]
  with torch.no_grad():
    expected = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
  logits, _ = forward(params, config, ids)
  np.testing.assert_allclose(logits, expected, atol=1e-3)


LLAMA3 = {
    'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 4.0,
    'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
    'original_max_position_embeddings': 64,
}


@pytest.mark.parity
@pytest.mark.parametrize('family, options', [
    ('qwen2', {'tie_word_embeddings': True}),
    ('qwen2', {'tie_word_embeddings': False}),
    ('qwen3', {'tie_word_embeddings': False, 'head_dim': 16}),
    ('llama', {'tie_word_embeddings': True, 'rope_parameters': LLAMA3}),
    ('llama', {'tie_word_embeddings': False, 'rope_parameters': LLAMA3}),
])
def test_we_read_what_transformers_saves(family, options, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  fields = transformers.AutoConfig.for_model(
      family, vocab_size=97, hidden_size=32, intermediate_size=48,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      initializer_range=0.3, max_position_embeddings=256, **options,
  )
  theirs = transformers.AutoModelForCausalLM.from_config(fields)
  theirs.save_pretrained(tmp_path)
  ids = np.random.default_rng(0).integers(0, 97, (1, 120))
  with torch.no_grad():
    expected = theirs(torch.tensor(ids)).logits.numpy()
  config, params = weights.load(tmp_path)
  logits, _ = forward(params, config, ids)
  np.testing.assert_allclose(logits, expected, atol=1e-3)
