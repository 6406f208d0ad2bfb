"""The command that compiles for TPUs: tables, errors and, with the compiler, figures."""

import importlib.util
import json

import jax
from jax.sharding import PartitionSpec as P
import pytest

from configs import idft
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.model import published
from experiments import compile_tpu
from experiments.run import model_files
from experiments.tpu import chips
from experiments.tpu import programs
from tests.support import commands
from tests.support import paths

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="the TPU compiler is not installed: pip install -e '.[tpu]'",
)


def test_a_topology_names_its_chip():
  assert chips.of('v5p:2x2x2') is chips.CHIPS['v5p']
  assert chips.host_bounds('v5e:4x8') == (2, 2, 1)
  assert chips.host_bounds('v5p:2x2x2') == (2, 2, 1)
  assert chips.host_bounds('v5e:1x1') == (1, 1, 1)
  for name in ('v5e', 'h100:1x1', 'v5e:4xfour', ''):
    with pytest.raises(ValueError, match='v5e:4x8'):
      chips.of(name)


@pytest.mark.parametrize('name, parameters', [
    ('Qwen2.5-0.5B', 494_032_768), ('Qwen2.5-1.5B', 1_543_714_304),
    ('Qwen2.5-7B', 7_615_616_512), ('SmolLM2-135M', 134_515_008),
    ('Qwen3-1.7B', 1_720_574_976), ('Qwen3-8B', 8_190_735_360),
    ('Llama-3.2-1B', 1_235_814_400), ('Llama-3.1-8B', 8_030_261_248),
    ('gemma-3-1b', 999_885_952),
])
def test_models_by_name_have_the_parameters_of_their_published_weights(
    name, parameters
):
  config = model.ModelConfig.from_hf(published.fields(name))
  shapes = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_a_model_is_a_name_a_folder_or_a_file():
  folder = paths.GOLDEN / 'models' / 'qwen2-tiny'
  for path in ('Qwen2.5-0.5B', str(folder), str(folder / 'config.json')):
    assert model.ModelConfig.from_hf(published.fields(path)).num_layers > 1
  assert published.fields('Qwen/Qwen2.5-7B-Instruct') is published.SIZES['Qwen2.5-7B']
  for unknown in ('Qwen/Qwen2.5-72B-Instruct', 'a/b/Qwen2.5-7B'):
    with pytest.raises(ValueError, match='Qwen2.5-7B'):
      published.fields(unknown)


def test_bytes_a_chip_follow_the_sharding():
  mesh = sharding.make_mesh(data=2, fsdp=4)
  tree = [
      jax.ShapeDtypeStruct(
          (8, 12), 'bfloat16', sharding=jax.sharding.NamedSharding(mesh, spec))
      for spec in (P(), P('fsdp'), P(('data', 'fsdp')))
  ]
  assert compile_tpu.bytes_a_chip(tree) == 2 * (8 * 12 + 2 * 12 + 12)


def test_figures_add_up():
  # On this machine's own devices: the same program, another compiler.
  mesh = sharding.make_mesh(fsdp=8)
  where = jax.sharding.NamedSharding(mesh, P('fsdp'))
  x = jax.ShapeDtypeStruct((64, 32), 'float32', sharding=where)
  compiled = jax.jit(lambda x: (x @ x.T).sum(), in_shardings=where).lower(x).compile()
  part = programs.Part('it', compiled, {'x': x})
  found = compile_tpu.figures(part, chips.Chip(1e9, 1e9, 1e9))
  assert found['hbm']['x'] == 8 * 32 * 4
  assert found['hbm_total'] == sum(found['hbm'].values()) and found['fits']
  assert found['flops'] == 2 * 8 * 32 * 64
  assert found['seconds'] == max(found['flops'], found['bytes']) / 1e9
  assert found['outside'] and not found['in_loops']
  tight = compile_tpu.figures(part, chips.Chip(1e9, 1e9, 10.0))
  assert not tight['fits']


def test_numbers_are_scaled():
  assert compile_tpu.scaled(457.4e12, 'FLOP') == '457.40 TFLOP'
  assert compile_tpu.scaled(15.75 * 2**30, 'B', 1024) == '15.75 GiB'
  assert compile_tpu.scaled(0, 'B') == '0.00 B'


def run(*options, **kwargs):
  return commands.run('experiments.compile_tpu', *options, timeout=600, **kwargs)


@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is not None,
    reason='the TPU compiler is installed')
def test_a_missing_compiler_is_said_in_words():
  done = run(check=False)
  assert done.returncode == 2
  assert "pip install -e '.[tpu]'" in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('option, words', [
    ('--topology=v9:2x2', 'v5e:4x8'),
    ('--parts=head,tail', "'tail'"),
])
def test_a_wrong_option_is_said_in_words(option, words):
  done = run(option, check=False)
  assert done.returncode == 2 and words in done.stderr
  assert 'Traceback' not in done.stderr


def compiled(*options):
  done = run(*options)
  lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith('{')]
  return {x['part']: x for x in lines}


LONG = (
    '--config.model.dtype=bfloat16', '--config.model.remat=full',
    '--config.data.max_tokens=4096',
)


