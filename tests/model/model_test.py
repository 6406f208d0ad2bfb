"""Six golden models, and what a decoder must never do."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import weights
from ddt_jax.model import attention
from tests.support import paths

MODELS = (
    'qwen2-tiny', 'qwen2-tiny-untied', 'qwen3-tiny', 'llama-tiny', 'qwen2-loop',
    'gemma3-tiny',
)
# Float32's allowance on logits of size 10: the same torch model differs from
# itself by up to 8e-5 between padded and unpadded, cached and full.
ATOL = 3e-4

forward = jax.jit(model.forward, static_argnames=('config', 'return_hidden'))


@functools.cache
def load(name):
  config, params = weights.load(paths.GOLDEN / 'models' / name)
  return config, params, np.load(paths.GOLDEN / 'logits' / f'{name}.npz')


def logits_of(name, tokens, **options):
  config, params, _ = load(name)
  return np.asarray(forward(params, config, tokens, **options)[0])


def padded_positions(golden, side):
  return np.where(golden[f'{side}_mask'], golden[f'{side}_pos'], -1)


def fields(name, **changes):
  path = paths.GOLDEN / 'models' / name / 'config.json'
  return json.loads(path.read_text()) | changes


@pytest.mark.parametrize('name', MODELS)
def test_logits_and_statistics_of_prompts_run_alone(name):
  golden = load(name)[2]
  for i in range(4):
    ids = golden[f'ids_{i}']
    logits = logits_of(name, ids[None])[0]
    np.testing.assert_allclose(logits, golden[f'logits_{i}'], atol=ATOL)
    stats = ddt.token_stats(logits[:-1], ids[1:])
    np.testing.assert_allclose(stats.log_p, golden[f'logp_{i}'], atol=ATOL)
    np.testing.assert_allclose(stats.entropy, golden[f'entropy_{i}'], atol=ATOL)
    np.testing.assert_allclose(stats.phi, golden[f'phi_{i}'], atol=ATOL)


@pytest.mark.parametrize('name', MODELS)
def test_long_prompt(name):
  golden = load(name)[2]
  logits = logits_of(name, golden['ids_long'][None])[0, -4:]
  np.testing.assert_allclose(logits, golden['logits_long_last4'], atol=ATOL)


@pytest.mark.parametrize('name', MODELS)
def test_padding_on_either_side_changes_nothing(name):
  golden = load(name)[2]
  for side in ('left', 'right'):
    positions = padded_positions(golden, side)
    logits = logits_of(name, golden[f'{side}_ids'], positions=positions)
    last = logits[np.arange(4), positions.argmax(-1)]
    np.testing.assert_allclose(last, golden[f'{side}_last_logits'], atol=ATOL)
    assert np.isfinite(logits).all()  # at padding, too


@pytest.mark.parametrize('name', MODELS)
def test_cached_decoding_equals_the_full_forward(name):
  # Rows of different lengths, left-padded: the prompts' last 10 columns are
  # read one at a time.
  config, params, golden = load(name)
  tokens, positions = golden['left_ids'], padded_positions(golden, 'left')
  cache = model.init_cache(config, 4, 48)
  steps = [slice(0, 30), *(slice(t, t + 1) for t in range(30, 40))]
  logits = []
  for step in steps:
    row, cache = forward(
        params, config, tokens[:, step], positions=positions[:, step],
        cache=cache,
    )
    logits.append(row)
  logits = np.concatenate(logits, 1)
  assert cache.index == 40
  np.testing.assert_allclose(
      logits[:, -1], golden['left_last_logits'], atol=ATOL
  )
  np.testing.assert_allclose(logits[3], golden['logits_3'], atol=ATOL)


def test_without_positions_a_cache_continues_where_it_stopped():
  config, params, golden = load('qwen2-tiny')
  ids = golden['ids_1'][None]
  _, cache = forward(
      params, config, ids[:, :5], cache=model.init_cache(config, 1, 16)
  )
  logits, _ = forward(params, config, ids[:, 5:], cache=cache)
  np.testing.assert_allclose(logits[0], golden['logits_1'][5:], atol=ATOL)


def test_no_information_comes_from_the_future():
  golden = load('llama-tiny')[2]
  ids = golden['ids_2'][None]
  changed = ids.copy()
  changed[:, 12:] = (changed[:, 12:] + 1) % 400
  a, b = logits_of('llama-tiny', ids), logits_of('llama-tiny', changed)
  np.testing.assert_array_equal(a[:, :12], b[:, :12])
  assert np.abs(a[:, 12:] - b[:, 12:]).max() > 0.1


def test_no_gradient_reaches_the_future():
  config, params, _ = load('qwen2-tiny-untied')
  tokens = jnp.arange(9)[None]  # every token once: its row is its position

  def past(table):
    changed = params | {'embed': {'embedding': table}}
    return jnp.sum(model.forward(changed, config, tokens)[0][:, :5] ** 2)

  grad = jax.jit(jax.grad(past))(params['embed']['embedding'])
  assert (np.abs(grad[:5]).max(-1) > 0).all()
  np.testing.assert_array_equal(grad[5:], 0)


@pytest.mark.parametrize('name', ['qwen3-tiny', 'gemma3-tiny'])
def test_segments_of_a_packed_row_do_not_see_each_other(name):
  golden = load(name)[2]
  first, second = golden['ids_1'], golden['ids_2']
  logits = logits_of(
      name,
      np.concatenate([first, second])[None],
      positions=np.concatenate([np.arange(9), np.arange(21)])[None],
      segment_ids=np.repeat([1, 2], [9, 21])[None],
  )[0]
  np.testing.assert_allclose(logits[:9], golden['logits_1'], atol=ATOL)
  np.testing.assert_allclose(logits[9:], golden['logits_2'], atol=ATOL)


@pytest.mark.parametrize('block, remat', [(5, 'none'), (8, 'full')])
def test_long_rows_are_attended_to_in_blocks(monkeypatch, block, remat):
  config, params, golden = load('qwen3-tiny')
  config = dataclasses.replace(config, remat=remat)
  tokens = jnp.concatenate([golden['left_ids'], golden['right_ids']])
  positions = jnp.concatenate(
      [padded_positions(golden, side) for side in ('left', 'right')])
  segments = np.where(np.arange(40) < 17, 1, 2) * np.ones((8, 1), int)

  def total(params, segment_ids):
    logits, _ = model.forward(
        params, config, tokens, positions=positions, segment_ids=segment_ids)
    seen = jnp.where((positions >= 0)[..., None], logits, 0.0)
    return jnp.sum(jnp.sin(seen)), seen

  def run():
    grad = jax.jit(jax.value_and_grad(total, has_aux=True))
    return grad(params, None), grad(params, segments)

  whole = run()
  rows = attention.attend_rows
  monkeypatch.setattr(attention, 'attend_rows', functools.partial(rows, whole=16))
  monkeypatch.setattr(attention, '_BLOCK', block)
  close = functools.partial(np.testing.assert_allclose, atol=ATOL)
  for ((_, logits), grads), ((_, expected), expected_grads) in zip(
      run(), whole, strict=True
  ):
    close(logits, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, atol=1e-5 * np.linalg.norm(b)), grads, expected_grads)


def test_scores_of_a_long_row_are_never_held_at_once(monkeypatch):
  config, params, _ = load('qwen2-tiny')
  tokens = np.zeros((1, 4096), np.int32)

  def temporaries():
    def total(params):
      return model.forward(params, config, tokens, return_hidden=True)[0].sum()

    compiled = jax.jit(jax.grad(total)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  blocks = temporaries()
  rows = attention.attend_rows
  monkeypatch.setattr(attention, 'attend_rows', functools.partial(rows, whole=4096))
  assert temporaries() > 4 * blocks


def test_a_long_prompt_is_read_in_blocks_into_its_cache():
  config, params, _ = load('qwen3-tiny')
  config = dataclasses.replace(config, max_positions=4096)

  def read(time, columns):
    tokens = np.arange(2 * time).reshape(2, time) % config.vocab_size
    at = jnp.arange(time)
    positions = jnp.where(at < jnp.array([[time], [time - 99]]), at, -1)
    cache = model.init_cache(config, 2, columns)
    run = jax.jit(lambda: model.forward(
        params, config, tokens, positions=positions, cache=cache, return_hidden=True
    )).lower().compile()
    hidden, cache = run()
    keys = [k.transpose(0, 3, 1, 2)[:, :time] for k in cache.k]
    seen = [x[positions >= 0] for x in (hidden, *keys)]
    return seen, run.memory_analysis().temp_size_in_bytes

  # A column more, and the cache might have held something before.
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=ATOL),
      read(600, 600)[0], read(600, 601)[0],
  )
  assert read(4096, 4097)[1] > 2 * read(4096, 4096)[1]


def test_cache_and_segments_together_are_refused():
  config, params, golden = load('qwen2-loop')
  ids = golden['ids_0'][None]
  with pytest.raises(ValueError, match='segment_ids'):
    model.forward(
        params, config, ids, segment_ids=ids,
        cache=model.init_cache(config, 1, 8),
    )


def test_logits_are_the_head_times_the_hidden_states():
  config, params, golden = load('qwen2-tiny-untied')
  ids = golden['ids_1'][None]
  hidden, _ = forward(params, config, ids, return_hidden=True)
  assert hidden.shape == (1, 9, config.width)
  np.testing.assert_allclose(
      hidden[0] @ model.head(params).T, golden['logits_1'], atol=ATOL
  )


def test_remat_changes_neither_loss_nor_gradient():
  config, params, golden = load('qwen3-tiny')
  ids = golden['ids_1'][None]

  def loss(params, remat):
    c = dataclasses.replace(config, remat=remat)
    logits, _ = model.forward(params, c, ids[:, :-1])
    return -jnp.sum(ddt.token_stats(logits, ids[:, 1:]).log_p)

  grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  kept, kept_grad = grad(params, 'none')
  for remat in ('dots', 'full'):
    again, again_grad = grad(params, remat)
    np.testing.assert_allclose(again, kept, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()
        ),
        again_grad, kept_grad,
    )


def test_bfloat16_is_close_and_parameters_stay_float32():
  _, _, golden = load('qwen2-tiny')
  config, params = weights.load(
      paths.GOLDEN / 'models' / 'qwen2-tiny', dtype='bfloat16'
  )
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  hidden, _ = forward(params, config, golden['ids_3'][None], return_hidden=True)
  assert hidden.dtype == jnp.bfloat16
  logits, _ = forward(params, config, golden['ids_3'][None])
  assert logits.dtype == jnp.float32
  # 8 bits of mantissa through three layers of wide weights: some per cent.
  error = np.asarray(logits[0] - golden['logits_3']).std()
  assert 0 < error < 0.06 * golden['logits_3'].std()


def test_init_has_the_tree_of_a_loaded_model():
  def abstract(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

  for name in ('qwen2-tiny', 'qwen3-tiny', 'llama-tiny', 'gemma3-tiny'):
    config, params, _ = load(name)
    fresh = jax.eval_shape(lambda c=config: model.init(c, jax.random.key(0)))
    assert abstract(fresh) == abstract(params)


def test_a_fresh_model_depends_on_its_key_and_no_two_layers_are_equal():
  config = model.ModelConfig.from_hf(fields(
      'qwen2-loop', num_hidden_layers=2, layer_types=None,
      initializer_range=0.1,
  ))
  init = jax.jit(model.init, static_argnums=0)
  a, b = (init(config, jax.random.key(seed)) for seed in (0, 1))
  kernel = a['layers']['attn']['q']['kernel']
  assert np.std(kernel) == pytest.approx(0.1, rel=0.1)
  assert not np.allclose(kernel[0], kernel[1])
  assert not np.allclose(kernel, b['layers']['attn']['q']['kernel'])


@pytest.mark.parametrize('told', [True, False], ids=['positions', 'default'])
def test_caches_of_several_sizes_share_the_rows_of_a_batch(told):
  config, params, *_ = load('qwen2-tiny')
  rng = np.random.default_rng(4)
  texts = rng.integers(0, 470, (3, 9))
  expected = forward(params, config, texts)[0]

  # Rows 0 and 1 in a cache of 9 columns, row 2 in one of 20.
  caches = (model.init_cache(config, 2, 9), model.init_cache(config, 1, 20))
  found = []
  for part in (texts[:, :5], texts[:, 5:6], texts[:, 6:]):
    start = sum(x.shape[1] for x in found)
    positions = np.broadcast_to(start + np.arange(part.shape[1]), part.shape)
    logits, caches = forward(
        params, config, part, positions=positions if told else None, cache=caches
    )
    found.append(logits)
  np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-4)
  assert [int(c.index) for c in caches] == [9, 9]


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('rows', [1, 2, 16, 65])
def test_logits_of_one_token_a_row(name, rows):
  config, params, _ = load(name)
  hidden = jax.random.normal(jax.random.key(rows), (rows, config.width))
  expected = np.asarray(hidden) @ np.asarray(model.head(params)).T
  found = jax.jit(model.next_logits)(params, hidden)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert found.dtype == jnp.float32
