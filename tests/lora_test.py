"""Adapters: merged equals attached, in every kind of forward; shapes, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import sharding

CONFIG = model.ModelConfig.from_hf(dict(
    model_type='qwen2', vocab_size=61, hidden_size=24, intermediate_size=40,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, rms_norm_eps=1e-6, tie_word_embeddings=True))
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 16))


@pytest.fixture(scope='module')
def params():
  return model.init(CONFIG, jax.random.key(0))


def trained(config=CONFIG, **options):
  """Adapters whose B is not zero, as after some steps."""
  adapters = lora.init(config, jax.random.key(1), **dict(rank=3, alpha=6) | options)
  fill = lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)
  return jax.tree.map(fill, adapters)


def logits(params):
  return jax.jit(lambda p: model.forward(p, CONFIG, TOKENS)[0])(params)


def test_fresh_adapters_change_no_bit(params):
  fresh = lora.init(CONFIG, jax.random.key(1), rank=3, alpha=6)
  base = logits(params)
  np.testing.assert_array_equal(logits(lora.attach(params, fresh)), base)
  np.testing.assert_array_equal(logits(lora.merge(params, fresh)), base)


@pytest.mark.parametrize('options', [
    {}, dict(targets='q_proj,v_proj'), dict(targets=['down_proj']),
    dict(rslora=True), dict(rank=1, alpha=0.5)])
def test_merged_equals_attached(params, options):
  adapters = trained(**options)
  attached = logits(lora.attach(params, adapters))
  merged = logits(lora.merge(params, adapters))
  moved = np.abs(merged - logits(params)).max()
  assert moved > 1e-3
  assert np.abs(attached - merged).max() < 1e-5 * max(1, np.abs(merged).max())


def test_a_merged_kernel_is_its_formula_in_float64(params):
  adapters = trained(rslora=True)
  merged = lora.merge(params, adapters)['layers']['mlp']['down']['kernel']
  old = np.float64(params['layers']['mlp']['down']['kernel'])
  pair = adapters.layers['mlp']['down']
  want = old + 6 / 3**0.5 * np.float64(pair['lora_a']) @ np.float64(pair['lora_b'])
  np.testing.assert_allclose(merged, want, rtol=0, atol=1e-6)


def test_decoding_with_attached_adapters_is_decoding_with_merged_ones(params):
  adapters = trained()
  options = dict(key=jax.random.key(0), max_new_tokens=12, temperature=1.0,
                 top_p=1.0, greedy=True, eos_ids=[0])
  prompts = [list(row[:n]) for row, n in zip(TOKENS, (5, 9), strict=True)]
  attached, merged = (
      [g.tokens for g in engine.generate(p, CONFIG, prompts, **options)]
      for p in (lora.attach(params, adapters), lora.merge(params, adapters)))
  assert attached == merged
  assert attached != [
      g.tokens for g in engine.generate(params, CONFIG, prompts, **options)]


def test_only_a_and_b_are_arrays_and_both_get_the_gradient_of_the_merged_model(
    params):
  adapters = trained()
  layers, rank = CONFIG.num_layers, adapters.rank
  assert lora.count(adapters) == sum(
      layers * rank * sum(lora.shape(CONFIG, name)) for name in lora.TARGETS)
  assert len(jax.tree.leaves(adapters)) == 2 * len(lora.TARGETS)

  def loss(apply):
    return jax.jit(jax.grad(lambda a: jnp.mean(
        model.forward(apply(params, a), CONFIG, TOKENS)[0] ** 2)))(adapters)

  attached, merged = loss(lora.attach), loss(lora.merge)
  for x, y in zip(*map(jax.tree.leaves, (attached, merged)), strict=True):
    assert np.linalg.norm(x) > 0
    assert np.linalg.norm(x - y) < 1e-4 * np.linalg.norm(y)


def test_adapters_are_split_where_their_kernels_are(params):
  mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
  spec = lambda path, shape: sharding.spec(path, shape, mesh)
  tree = lora.attach(params, trained())
  flat = {sharding.path_name(p): x.shape
          for p, x in jax.tree_util.tree_leaves_with_path(tree)}
  for path, shape in flat.items():
    if path.endswith('lora_a'):
      kernel = spec(path.replace('lora_a', 'kernel'), (1, 24, 24))
      assert spec(path, shape) == jax.P(*kernel[:2], None), path
    if path.endswith('lora_b'):
      kernel = spec(path.replace('lora_b', 'kernel'), (1, 24, 24))
      assert spec(path, shape) == jax.P(None, None, kernel[2]), path


@pytest.mark.parametrize('options,words', [
    (dict(targets='q_prj'), "did you mean 'q_proj'"),
    (dict(targets=''), 'is no linear layer'), (dict(rank=0), 'lora.rank=0'),
    (dict(alpha=0), 'lora.alpha=0')])
def test_options_out_of_range_are_named(options, words):
  with pytest.raises(errors.InputError, match=words):
    lora.init(CONFIG, jax.random.key(0), **dict(rank=2, alpha=4) | options)
