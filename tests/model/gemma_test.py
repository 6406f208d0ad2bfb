"""Gemma 3's sliding layers in every kind of pass; its config.json in both forms."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import hinted_decode
from ddt_jax import hinting
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.model import attention
from tests.support import families
from tests.support import paths

FOLDER = paths.GOLDEN / 'models' / 'gemma3-tiny'
KEY = jax.random.key(0)
IDS = np.random.default_rng(0).integers(0, 470, (2, 30))  # the window is 8
load = functools.cache(lambda: weights.load(FOLDER))
forward = jax.jit(model.forward, static_argnames=('config', 'mesh'))


def read(**changes):
  return model.ModelConfig.from_hf(families.SHAPES['gemma3-1b'] | changes)


def test_every_sixth_layer_sees_all_tokens():
  config = read()
  assert config.sliding == (True,) * 5 + (False, True)
  assert (config.window, config.tied_head, config.qk_norm) == (16, True, True)
  assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)
  kinds = ['sliding_attention', 'full_attention'] * 3 + ['full_attention']
  assert read(layer_types=kinds).sliding == (True, False) * 3 + (False,)


@pytest.mark.parametrize('changes, full, local', [
    (dict(rope_parameters=dict(
        full_attention=dict(rope_theta=2e6), sliding_attention=dict(rope_theta=3e4))),
     2e6, 3e4),
    (dict(rope_parameters=dict(full_attention=dict(rope_type='default'))), 1e6, 1e4),
    (dict(rope_scaling=dict(rope_type='default', rope_theta=5e5)), 5e5, 1e4),
    (dict(rope_theta=7e5, rope_local_base_freq=8e3), 7e5, 8e3),
])
def test_rope_bases_come_from_either_form(changes, full, local):
  config = read(**changes)
  assert (config.rope_theta, config.local_rope_theta) == (full, local)


@pytest.mark.parametrize('changes, said', [
    (dict(rope_scaling=dict(rope_type='linear', factor=8.0)), "rope type 'linear'"),
    (dict(rope_parameters=dict(full_attention=dict(rope_type='yarn'))), "'yarn'"),
    (dict(final_logit_softcapping=30.0), 'final_logit_softcapping'),
    (dict(attn_logit_softcapping=50.0), 'attn_logit_softcapping'),
    (dict(hidden_activation='gelu'), "hidden_activation 'gelu'"),
    (dict(use_bidirectional_attention=True), 'use_bidirectional_attention'),
    (dict(attention_bias=True), 'attention_bias'),
    (dict(layer_types=['chunked_attention'] * 7), 'layer_types other than'),
    (dict(layer_types=['full_attention'] * 6), 'layer_types is .* of 7 entries'),
    (dict(sliding_window=None), 'sliding_window is null'),
    (dict(model_type='gemma3'), "model_type 'gemma3'"),
    (dict(model_type='gemma2'), "model_type 'gemma2'"),
])
def test_what_would_be_computed_wrongly_is_refused(changes, said):
  with pytest.raises(errors.InputError, match=said):
    read(**changes)


@pytest.mark.parametrize('changes, refused', [
    ({}, False), (dict(sliding_window=4096), True)])
def test_mistral_is_read_where_it_sees_all_tokens(changes, refused):
  hf = families.SHAPES['mistral-7b-v0.3']
  lacking = {k: v for k, v in hf.items() if k != 'sliding_window'}
  for fields in (hf | changes, *([lacking] if refused else [])):
    if not refused:
      assert model.ModelConfig.from_hf(fields).window is None
      continue
    # transformers takes 4,096 tokens where the field is absent.
    with pytest.raises(errors.InputError, match='sliding_window'):
      model.ModelConfig.from_hf(fields)


def test_a_token_sees_its_window_in_sliding_layers_alone():
  config, params = load()
  changed = IDS.copy()
  changed[:, 0] += 1

  def last(sliding):
    c = dataclasses.replace(config, sliding=(sliding,) * config.num_layers)
    a, b = (forward(params, c, x)[0] for x in (IDS, changed))
    return np.abs(a - b).max(-1).max(0)

  # Four layers with a window of 8 reach back 4 * 7 tokens.
  moved = last(True)
  assert (moved[:29] > 0).all() and moved[29] == 0
  assert last(False)[29] > 0


def test_blocks_and_remat_change_neither_loss_nor_gradient(monkeypatch):
  config, params = load()

  def grads(remat):
    c = dataclasses.replace(config, remat=remat)
    total = lambda p: jnp.sum(jnp.sin(model.forward(p, c, IDS)[0]))
    return jax.jit(jax.grad(total))(params)

  expected = grads('none')
  rows = functools.partial(attention.attend_rows, whole=16)
  monkeypatch.setattr(attention, 'attend_rows', rows)
  monkeypatch.setattr(attention, '_BLOCK', 10)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
          a, b, atol=1e-4 * np.linalg.norm(b)), grads('full'), expected)


def test_eight_devices_compute_what_one_does():
  config, params = load()
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  ids = np.concatenate([IDS, IDS[:, ::-1]])
  expected = forward(params, config, ids)[0]
  _, spread = weights.load(FOLDER, mesh=mesh)
  with jax.set_mesh(mesh):
    placed = jax.device_put(ids, sharding.batch_sharding(mesh))
    found = forward(spread, config, placed, mesh=mesh)[0]
  np.testing.assert_allclose(found, expected, atol=1e-3)


def logits_after(text, size):
  """The next token's logits [V], by a full forward without a cache."""
  config, params = load()
  ids = np.zeros((1, size), int)
  ids[0, :len(text)] = text
  return forward(params, config, ids)[0][0, len(text) - 1]


