"""Estimates of memory against the TPU compiler's figures."""


import jax
import pytest

from configs import idft
from ddt_jax import sharding
from experiments.run import fitting
from experiments.run import footprint
from experiments.run import model_files

GIB = 2**30


# Of `experiments.compile_tpu --parts=train`: model, chips, rows of 4,096 tokens in all,
# remat, GiB of a chip without the program.
@pytest.mark.parametrize('path, chips, rows, remat, compiled', [
    ('Qwen2.5-0.5B', 8, 32, 'full', 0.69 + 3.97),
    ('Qwen2.5-0.5B', 8, 64, 'full', 0.69 + 7.36),
    ('Qwen2.5-0.5B', 8, 32, 'dots', 0.69 + 13.14),
    ('Qwen2.5-1.5B', 8, 16, 'full', 2.16 + 5.08),
    ('Qwen2.5-7B', 32, 32, 'full', 10.13), ('Qwen2.5-7B', 32, 64, 'full', 13.59),
    ('gemma-3-1b', 8, 32, 'dots', 16.97),
])
def test_an_estimate_is_close_to_what_the_compiler_says(
    path, chips, rows, remat, compiled
):
  c = idft.get_config('real')
  c.train.micro_batches, c.model.remat = 1 + ('gemma' in path), remat
  # Eight devices stand for 32 with as many rows each; the state is spread further.
  c.train.batch = rows * 8 // chips
  config = fitting.shaped(c, model_files.shape(path))
  found = footprint.training(c, config, sharding.make_mesh(fsdp=8))
  for name in ('parameters', 'moments', 'gradients'):
    found[name] = found[name] * 8 / chips
  assert 0.98 * compiled < sum(found.values()) / GIB < 1.08 * compiled


# The same of presets in several micro-batches, as `experiments/tpu/compiled.json` has
# them: chips, GiB of one.
@pytest.mark.parametrize('preset, chips, micro_batches, compiled', [
    ('qwen2.5-1.5b', 8, 4, 13.5), ('qwen3-1.7b', 8, 4, 14.2),
    ('llama3.2-1b', 8, 2, 13.6), ('qwen2.5-7b', 4, 4, 84.1),
    ('llama3.1-8b', 4, 4, 86.3), ('qwen3-8b', 4, 4, 88.8),
])
def test_an_estimate_in_micro_batches_is_close(preset, chips, micro_batches, compiled):
  c = idft.get_config(preset)
  c.train.micro_batches, c.model.remat = micro_batches, 'dots'
  config = fitting.shaped(c, model_files.shape(c.model.path))
  mesh = sharding.make_mesh(devices=jax.devices()[:chips], fsdp=chips)
  found = footprint.training(c, config, mesh)
  assert 0.96 * compiled < sum(found.values()) / GIB < 1.05 * compiled


def test_a_pair_takes_the_memory_of_two_rows():
  mesh, found = sharding.make_mesh(fsdp=8), {}
  for name, batch in (('sft', 64), ('dpo', 32)):
    c = idft.get_config('qwen2.5-0.5b')
    c.loss.name, c.train.batch = name, batch
    c.train.micro_batches, c.model.remat = 1, 'dots'
    found[name] = footprint.training(
        c, fitting.shaped(c, model_files.shape(c.model.path)), mesh)
  assert found['sft'] == found['dpo']


def test_heads_shared_by_devices_shrink_their_part():
  c = idft.get_config('real')
  c.train.micro_batches, c.model.remat = 1, 'full'
  config = fitting.shaped(c, model_files.shape('Qwen2.5-7B'))
  alone, shared = (
      footprint.layer(config, 4096, sharding.make_mesh(fsdp=8 // n, tensor=n))
      for n in (1, 2))
  assert 0.4 * alone < shared < 0.7 * alone


def test_caches_follow_slots_heads_and_their_dtype():
  c = idft.get_config('qwen2.5-7b')
  config = fitting.shaped(c, model_files.shape(c.model.path))
  mesh = sharding.make_mesh(fsdp=8)

  def caches(tensor, slots, dtype=''):
    c.decoding.cache_dtype = dtype
    return footprint.decoding(
        c, config, mesh, tensor=tensor, slots=slots)['caches']

  # 28 layers, k and v, 4 heads of 128 channels in 2 bytes; two contexts.
  columns = 2 * (4096 + 2048) + 2048
  assert caches(1, 8) == 28 * 2 * 4 * 128 * 2 * columns
  assert caches(1, 64) == 8 * caches(1, 8)
  assert caches(4, 8) == caches(1, 8)  # a quarter of the heads, four times the rows
  assert caches(1, 8, 'int8') < 0.6 * caches(1, 8)