@needs_compiler
def test_the_streamed_head_holds_no_logits():
  found = compiled(
      '--topology=v5e:1x1', '--parts=head', '--config.train.batch=2',
      '--config.model.path=Qwen2.5-0.5B', *LONG)
  product = 2 * 8192 * 896 * 151936
  held, streamed, tiles = (
      found[f'head, {way}'] for way in
      ('logits held', 'streamed', 'tiles of tokens'))
  assert held['hbm']['temporaries'] > 9.9e9
  assert streamed['hbm']['temporaries'] < 0.3e9
  assert held['flops'] == tiles['flops'] == 3 * product
  # The last, smaller chunk's logits are computed once.
  assert streamed['flops'] == pytest.approx(4 * product, rel=1e-3)
  assert tiles['loops_by_data'] == 1 and tiles['counted_as'] == 4


@needs_compiler
def test_a_streamed_divergence_holds_no_logits():
  found = compiled(
      '--topology=v5e:1x1', '--parts=divergence', '--config.train.batch=2',
      '--config.model.path=Qwen2.5-0.5B', *LONG)
  product = 2 * 8192 * 896 * 151936
  streamed, tiles, small = (
      found[f'divergence, {way}'] for way in
      ('streamed', 'tiles of tokens', 'tiles of 128 tokens'))
  assert streamed['hbm']['temporaries'] < 0.3e9
  # Two tiles of logits, beyond the gradient of the head in float32.
  assert small['hbm']['temporaries'] - 4 * 151936 * 896 < 0.3e9
  assert tiles['flops'] == small['flops'] == 4 * product
  # The last, smaller chunk's logits are computed once.
  assert streamed['flops'] == pytest.approx(6 * product, rel=2e-3)


@needs_compiler
def test_a_head_over_eight_chips_is_gathered_once():
  found = compiled(
      '--topology=v5e:2x4', '--parts=head', '--config.train.batch=16',
      '--config.model.path=Qwen2.5-0.5B', *LONG)
  for way in ('streamed', 'tiles of tokens'):
    part = found[f'head, {way}']
    assert not part['in_loops']
    assert part['outside']['all-gather'] == {
        'count': 1, 'bytes': 151936 * 896 * 2}


@needs_compiler
def test_long_rows_are_attended_to_by_the_kernel():
  found = compiled(
      '--topology=v5e:2x4', '--parts=train', '--config.data.max_tokens=1024')
  config = model.ModelConfig.from_hf(published.fields(str(model_files.model_folder(
      'embedded'))))
  rows = 32 // 8  # of a chip
  product = 2 * rows * config.num_heads * 1024**2 * config.head_dim
  # 2 products forward and 7 backward, in 3 of 4 blocks of 512.
  assert found['training step']['kernel_flops'] == (
      9 * product * 3 / 4 * config.num_layers)


@needs_compiler
def test_every_part_of_the_default_config():
  found = compiled('--topology=v5e:2x4')
  assert [name.partition(',')[0] for name in found] == [
      *['head'] * 3, *['divergence'] * 3, 'training step', 'scorer', 'decoding']
  assert all(x['fits'] and x['flops'] > 0 for x in found.values())
  step, scorer = found['training step'], found['scorer']
  assert step['hbm']['moments'] == pytest.approx(
      2 * step['hbm']['parameters'], rel=1e-3)
  # Three times the forward; the scorer looks at logits once as well.
  assert 2.5 < step['flops'] / scorer['flops'] < 3.5


@needs_compiler
@pytest.mark.parametrize('name', ['sdft', 'dpo'])
def test_steps_of_distillation_and_of_pairs(name):
  found = compiled(
      '--topology=v5e:2x4', '--parts=train', '--config', f'configs/{name}.py')
  step = found['training step']
  assert step['fits'] and step['flops'] > 0
  # The teacher is a moving average; pairs hold their reference's log p alone.
  held = step['hbm']['parameters'] if name == 'sdft' else 0
  assert step['hbm']['reference'] == held


@needs_compiler
def test_adapters_alone_have_moments_and_gradients():
  found = compiled(
      '--topology=v5e:2x4', '--parts=train,score,decode', '--config.lora.rank=4',
      '--config.model.dtype=bfloat16')
  step = found['training step']
  assert step['hbm']['moments'] == pytest.approx(
      2 * step['hbm']['parameters'], rel=1e-3)
  # Half the bytes of the 528,640 values in float32, over 8 chips; a few are whole.
  assert 528_640 * 2 / 8 <= step['hbm']['frozen base'] < 528_640 * 2 / 7
  # The frozen matrices get no gradient, a third of the products.
  assert step['flops'] < 2.5 * found['scorer']['flops']
  assert all(x['fits'] for x in found.values())


def test_adapters_are_float32_on_a_base_in_the_compute_dtype():
  c, mesh = idft.get_config(), sharding.make_mesh(fsdp=4, tensor=2)
  config = model.ModelConfig.from_hf(
      paths.GOLDEN / 'models' / 'qwen2-tiny', dtype='bfloat16')
  assert programs._trained(c, mesh, config)[1] is None
  c.lora.rank = 2
  trained, base = programs._trained(c, mesh, config)
  assert isinstance(trained, lora.Adapters)
  assert {x.dtype.name for x in jax.tree.leaves(trained)} == {'float32'}
  assert {x.dtype.name for x in jax.tree.leaves(base)} == {'bfloat16'}
  q = trained.layers['attn']['q']['lora_a']
  assert q.sharding.spec == P(None, 'fsdp', None)
