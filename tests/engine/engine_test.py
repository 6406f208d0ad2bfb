"""Sampling against the uncached forward; batch mates, stops, refusals."""

import dataclasses
import functools
import heapq
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import sharding
from ddt_jax import stopping
from ddt_jax import weights
from ddt_jax.engine import device_loop
from tests.support import jobs
from tests.support import paths

MODELS = paths.GOLDEN / 'models'
NEW = 16  # tokens
KEY = jax.random.key(7)
NO_EOS = (502,)  # a token that the responses below do not contain
HOW = {'temperature': 0.8, 'top_p': 0.95}

load = functools.cache(weights.load)


def make_prompts():
  rng = np.random.default_rng(0)
  lengths = [1, 32, 7, 31, 3, 12, 20, 2, 9, 30, 5, 17, 28, 4, 14, 6]
  return [rng.integers(0, 470, n).tolist() for n in lengths]


PROMPTS = make_prompts()


def generate(name='qwen2-tiny', prompts=PROMPTS, *, params=None, **options):
  config, loaded = load(MODELS / name)
  options = dict(key=KEY, max_new_tokens=NEW, eos_ids=NO_EOS) | HOW | options
  return engine.generate(params or loaded, config, prompts, **options)


@functools.cache
def reference():
  """All prompts as one batch."""
  return generate()


def tokens(results):
  return [r.tokens for r in results]


@functools.cache
def full_forward(name):
  config, params = load(MODELS / name)
  return jax.jit(lambda tokens: model.forward(params, config, tokens)[0])


def uncached(name, choose):
  """The responses by a full forward for every token, and all logits."""
  rows, ends = np.arange(len(PROMPTS)), np.array([len(p) for p in PROMPTS])
  # What stands to the right of a token does not reach it.
  text = np.zeros((len(PROMPTS), max(ends) + NEW), np.int32)
  for row, prompt in zip(text, PROMPTS, strict=True):
    row[:len(prompt)] = prompt
  logits = []
  for step in range(NEW):
    logits.append(full_forward(name)(text)[rows, ends + step - 1])
    text[rows, ends + step] = choose(logits[-1], step)
  responses = [row[n:n + NEW].tolist() for row, n in zip(text, ends, strict=True)]
  return responses, np.stack(logits)


@pytest.mark.parametrize('name', ['qwen2-tiny', 'llama-tiny'])
def test_greedy_is_the_argmax_of_the_full_forward(name):
  expected, logits = uncached(name, lambda x, step: x.argmax(-1))
  second, first = np.moveaxis(np.sort(logits, -1)[..., -2:], -1, 0)
  assert (first - second).min() > 1e-4  # no ties, so that rounding cannot tell
  found = generate(name, greedy=True)
  assert tokens(found) == expected
  assert {r.finish for r in found} == {'length'}


def test_a_draw_comes_from_key_request_and_place_in_the_response():
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(len(PROMPTS)))

  @jax.jit
  def choose(logits, step):
    at = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    return sampling.draw(at, sampling.distribution(logits, **HOW))

  expected, _ = uncached('qwen2-tiny', choose)
  assert tokens(reference()) == expected


@pytest.mark.parametrize('slots', [1, 3])
def test_results_do_not_depend_on_batch_mates(slots):
  # In another order, too; a request keeps its id, and with it its draws.
  order = np.random.default_rng(slots).permutation(len(PROMPTS)).tolist()
  prompts, reported = [PROMPTS[i] for i in order], []
  if slots > 1:  # a mate for whose length the others are padded
    prompts, order = [PROMPTS[1] * 2, *prompts], [100, *order]
  found = generate(
      prompts=prompts, request_ids=order, slots=slots,
      on_result=lambda *result: reported.append(result),
  )
  mismatches = [
      i for i, result in zip(order, found, strict=True)
      if i != 100 and result != reference()[i]
  ]
  assert not mismatches
  # Each result is reported once, with its index in `prompts`.
  assert sorted(reported) == list(enumerate(found))


