"""No loss of a batch holds an array of tokens x vocabulary: a walk of each jaxpr."""

import functools

import jax
import numpy as np
import pytest

from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import pair_batches
from ddt_jax.training import pair_loss
from ddt_jax.training import train_step
from tests.training import pair_loss_test
from tests.vocab_head import vocab_head_test

ROWS, TIME, VOCAB = 8, 1024, 40_000
KL = {'sft_kl': 'sft', 'asft': 'dft'}  # with a divergence from a reference


@functools.cache
def abstract():
  """A tiny model with many token ids, its parameters, and the place of a batch."""
  config = model.ModelConfig.from_hf(dict(
      model_type='qwen2', vocab_size=VOCAB, hidden_size=8, intermediate_size=8,
      num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
      rms_norm_eps=1e-6, max_position_embeddings=TIME))
  where = sharding.replicated(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1]))
  return config, jax.eval_shape(lambda: model.init(config, jax.random.key(0))), where


def largest(loss, *args):
  """Elements of the largest array in the gradient of `loss` by its first argument."""
  jaxpr = jax.make_jaxpr(jax.grad(lambda *x: loss(*x)[0]))(*args)
  return max(int(np.prod(s)) for s in vocab_head_test.all_shapes(jaxpr.jaxpr))


# Distillation: see distill_test.py. A head that is split: see vocab_head.
@pytest.mark.parametrize('name', [*sorted(objectives.WEIGHTS), *KL])
def test_losses_of_tokens(name):
  config, params, where = abstract()
  of = KL.get(name, name)
  rows = batches.Batch(*(
      jax.ShapeDtypeStruct((ROWS, TIME), dtype, sharding=where)
      for dtype in ('int32', 'int32', 'float32', 'int32')))
  compared = params if name in KL or objectives.reference_option(of) else None

  def loss(params, batch, compared):
    return train_step.loss_sums(
        params, config, batch, of, compared=compared,
        kl_weight=0.5 if name in KL else 0.0)

  # A tile of 2,048 of the 8,192 tokens.
  assert largest(loss, params, rows, compared) <= 2048 * VOCAB


@pytest.mark.parametrize('name', sorted(pair_loss_test.RULES))
def test_losses_of_pairs(name):
  config, params, where = abstract()
  batch = pair_batches.abstract(ROWS // 2, TIME, where)

  def loss(params, batch):
    return pair_loss.loss_sums(params, config, batch, pair_loss_test.RULES[name])

  assert largest(loss, params, batch) <= 2048 * VOCAB
