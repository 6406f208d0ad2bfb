"""A scored corpus equals its examples alone; what the report is given."""

import functools
import json

import jax
import numpy as np
import pytest
import transformers

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.report import run_words
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


def test_a_corpus_in_numbers():
  stats = scored()
  log_p = np.concatenate([x.log_p for x in stats])
  phi = np.concatenate([x.phi for x in stats])
  found = forward.describe(stats, name='idft', beta=2.0, gamma_max=1.5)
  assert json.loads(json.dumps(found)) == found
  assert found['examples'] == 6 and found['tokens'] == len(log_p)
  np.testing.assert_allclose(found['nll'], -log_p.mean(), rtol=1e-5)
  np.testing.assert_allclose(found['phi'], phi.mean(), rtol=1e-4)
  gamma = np.clip(np.exp(-phi / 2.0), 0.1, 1.5)
  np.testing.assert_allclose(
      found['weight'], np.exp(gamma * log_p).mean(), rtol=1e-4
  )
  edges, counts = found['histogram']['edges'], found['histogram']['counts']
  assert edges == objectives.PHI_EDGES.tolist()
  # The outer bins take what lies beyond.
  inside = np.clip(phi, edges[0], np.nextafter(edges[-1], 0))
  np.testing.assert_array_equal(counts, np.histogram(inside, edges)[0])


def results():
  """As a run writes them, with what `score` gives as it gives it."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')
  turns = [{'role': 'user', 'content': 'Ann has 3 pears. How many?'},
          {'role': 'assistant', 'content': r'3*1=3. \boxed{3}'}]
  end = chat.turn_end(tokenizer)
  example = chat.encode(tokenizer, turns, end)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  config, params = load(MODEL)
  stats, = forward.token_stats(params, config, [example], batch=1, mesh=mesh)
  before = forward.describe([stats], name='sft')
  after = forward.describe(scored(), name='sft')
  return {
      'name': 'idft', 'seed': 0, 'rounds': [], 'timings': {'train': 1.0},
      'corpus': forward.compare(before, after),
      'data': {'train': 6, 'validation': 0, 'bad_rows': 0, 'truncated': 0,
               'dropped': 0, 'turn_end': end.text},
      'training': {'steps': 1, 'tokens': 9, 'seconds': 1.0, 'skipped': 0,
                   'best_step': None, 'best_nll': None, 'parameters': 9},
      'examples': [forward.heat_map(
          tokenizer, example, stats.phi.tolist(), (0 * stats.phi).tolist()
      )],
  }, before, after


def test_the_report_finds_what_it_needs():
  found, before, after = results()
  found = json.loads(json.dumps(found))
  run_words.check({'model': {}, 'loss': {}}, found)
  corpus = found['corpus']
  assert corpus['before']['nll'] == before['nll']
  assert corpus['after']['nll'] == after['nll']
  assert 'histogram' not in corpus['before'] | corpus['after']
  assert corpus['histogram'] == {
      'edges': before['histogram']['edges'],
      'before': before['histogram']['counts'],
      'after': after['histogram']['counts'],
  }
  assert 'histogram' in before  # what was given is left as it was

  shown, = found['examples']
  assert ''.join(shown['tokens']) == r'3*1=3. \boxed{3}' + found['data']['turn_end']
  assert 'Ann has 3 pears. How many?' in shown['prompt']
  assert 'boxed' not in shown['prompt']