def test_eight_devices_draw_what_one_does():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  config, params = weights.load(MODELS / 'qwen2-tiny', mesh=mesh)
  # Ten slots are no multiple of the four that share the rows.
  found = generate(params=params, mesh=mesh, slots=10)
  assert found == reference()


def test_request_ids_name_the_streams():
  same = [PROMPTS[1]] * len(PROMPTS)
  found = tokens(generate(prompts=same))
  assert found[1] == reference()[1].tokens
  assert len(set(map(tuple, found))) > len(PROMPTS) // 2
  moved = tokens(generate(
      prompts=same, request_ids=[*range(5, len(PROMPTS)), *range(100, 105)]
  ))
  assert moved[:-5] == found[5:]
  assert not any(response in found for response in moved[-5:])


def test_another_key_draws_otherwise():
  found = tokens(generate(key=jax.random.key(8)))
  assert sum(a == b for a, b in zip(found, tokens(reference()), strict=True)) < 4


def cut(response, eos_ids, limit):
  """What is left of a response that could have gone on."""
  ends = [i for i, token in enumerate(response[:limit]) if token in eos_ids]
  stop = ends[0] + 1 if ends else limit
  return engine.Generated(response[:stop], 'eos' if ends else 'length')


def test_each_request_has_its_own_limit():
  limits = [1, NEW, 1000, *range(2, 15)]
  expected = [
      cut(r.tokens, NO_EOS, min(n, NEW))
      for r, n in zip(reference(), limits, strict=True)
  ]
  assert generate(max_tokens=limits) == expected


def test_any_eos_ends_a_response_and_is_its_last_token():
  responses = tokens(reference())
  eos = responses[0][0], responses[1][5], responses[2][NEW - 1]
  expected = [cut(r, eos, NEW) for r in responses]
  assert {r.finish for r in expected} == {'eos', 'length'}
  assert len({r.tokens[-1] for r in expected if r.finish == 'eos'}) == 3
  assert generate(eos_ids=eos) == expected
  # An EOS at the limit is an EOS; one past the limit was never drawn.
  limits = [max(len(r.tokens) - i % 2, 1) for i, r in enumerate(expected)]
  shorter = [cut(r, eos, n) for r, n in zip(responses, limits, strict=True)]
  assert shorter != expected
  assert generate(eos_ids=eos, max_tokens=limits) == shorter


def test_a_cache_of_bfloat16_rounds():
  exact = np.array(tokens(generate(greedy=True)))
  rounded = np.array(tokens(generate(greedy=True, cache_dtype=jnp.bfloat16)))
  assert rounded.shape == exact.shape and (rounded != exact).any()
  assert (rounded[:, 0] == exact[:, 0]).mean() > 0.8
  named = tokens(generate(greedy=True, cache_dtype='bfloat16'))
  assert named == rounded.tolist()
  assert tokens(generate(greedy=True, cache_dtype='')) == exact.tolist()


@pytest.mark.parametrize('slots', [1, 4])
def test_a_cache_of_int8_rounds(slots):
  exact = np.array(tokens(generate(greedy=True)))
  rounded = np.array(tokens(generate(greedy=True, cache_dtype='int8', slots=slots)))
  assert rounded.shape == exact.shape and (rounded != exact).any()
  assert (rounded[:, 0] == exact[:, 0]).mean() > 0.8


def test_in_bfloat16_a_call_repeats_itself():
  # With any mates: only the number of rows changes rounding.
  config, params = weights.load(MODELS / 'qwen2-tiny', dtype='bfloat16')
  how = dict(key=KEY, max_new_tokens=NEW, eos_ids=NO_EOS, slots=4) | HOW
  found = engine.generate(params, config, PROMPTS, **how)
  assert engine.generate(params, config, PROMPTS, **how) == found
  mates = PROMPTS[:8] + [p[::-1] for p in PROMPTS[8:]]
  assert engine.generate(params, config, mates, **how)[:8] == found[:8]


