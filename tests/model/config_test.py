"""config.json as transformers 5 reads it, or one line that names file and field."""

import dataclasses
import json

import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax.model import config_fields
from tests.support import paths


def fields(name, **changes):
  path = paths.GOLDEN / 'models' / name / 'config.json'
  return json.loads(path.read_text()) | changes


def test_both_shapes_of_config_json_mean_the_same():
  v5 = fields('llama-tiny')
  rope = v5.pop('rope_parameters')
  theta = rope.pop('rope_theta')
  hub = v5 | {'rope_theta': theta, 'rope_scaling': rope}
  a = model.ModelConfig.from_hf(fields('llama-tiny'))
  b = model.ModelConfig.from_hf(hub)
  assert a.rope_theta == 500000 and a.rope_scaling.factor == 8
  assert dataclasses.replace(a, hf='') == dataclasses.replace(b, hf='')

  hub = fields('qwen2-tiny')
  v5 = {k: v for k, v in hub.items() if k not in ('rope_theta', 'rope_scaling')}
  v5['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 1e6}
  a, b = model.ModelConfig.from_hf(hub), model.ModelConfig.from_hf(v5)
  assert a.rope_theta == 1e6 and a.rope_scaling is None
  assert dataclasses.replace(a, hf='') == dataclasses.replace(b, hf='')


def test_config_is_read_from_a_folder_a_file_or_its_fields():
  folder = paths.GOLDEN / 'models' / 'qwen3-tiny'
  configs = {
      model.ModelConfig.from_hf(source)
      for source in (folder, str(folder / 'config.json'), fields('qwen3-tiny'))
  }
  (config,) = configs  # equal, and hashable
  assert config.head_dim == 24 and config.qk_norm and config.tied_head
  assert config.eos_ids == (479,)


@pytest.mark.parametrize('eos, ids', [(7, (7,)), ([7, 8], (7, 8)), (None, ())])
def test_eos_token_ids_come_in_three_forms(eos, ids):
  config = model.ModelConfig.from_hf(fields('qwen2-tiny', eos_token_id=eos))
  assert config.eos_ids == ids


YARN = {'rope_type': 'yarn', 'factor': 4.0, 'rope_theta': 1e4}


@pytest.mark.parametrize('name, changes, reason', [
    ('qwen2-tiny', {'model_type': 'gpt2'}, "model_type 'gpt2'"),
    ('qwen2-tiny', {'model_type': None}, 'model_type is null'),
    ('qwen2-tiny', {'hidden_act': 'gelu'}, "hidden_act 'gelu'"),
    ('qwen2-tiny', {'quantization_config': {'bits': 4}}, 'quantization_config'),
    ('qwen2-tiny', {'use_sliding_window': True}, 'use_sliding_window'),
    ('qwen3-tiny', {'layer_types': ['sliding_attention'] * 3}, 'layer_types'),
    ('llama-tiny', {'attention_bias': True}, 'attention_bias'),
    ('qwen3-tiny', {'attention_bias': True}, 'attention_bias'),
    ('llama-tiny', {'mlp_bias': True}, 'mlp_bias'),
    ('qwen2-tiny', {'rope_scaling': {'type': 'yarn', 'factor': 4.0}}, 'yarn'),
    ('qwen2-tiny', {'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}},
     'linear'),
    ('llama-tiny', {'rope_parameters': YARN}, 'yarn'),
    ('llama-tiny', {'rope_parameters': {
        'rope_theta': 1e4, 'partial_rotary_factor': 0.5}}, 'partial rotary'),
    ('qwen2-tiny', {'partial_rotary_factor': 0.5}, 'partial rotary'),
])
def test_models_that_forward_would_get_wrong_are_refused(name, changes, reason):
  with pytest.raises(errors.InputError, match=reason):
    model.ModelConfig.from_hf(fields(name, **changes))


def test_errors_name_the_field_and_the_file(tmp_path):
  lacking = fields('qwen2-tiny')
  del lacking['hidden_size']
  (tmp_path / 'config.json').write_text(json.dumps(lacking))
  with pytest.raises(errors.InputError, match=f'{tmp_path}.*hidden_size'):
    model.ModelConfig.from_hf(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(errors.InputError, match='config.json: not found'):
    model.ModelConfig.from_hf(tmp_path)
  with pytest.raises(errors.InputError, match="remat='some'"):
    model.ModelConfig.from_hf(fields('qwen2-tiny'), remat='some')


ROPE = ('rope_theta', 'rope_scaling', 'rope_parameters')


def read_rope(family, **changes):
  hf = {k: v for k, v in fields(family).items() if k not in ROPE}
  config = model.ModelConfig.from_hf(hf | changes)
  return config.rope_theta, config.rope_scaling


def inner(theta=None, kind='default', **more):
  return ({'rope_type': kind} if kind else {}) | (
      {} if theta is None else {'rope_theta': theta}) | more


@pytest.mark.parametrize('changes, theta', [
    (dict(), 1e4),
    (dict(rope_theta=5e5), 5e5),
    (dict(rope_theta=500000), 5e5),
    (dict(rope_scaling=inner(5e5)), 5e5),
    (dict(rope_scaling=inner(5e5, kind=None)), 5e5),
    (dict(rope_scaling=inner(5e5), rope_theta=2e4), 5e5),
    (dict(rope_scaling=inner(5e5), rope_theta=None), 5e5),
    (dict(rope_scaling={'type': 'default'}, rope_theta=2e4), 2e4),
    (dict(rope_scaling={}, rope_theta=2e4), 2e4),
    (dict(rope_parameters=inner(3e4)), 3e4),
    (dict(rope_parameters=inner(3e4), rope_theta=2e4), 3e4),
    (dict(rope_parameters=inner(), rope_theta=2e4), 2e4),
    (dict(rope_parameters=inner(3e4), rope_scaling=inner(5e5)), 5e5),
    (dict(rope_parameters=inner(3e4), rope_scaling=inner(), rope_theta=2e4), 2e4),
    (dict(rope_parameters=inner(3e4), rope_scaling=None, rope_theta=2e4), 3e4),
])
@pytest.mark.parametrize('family', ['qwen2-tiny', 'qwen3-tiny', 'llama-tiny'])
def test_rope_theta_comes_from_the_inner_object_first(family, changes, theta):
  assert read_rope(family, **changes) == (theta, None)


LLAMA3 = dict(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=512,
)


def test_the_original_context_comes_from_the_outer_field_first():
  rope = inner(5e5, 'llama3', **LLAMA3)
  lacking = {k: v for k, v in rope.items() if k != 'original_max_position_embeddings'}

  def original(rope, **changes):
    scaling = read_rope('llama-tiny', rope_scaling=rope, **changes)[1]
    return scaling.original_max_position_embeddings

  assert original(rope) == 512
  assert original(rope, original_max_position_embeddings=256) == 256
  assert original(lacking) == fields('llama-tiny')['max_position_embeddings']
  old = {'type': 'llama3', **LLAMA3}
  assert read_rope('llama-tiny', rope_scaling=old, rope_theta=5e5) == read_rope(
      'llama-tiny', rope_parameters=rope)


@pytest.mark.parametrize('rope, said', [
    ({'full_attention': inner(7e4)}, 'rope for each type of layer.*full_attention'),
    (inner(None, None, rope_type=None), 'rope_type is null'),
    (inner('5e5'), 'rope_theta is "5e5", not a number'),
    (inner(0), 'rope_theta is 0, not finite and above 0'),
    (inner(None, 'llama3'), 'low_freq_factor. is missing'),
    (inner(1e4, 'llama3', **LLAMA3 | {'factor': None}), 'factor is null'),
    (inner(1e4, 'llama3', **LLAMA3 | {'low_freq_factor': 4}), 'below high_freq'),
    (7, 'rope_scaling is 7, not an object'),
])
def test_ropes_that_cannot_be_computed_are_refused_by_their_field(rope, said):
  with pytest.raises(errors.InputError, match=said):
    read_rope('llama-tiny', rope_scaling=rope)


NUMBERS = (
    'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers',
    'num_attention_heads', 'rms_norm_eps', 'max_position_embeddings', 'rope_theta',
    'initializer_range', 'num_key_value_heads', 'head_dim',
)
FLAGS = ('tie_word_embeddings', 'use_sliding_window', 'attention_bias', 'mlp_bias')
WRONG = {'null': None, 'text': '64', 'list': [64], 'object': {'n': 64},
         'negative': -1, 'infinite': float('inf'), 'huge': 10**400}


FITS = {('null', 'num_key_value_heads'), ('null', 'head_dim'),
        ('text', 'hidden_act'), ('text', 'model_type'),
        *(('true', flag) for flag in FLAGS)}


@pytest.mark.parametrize('kind, name', [
    (kind, name) for kind in (*WRONG, 'true')
    for name in (*NUMBERS, *FLAGS, 'hidden_act', 'model_type')
    if (kind, name) not in FITS
])
def test_a_field_that_is_null_or_mistyped_is_named_with_its_file(
    kind, name, tmp_path
):
  hf = fields('llama-tiny') | {name: WRONG.get(kind, True)}
  hf.pop('rope_parameters')
  (tmp_path / 'config.json').write_text(json.dumps(hf))
  with pytest.raises(errors.InputError) as e:
    model.ModelConfig.from_hf(tmp_path)
  assert str(e.value).startswith(f'{tmp_path}/config.json: {name} is ')
  assert '\n' not in str(e.value) and len(str(e.value)) < 300


@pytest.mark.parametrize('name', ['num_key_value_heads', 'head_dim', 'rope_scaling',
                                  'layer_types', 'eos_token_id',
                                  'quantization_config', 'partial_rotary_factor'])
def test_null_stands_for_the_default_where_it_is_written_so(name):
  hf = fields('llama-tiny')
  lacking = {k: v for k, v in hf.items() if k != name}
  a, b = map(model.ModelConfig.from_hf, (hf | {name: None}, lacking))
  assert dataclasses.replace(a, hf='') == dataclasses.replace(b, hf='')


def test_qwen3_alone_has_a_default_width_of_heads():
  hf = fields('qwen3-tiny')
  del hf['head_dim']
  assert model.ModelConfig.from_hf(hf).head_dim == 128
  assert model.ModelConfig.from_hf(hf | {'model_type': 'llama'}).head_dim == (
      hf['hidden_size'] // hf['num_attention_heads'])


@pytest.mark.parametrize('changes, said', [
    ({'num_key_value_heads': 3}, 'num_key_value_heads is 3, not a divisor'),
    ({'head_dim': 15}, 'head_dim 15 is odd'),
    ({'hidden_size': 66}, 'hidden_size is 66, not a multiple'),
    ({'eos_token_id': [7, '8']}, 'eos_token_id is'),
    ({'eos_token_id': True}, 'eos_token_id is true'),
    ({'layer_types': 'full_attention'}, 'layer_types is .*not a list'),
    ({'layer_types': [1]}, 'layer_types is .*not a list of text'),
    ({'vocab_size': 2**31}, 'vocab_size is 2147483648'),
])
def test_fields_that_do_not_fit_each_other_are_named(changes, said):
  with pytest.raises(errors.InputError, match=said):
    model.ModelConfig.from_hf(fields('qwen2-tiny', **changes))


@pytest.mark.parametrize('data, said', [
    (b'', 'not JSON'), (b'{"model_type": ', 'not JSON'), (b'[]', 'not a JSON object'),
    (b'"llama"', 'not a JSON object'), (b'null', 'not a JSON object'),
    (b'\xff\xfe{}', 'not JSON'), (b'[' * 100_000, 'not JSON'),
    (b'{"vocab_size": ' + b'9' * 5000 + b'}', 'not JSON'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 661\n',
     r'661 bytes.*git lfs pull'),
], ids=['empty', 'cut', 'list', 'text', 'null', 'utf-16', 'nested', 'digits', 'lfs'])
def test_a_config_json_that_is_no_object_is_named(data, said, tmp_path):
  (tmp_path / 'config.json').write_bytes(data)
  with pytest.raises(errors.InputError, match=f'{tmp_path}/config.json.*{said}'):
    model.ModelConfig.from_hf(tmp_path)


def test_an_adapter_alone_is_named_as_one(tmp_path):
  (tmp_path / 'adapter_config.json').write_text('{}')
  with pytest.raises(errors.InputError, match='an adapter .*merge'):
    model.ModelConfig.from_hf(tmp_path)


def test_long_values_are_cut():
  with pytest.raises(errors.InputError) as e:
    config_fields.Fields({'a': ['x' * 999]}).integer('a')
  assert len(str(e.value)) < 100