def test_decoding_from_caches_is_the_uncached_forward():
  config, params = load()
  prompts = [IDS[0, :18].tolist(), IDS[1].tolist()]
  texts = [list(p) for p in prompts]
  for text in texts * 8:
    text.append(int(logits_after(text, 40).argmax()))
  expected = [t[len(p):] for p, t in zip(prompts, texts, strict=True)]
  options = dict(key=KEY, max_new_tokens=8, greedy=True, eos_ids=(502,), slots=1)
  found = engine.generate(params, config, prompts, **options)
  assert [r.tokens for r in found] == expected
  # Keys and values in 8 bits: near, not equal.
  rough = engine.generate(params, config, prompts, cache_dtype='int8', **options)
  assert any(r.tokens[0] == e[0] for r, e in zip(rough, expected, strict=True))


def test_hinted_decoding_is_the_mixture_of_two_uncached_streams():
  config, params = load()
  student, hinted = IDS[0, :18].tolist(), IDS[1].tolist()
  found, = hinted_decode.generate(
      params, config, [(student, hinted)], key=KEY, max_new_tokens=8, beta=2.0,
      temperature=1.0, top_p=1.0, greedy=True, eos_ids=(502,))
  expected = []
  for _ in range(8):
    log_p, log_q = (
        jax.nn.log_softmax(logits_after(prompt + expected, 40))
        for prompt in (hinted, student))
    lam = hinting.hint_weight(
        -jnp.sum(jnp.exp(log_p) * log_p), config.vocab_size, beta=2.0)
    log_m = hinting.mix(log_p, log_q, lam) if expected else log_p
    expected.append(int(log_m.argmax()))
  assert found.tokens == expected


def test_adapters_merged_are_adapters_attached():
  config, params = load()
  rng = np.random.default_rng(1)
  adapters = jax.tree.map(
      lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32),
      lora.init(config, KEY, rank=2, alpha=4))
  merged, attached = (
      forward(f(params, adapters), config, IDS)[0] for f in (lora.merge, lora.attach))
  assert np.abs(merged - forward(params, config, IDS)[0]).max() > 0.01
  np.testing.assert_allclose(attached, merged, atol=1e-3)


def test_a_saved_folder_has_both_forms_of_rope(tmp_path):
  config, params = load()
  weights.save(tmp_path, config, params)
  fields = json.loads((tmp_path / 'config.json').read_text())
  assert fields['rope_local_base_freq'] == 1e4 and fields['rope_theta'] == 1e6
  assert {k: v['rope_theta'] for k, v in fields['rope_parameters'].items()} == {
      'full_attention': 1e6, 'sliding_attention': 1e4}
