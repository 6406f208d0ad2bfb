"""Packed rows: every example once and whole, and the same loss as unpacked."""

import json

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import packing
from ddt_jax.training import train_step

CONFIG = model.ModelConfig.from_hf(dict(
    model_type='qwen3', vocab_size=50, hidden_size=16, intermediate_size=24,
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=False))
# Log-normal, median 300 and 99th percentile 3,500: chains of thought.
CHAINS = np.clip(np.random.default_rng(0).lognormal(
    np.log(300), np.log(3500 / 300) / 2.326, 20_000), 8, 4096).astype(int)


def examples(n, longest=20, seed=0):
  rng = np.random.default_rng(seed)
  made = []
  for length in rng.integers(3, longest + 1, n):
    prompt = rng.integers(1, length - 1)
    made.append(chat.Example(
        rng.integers(1, 50, length).astype(np.int32),
        np.arange(length) >= prompt))
  return made


@hypothesis.given(
    st.lists(st.integers(1, 30)), st.integers(30, 50),
    st.none() | st.integers(0, 9))
def test_a_plan_holds_each_example_once_and_wastes_less_than_half(
    lengths, capacity, seed):
  rows = packing.plan(lengths, capacity, seed=seed)
  assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
  loads = [sum(lengths[i] for i in row) for row in rows]
  assert all(0 < load <= capacity for load in loads)
  # No two rows fit into one, or best fit would have joined them.
  assert len(loads) < 2 or sum(sorted(loads)[:2]) > capacity


def test_chains_of_thought_leave_hardly_any_padding():
  lengths = list(CHAINS - 1)
  rows = packing.plan(lengths, 4095, seed=0)
  assert packing.padding_share(rows, lengths, 4095) < 0.01
  unpacked = [[i] for i in range(len(lengths))]
  assert packing.padding_share(unpacked, lengths, 4095) > 0.8
  other = packing.plan(lengths, 4095, seed=1)
  assert other != rows and packing.plan(lengths, 4095, seed=0) == rows


@pytest.mark.parametrize('mask_mode', batches.MASK_MODES)
def test_a_row_by_hand(mask_mode):
  first = chat.Example(np.arange(10, 15, dtype=np.int32), np.arange(5) >= 2)
  second = chat.Example(np.arange(20, 23, dtype=np.int32), np.arange(3) >= 1)
  (batch,) = packing.pack([first, second], rows=2, time=8, mask_mode=mask_mode)
  np.testing.assert_array_equal(batch.tokens[0], [10, 11, 12, 13, 20, 21, 0, 0])
  np.testing.assert_array_equal(batch.targets[0], [11, 12, 13, 14, 21, 22, 0, 0])
  np.testing.assert_array_equal(batch.positions[0], [0, 1, 2, 3, 0, 1, -1, -1])
  np.testing.assert_array_equal(batch.segment_ids[0], [1, 1, 1, 1, 2, 2, 0, 0])
  np.testing.assert_array_equal(batch.mask[0], {
      'correct': [0, 1, 1, 1, 1, 1, 0, 0], 'official': [1, 1, 1, 0, 1, 0, 0, 0],
  }[mask_mode])
  assert not batch.segment_ids[1].any() and (batch.positions[1] == -1).all()


def test_packed_equals_unpacked(monkeypatch):
  # Rows of 40 in four blocks, where `attend_rows` has one by default.
  monkeypatch.setattr('ddt_jax.model.attention.attend_rows.__kwdefaults__',
                      {'whole': 8})
  params = model.init(CONFIG, jax.random.key(0))
  data = examples(13)
  grad = jax.jit(
      jax.value_and_grad(train_step.loss_sums, has_aux=True),
      static_argnames=('config', 'name'))

  def totals(stream):
    sums = [grad(params, CONFIG, batch, 'idft') for batch in stream]
    return jax.tree.map(lambda *x: sum(map(np.float64, x)), *sums)

  packed = totals(packing.pack(data, rows=2, time=40, seed=0))
  unpacked = totals(batches.in_order(data, batch=13, time=19))
  (loss, (count, metrics)), gradient = packed
  (loss_u, (count_u, metrics_u)), gradient_u = unpacked
  assert count == count_u == sum(e.supervised[1:].sum() for e in data)
  np.testing.assert_allclose(loss, loss_u, rtol=1e-5)
  for name in metrics:
    np.testing.assert_allclose(metrics[name], metrics_u[name], rtol=1e-4, atol=1e-4)
  for x, y in zip(*map(jax.tree.leaves, (gradient, gradient_u)), strict=True):
    assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y) + 1e-7


@pytest.mark.parametrize('whole', [1024, 8])
def test_a_segment_sees_no_bit_of_another(monkeypatch, whole):
  monkeypatch.setattr('ddt_jax.model.attention.attend_rows.__kwdefaults__',
                      {'whole': whole})
  params = model.init(CONFIG, jax.random.key(0))
  (batch, *_) = packing.pack(examples(13), rows=2, time=40)

  @jax.jit
  def hidden(tokens):
    return model.forward(
        params, CONFIG, tokens, positions=batch.positions,
        segment_ids=batch.segment_ids, return_hidden=True)[0]

  before = np.asarray(hidden(batch.tokens))
  segments = batch.segment_ids[0]
  assert segments.max() >= 3
  for s in range(1, segments.max() + 1):
    tokens = batch.tokens.copy()
    tokens[0, segments == s] = (tokens[0, segments == s] + 7) % 50
    after = np.asarray(hidden(tokens))
    others = (segments != s) & (segments > 0)
    np.testing.assert_array_equal(after[0, others], before[0, others])
    np.testing.assert_array_equal(after[1], before[1])
    assert (after[0, segments == s] != before[0, segments == s]).any()


def test_a_stream_resumes_to_the_same_batches_and_knows_its_length():
  def stream(seed=3):
    return packing.Stream(
        examples(40), batch=3, epochs=2, seed=seed, time=30)

  whole = list(stream())
  assert len(whole) == stream().steps
  assert 0 < stream().padding < 0.2
  seen = [batch.tokens[batch.segment_ids > 0].size for batch in whole]
  assert sum(seen) == 2 * sum(len(e.tokens) - 1 for e in examples(40))
  cut = stream()
  for _ in range(4):
    next(cut)
  rest = stream()
  rest.set_state(json.loads(json.dumps(cut.get_state())))
  for got, want in zip(rest, whole[4:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, got, want)
  assert any((a.tokens != b.tokens).any()
             for a, b in zip(whole, stream(4), strict=False))


def test_an_example_longer_than_a_row_is_refused_before_any_batch():
  with pytest.raises(errors.InputError, match='an example of 20 tokens'):
    packing.Stream([chat.Example(np.arange(20), np.ones(20, bool))],
                   batch=1, epochs=1, seed=0, time=18)