def test_frequencies_of_a_token_are_those_of_the_softmax():
  n, prompt = 4000, PROMPTS[2]
  found = generate(
      'qwen2-loop', [prompt] * n, max_new_tokens=1, slots=1000, temperature=4.0,
      top_p=1.0,
  )
  logits = full_forward('qwen2-loop')(np.array([prompt]))[0, -1]
  expected = n * np.asarray(jax.nn.softmax(logits / 4))
  counts = np.bincount([r.tokens[0] for r in found], minlength=len(expected))
  rare = expected < 5  # together: the normal approximation needs numbers
  counts, expected = (
      np.append(x[~rare], x[rare].sum()) for x in (counts, expected)
  )
  chi2 = ((counts - expected) ** 2 / expected).sum()
  freedom = len(expected) - 1
  assert freedom > 20
  assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize('options, said', [
    ({'prompts': [[1], []]}, 'request 1: an empty prompt'),
    ({'prompts': [[1], [2]], 'max_tokens': [4, -1]}, 'request 1: .*limit'),
    ({'prompts': [[1], [2]], 'max_tokens': [4]}, 'one limit for each prompt'),
    ({'prompts': [[1], [2] * 2040]}, 'request 1: 2040 prompt and 16 .* 2048'),
    ({'temperature': 0.0}, 'temperature 0.*greedy'),
    ({'temperature': -1.0}, 'temperature -1'),
    ({'top_p': 0.0}, 'top_p 0'),
    ({'top_p': 1.5}, 'top_p 1.5'),
    ({'prompts': [[1], [2]], 'request_ids': [3, 3]}, 'request_ids'),
    ({'prompts': [[1], [2]], 'request_ids': [3]}, 'request_ids'),
    ({'prompts': [[1], [2]], 'request_ids': [3, 3, 4]}, 'request_ids'),
    ({'prompts': [[1], [2]], 'order': 'both'}, "order='both'"),
    ({'order': 'both', 'greedy': True}, "order='both'"),
    ({'temperature': np.nan}, 'temperature nan'),
    ({'prompts': [[1], [2, 503]]}, 'request 1: .* vocabulary of 503'),
    ({'prompts': [[1], [-1, 2]]}, 'request 1: .* vocabulary of 503'),
    ({'prompts': [[1]], 'request_ids': [2**31]}, 'id 2147483648'),
    ({'slots': 0}, 'slots 0'),
    ({'repetition': (4, 3, 0)}, 'repetition.*positive'),
    ({'cache_dtype': 'uint8'}, 'cache_dtype uint8'),
    ({'cache_dtype': jnp.float8_e4m3fn}, 'cache_dtype float8'),
    ({'cache_dtype': 'bf16'}, 'decoding.cache_dtype bf16'),
    ({'eos_ids': (5, 503)}, r'EOS ids \[503\]'),
    ({'repetition': (4, 3)}, 'repetition'),
], ids=str)
def test_invalid_options_and_requests_are_refused_by_name(options, said):
  with pytest.raises(errors.InputError, match=said):
    generate('qwen2-loop', **options)


def test_greedy_asks_for_no_temperature():
  assert generate(greedy=True, temperature=0.0) == generate(greedy=True)


def test_parameters_decode_where_they_are():
  _, params = load(MODELS / 'qwen2-tiny')
  third = jax.device_put(params, jax.devices()[2])
  assert generate(prompts=PROMPTS[:3], params=third) == reference()[:3]
  mesh = sharding.make_mesh(fsdp=4, devices=jax.devices()[:4])
  _, spread = weights.load(MODELS / 'qwen2-tiny', mesh=mesh)
  with pytest.raises(errors.InputError, match='4 devices.*mesh='):
    generate(params=spread)


def test_parameters_may_be_unstacked_before():
  _, params = load(MODELS / 'qwen2-tiny')
  apart = model.unstacked(params)
  assert apart['embed'] is params['embed'] and model.unstacked(apart) is apart
  assert generate(prompts=PROMPTS[:3], params=apart) == reference()[:3]


