"""A scored corpus equals its examples alone."""

import functools

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.scoring import forward
from tests.support import paths

MODEL = paths.GOLDEN / 'models' / 'qwen2-tiny'
FIELDS = ('log_p', 'entropy', 'varentropy', 'collision')

load = functools.cache(weights.load)


def make_examples():
  rng = np.random.default_rng(0)
  examples = []
  for n, prompt in [(30, 10), (7, 6), (30, 1), (30, 29), (30, 4), (7, 2)]:
    tokens = rng.integers(0, 470, n, dtype=np.int32)
    examples.append(chat.Example(tokens, np.arange(n) >= prompt))
  # Two turns: what is supervised need not be one piece.
  examples[4].supervised[8:12] = False
  return examples


EXAMPLES = make_examples()


@functools.cache
def scored(devices=1, batch=4):
  """All six; the last batch is part padding."""
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  config, params = weights.load(MODEL, mesh=mesh)
  return list(
      forward.token_stats(params, config, EXAMPLES, batch=batch, mesh=mesh)
  )


@jax.jit
def full_forward(tokens):
  config, params = load(MODEL)
  return model.forward(params, config, tokens)[0]


def alone(example):
  """Statistics of one example, by the forward of its tokens and no others."""
  logits = full_forward(example.tokens[None, :-1])
  stats = ddt.token_stats(logits[0], example.tokens[1:])
  return stats.map(lambda x: np.asarray(x)[example.supervised[1:]])


@pytest.mark.parametrize('options', [{}, {'devices': 8, 'batch': 8}], ids=str)
def test_neither_padding_nor_batch_mates_matter(options):
  found = scored(**options)
  assert len(found) == len(EXAMPLES)
  for stats, example in zip(found, EXAMPLES, strict=True):
    expected = alone(example)
    for field in FIELDS:
      x = getattr(stats, field)
      assert isinstance(x, np.ndarray)
      assert x.shape == (example.supervised.sum(),)
      np.testing.assert_allclose(
          x, getattr(expected, field), rtol=2e-4, atol=2e-5, err_msg=field
      )


def test_a_stream_is_read_a_little_ahead_and_results_keep_its_order():
  config, params = load(MODEL)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  read = 0

  def stream():
    nonlocal read
    for i in range(70):
      read = i + 1
      yield EXAMPLES[i % 6]

  found = forward.token_stats(params, config, stream(), batch=2, mesh=mesh)
  for i, stats in enumerate(found):
    assert read <= i + 64  # twice 16 batches
    np.testing.assert_allclose(
        stats.log_p, scored()[i % 6].log_p, rtol=2e-4, atol=2e-5)
  assert i == 69


@pytest.mark.parametrize('time', [32, 64, 368])
def test_the_padded_length_does_not_matter(time):
  config, params = load(MODEL)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  found = forward.token_stats(
      params, config, EXAMPLES, batch=4, mesh=mesh, time=time)
  for padded, stats in zip(found, scored(), strict=True):
    for field in FIELDS:
      np.testing.assert_allclose(
          getattr(padded, field), getattr(stats, field), rtol=2e-5, atol=2e-5,
          err_msg=field)


@pytest.mark.parametrize('devices, batch', [(1, 2), (8, 8)])
@pytest.mark.parametrize('time', [None, 64])
def test_packed_rows_give_the_same(devices, batch, time):
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  config, params = weights.load(MODEL, mesh=mesh)
  # One has nothing supervised, between others of its row.
  silent = EXAMPLES[1]._replace(supervised=np.zeros(7, bool))
  some = [*EXAMPLES[:3], silent, *EXAMPLES[3:], *EXAMPLES[:2]]
  packed, alone = (
      forward.dispatch(
          params, config, some, batch=batch, mesh=mesh, time=time, pack=pack)
      for pack in (True, False))
  places = [sum(owners.size for _, owners, _ in p.batches) for p in (packed, alone)]
  if (batch, time) == (2, 64):
    assert places[0] < places[1]
  (lengths, found), (wanted, expected) = packed.collect(), alone.collect()
  assert lengths.tolist() == wanted.tolist() and lengths[3] == 0
  for field in FIELDS:
    np.testing.assert_allclose(
        getattr(found, field), getattr(expected, field), rtol=2e-5, atol=2e-5,
        err_msg=field)
  streamed = forward.token_stats(
      params, config, iter(some), batch=batch, mesh=mesh, time=time, pack=True)
  lone = [s for s in forward.split(lengths, found) if len(s.log_p)]
  for one, other in zip(streamed, lone, strict=True):
    np.testing.assert_allclose(one.log_p, other.log_p, rtol=2e-5, atol=2e-5)


def test_another_text_in_the_row_changes_no_bit():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  config, params = load(MODEL)
  row = [EXAMPLES[0], EXAMPLES[1], EXAMPLES[5]]
  other = EXAMPLES[1]._replace(tokens=EXAMPLES[1].tokens[::-1].copy())
  found = [
      forward.split(*forward.dispatch(
          params, config, some, batch=1, mesh=mesh, time=64, pack=True).collect())
      for some in (row, [row[0], other, row[2]])]
  for i in (0, 2):
    for field in FIELDS:
      np.testing.assert_array_equal(
          getattr(found[0][i], field), getattr(found[1][i], field))
  assert (found[0][1].log_p != found[1][1].log_p).any()


def test_the_memory_of_scoring_grows_with_the_batch():
  config, params = load(MODEL)
  one, many = (
      forward.memory(
          params, config, sharding.make_mesh(devices=jax.devices()[:1]), rows=rows,
          time=64, temperature=1.0, tail=True) for rows in (1, 8))
  # Hidden states alone, of 8 rows of 64 tokens in float32.
  assert many > 8 * 64 * config.width * 4
  assert many > 4 * one


def test_collecting_may_be_stopped_between_batches():
  class Stop(Exception):
    pass

  def stop():
    raise Stop

  one = np.zeros((1, 2), np.float32)
  pending = forward.Pending(
      [([i], one + 1, ddt.TokenStats(one, one)) for i in range(3)], 3)
  called = []
  lengths, _ = pending.collect(lambda: called.append(1))
  assert lengths.tolist() == [2, 2, 2] and len(called) == 3
  with pytest.raises(Stop):
    pending.collect(stop)