def test_a_prompt_may_fill_the_model_to_the_last_position():
  config, _ = load(MODELS / 'qwen2-loop')
  prompt = (PROMPTS[1] * 64)[:config.max_positions - NEW]
  found, = generate('qwen2-loop', [prompt])
  assert len(found.tokens) == NEW


def test_a_request_for_no_token_has_a_result_as_well():
  reported = []
  found = generate(
      prompts=PROMPTS[:3], max_tokens=[2, 0, 1],
      on_result=lambda *result: reported.append(result),
  )
  assert found[1] == engine.Generated([], 'length')
  assert sorted(reported) == list(enumerate(found))


@pytest.mark.parametrize('every', [1, 5])
def test_a_loop_is_cut_where_it_is_checked(every):
  n, times = 4, 3
  how = dict(greedy=True, max_new_tokens=64)
  whole, = generate('qwen2-loop', [PROMPTS[2]], **how)
  stops = []
  for official in (False, True):
    found, = generate(
        'qwen2-loop', [PROMPTS[2]], repetition=(n, times, every),
        official_window=official, **how,
    )
    stops.append(next(
        k for k in range(every, 64, every) if stopping.repeats(
            whole.tokens[:k], n=n, times=times, official_window=official)
    ))
    assert found == engine.Generated(whole.tokens[:stops[-1]], 'repetition')
  if every == 1:
    assert stops[1] == stops[0] + 1


@pytest.mark.parametrize('slots', [1, 3, 8])
def test_loops_are_cut_between_mates_over_many_host_syncs(slots):
  n, times, every = 30, 5, 100
  how = dict(greedy=True, max_new_tokens=2 * engine.STEPS_PER_SYNC + 20, slots=slots)
  prompts = PROMPTS[3:11]
  whole = generate('qwen2-loop', prompts, **how)
  expected = []
  for r in whole:
    stops = [
        k for k in range(every, len(r.tokens), every)
        if stopping.repeats(r.tokens[:k], n=n, times=times)
    ]
    expected.append(
        engine.Generated(r.tokens[:stops[0]], 'repetition') if stops else r)
  reported = []
  found = generate(
      'qwen2-loop', prompts, repetition=(n, times, every),
      on_result=lambda i, _: reported.append(i), **how,
  )
  assert found == expected and sorted(reported) == list(range(len(prompts)))
  assert {len(r.tokens) for r in found} == {100, 200, 276}


def test_no_prompts_no_results():
  assert generate(prompts=[]) == []


def ideal_steps(lengths, slots):
  """Of list scheduling: each request goes to the slot that is free first."""
  free = [0] * slots
  for n in lengths:
    heapq.heapreplace(free, free[0] + n)
  return max(free)


def test_slots_are_refilled_at_once():
  # Lengths with a mean of a quarter of the maximum, as answers have them.
  config, params = load(MODELS / 'qwen2-loop')
  lengths = np.random.default_rng(3).geometric(1 / 16, 512).clip(1, 64)
  syncs = []
  prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(lengths))]
  found = engine.run(
      params, config,
      [engine.Request((p,), int(n), i)
       for i, (p, n) in enumerate(zip(prompts, lengths, strict=True))],
      engine.DecodeOptions(eos_ids=(), slots=8), key=KEY, on_sync=syncs.append,
  )
  assert [len(r.tokens) for r in found] == lengths.tolist()
  steps = sum(s.steps for s in syncs)
  assert sum(s.tokens for s in syncs) == lengths.sum()
  assert sum(s.prompt_tokens for s in syncs) == sum(len(p) - 1 for p in prompts)
  assert steps == ideal_steps(lengths.tolist(), 8)
  assert steps / len(syncs) >= 32


@pytest.mark.parametrize('axes', [
    dict(fsdp=1, devices=jax.devices()[:1]), dict(data=2, fsdp=2, tensor=2),
], ids=['1 device', '8 devices'])
def test_few_shapes_are_compiled(axes):
  # Prompts of 1 to 120 tokens fall into buckets of 16, 24, 32, 48, 64, 96, 128.
  prompts = [(PROMPTS[1] * 4)[:n] for n in range(1, 121)]
  mesh = sharding.make_mesh(**axes)
  _, params = weights.load(MODELS / 'qwen2-tiny', mesh=mesh)
  counts = [f._cache_size() for f in (device_loop.prefill, device_loop.decode)]
  for order in (prompts, prompts[::-1]):
    generate(prompts=order, params=params, mesh=mesh, slots=12,
             max_new_tokens=9, greedy=True)
  prefills, decodes = (
      f._cache_size() - n
      for f, n in zip((device_loop.prefill, device_loop.decode), counts, strict=True)
  )
  assert 7 <= prefills <= 14
  assert 1 <= decodes <= 2


def drawn(logits, u, how):
  """The token that u draws, and how near it is to another; in float64."""
  p = np.exp(np.float64(logits) - np.float64(logits).max())
  p /= p.sum()
  ranked = np.argsort(-p, kind='stable')
  before = np.cumsum(p[ranked]) - p[ranked]
  kept = np.zeros(len(p), bool)
  kept[ranked[before <= how['top_p']]] = True
  p = np.where(kept, p, 0) ** (1 / how['temperature'])
  borders = np.cumsum(p / p.sum())
  margin = min(np.abs(borders - u).min(), np.abs(before - how['top_p']).min())
  return int(np.argmax(borders > u)), margin


def exact_logits(config, params, ids):
  """Of the token after `ids`, in float64."""
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(np.float64(x)), params)
    config = dataclasses.replace(config, dtype='float64')
    logits = np.asarray(model.forward(exact, config, ids)[0][0, -1])
  assert logits.dtype == np.float64
  return logits


def test_float64_is_float32_but_for_rounding():
  config, params = load(MODELS / 'qwen2-tiny')
  ids = np.array([PROMPTS[1]])
  exact = exact_logits(config, params, ids)
  rounded = np.asarray(model.forward(params, config, ids)[0][0, -1])
  assert 0 < np.abs(exact - rounded).max() < 1e-4


@pytest.mark.slow
def test_ten_thousand_requests_through_7_and_64_slots():
  rng = np.random.default_rng(11)
  n, how = 10_000, HOW
  prompts = [rng.integers(0, 470, k).tolist() for k in rng.integers(1, 40, n)]
  limits = rng.integers(1, 25, n).tolist()
  eos = rng.integers(0, 503, 6).tolist()
  options = dict(
      prompts=prompts, max_tokens=limits, max_new_tokens=24, eos_ids=eos)
  narrow, wide = (generate(slots=slots, **options) for slots in (7, 64))
  assert wide == generate(slots=64, **options)  # the same slots: the same bits
  config, params = load(MODELS / 'qwen2-tiny')
  differ = [i for i in range(n) if narrow[i] != wide[i]]
  print(f'{len(differ)} of {n} requests differ')
  assert len(differ) < n / 200
  for i in differ:
    a, b = narrow[i].tokens, wide[i].tokens
    at = next(t for t in range(24) if a[t: t + 1] != b[t: t + 1])
    ids = np.array([prompts[i] + a[:at]])
    key = jax.random.fold_in(jax.random.fold_in(KEY, i), at)
    u = float(jax.random.uniform(key))
    token, margin = drawn(exact_logits(config, params, ids), u, how)
    assert token in (a[at], b[at]) and margin < 1e-5, (i, at, margin)


@pytest.mark.slow
def test_two_processes_decode_what_one_does(tmp_path):
  first, second = jobs.launch('decode', tmp_path)
  here = json.loads(json.dumps(jobs.decode()))
  assert second == here
  assert here['alone'] == here['plain']
  assert first == here | {'alone': None}
  assert {len(tokens) for tokens, *_ in here['hinted']} != {20}  # some end early
