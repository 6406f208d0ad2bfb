"""E[phi] = 0, hand-made rows, the official PhiCalculator's numbers."""

import functools
import json

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import weights
from tests.support import paths

CASES = json.loads((paths.GOLDEN / 'phi' / 'phi.json').read_text())

load = functools.cache(weights.load)
forward = jax.jit(model.forward, static_argnames='config')


def float64_stats(logits, targets):
  z = np.asarray(logits, np.float64)
  z = z - z.max(-1, keepdims=True)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  p = np.exp(log_p)
  entropy = -(p * log_p).sum(-1)
  return ddt.TokenStats(
      log_p=np.take_along_axis(log_p, targets[..., None], -1)[..., 0],
      entropy=entropy,
      varentropy=(p * (log_p + entropy[..., None]) ** 2).sum(-1),
      collision=(p**2).sum(-1),
      vocab_size=z.shape[-1],
  )


LOGITS = hnp.arrays(np.float32, 7, elements=st.floats(-30, 30, width=32))


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(LOGITS, st.sampled_from([0.3, 1.0, 2.5]))
def test_phi_has_mean_zero_and_variance_varentropy_under_the_model(
    logits, temperature
):
  every_token = jnp.arange(7)
  stats = ddt.token_stats(
      jnp.tile(logits, (7, 1)), every_token, temperature=temperature
  )
  p = np.exp(np.asarray(stats.log_p, np.float64))
  p = p / p.sum()
  # phi of a very unlikely token is large, and so is its float32 rounding.
  assert abs(np.sum(p * stats.phi)) < 1e-5
  np.testing.assert_allclose(
      np.sum(p * np.square(stats.phi)), stats.varentropy[0], atol=1e-5, rtol=1e-4
  )


def test_by_hand():
  # p = (1/2, 1/4, 1/4) has 1.5 bits of entropy, so phi = (0.5, -0.5, -0.5)
  # bits; each is half a bit from the mean; two draws agree 3/8 of the time.
  logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]] * 3))
  stats = ddt.token_stats(logits, jnp.arange(3))
  bit = np.log(2)
  np.testing.assert_allclose(stats.log_p / bit, [-1, -2, -2], atol=1e-6)
  np.testing.assert_allclose(stats.entropy / bit, 1.5, atol=1e-6)
  np.testing.assert_allclose(stats.phi / bit, [0.5, -0.5, -0.5], atol=1e-6)
  np.testing.assert_allclose(stats.varentropy / bit**2, 0.25, atol=1e-6)
  np.testing.assert_allclose(stats.collision, 0.375, atol=1e-6)
  np.testing.assert_array_equal(
      ddt.centered_log_likelihood(logits, jnp.arange(3)), stats.phi
  )


def test_uniform_and_certain_models_are_never_surprised():
  uniform = ddt.token_stats(jnp.zeros([2, 5]), jnp.array([0, 4]))
  np.testing.assert_allclose(uniform.phi, 0, atol=1e-6)
  np.testing.assert_allclose(uniform.varentropy, 0, atol=1e-6)
  certain = ddt.token_stats(jnp.array([0.0, 300.0]), jnp.array(1))
  assert certain.phi == 0 and certain.entropy == 0 and certain.collision == 1


def test_temperature_divides_the_logits():
  logits = jax.random.normal(jax.random.key(0), [4, 9])
  targets = jnp.arange(4)
  a = ddt.token_stats(logits, targets, temperature=0.5)
  b = ddt.token_stats(2 * logits, targets)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  for wrong in (0.0, -1.0):
    for score in (ddt.token_stats, ddt.centered_log_likelihood):
      with pytest.raises(errors.InputError, match=f'temperature .*{wrong}'):
        score(logits, targets, temperature=wrong)


def test_impossible_tokens_give_no_nan_in_value_or_gradient():
  logits = jnp.array([1.0, -jnp.inf, 0.5, -jnp.inf])
  stats = ddt.token_stats(logits, jnp.array(2))
  without = ddt.token_stats(logits[jnp.array([0, 2])], jnp.array(1))
  for a, b in zip(*map(jax.tree.leaves, (stats, without)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)

  def total(logits):
    return sum(jax.tree.leaves(ddt.token_stats(logits, jnp.array(2))))

  grad = jax.grad(total)(logits)
  np.testing.assert_allclose(
      grad[jnp.array([0, 2])],
      jax.grad(lambda z: sum(jax.tree.leaves(
          ddt.token_stats(z, jnp.array(1)))))(logits[jnp.array([0, 2])]),
      rtol=1e-5,
  )
  np.testing.assert_array_equal(grad[jnp.array([1, 3])], 0)
  # A token that cannot occur has log p = -inf, and the rest stays finite.
  never = ddt.token_stats(logits, jnp.array(1))
  assert never.log_p == -jnp.inf and jnp.isfinite(never.entropy)


def test_float32_agrees_with_float64_at_a_large_vocabulary():
  rng = np.random.default_rng(0)
  logits = (5 * rng.normal(size=(6, 50_000))).astype(np.float32)
  targets = rng.integers(0, 50_000, 6)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
      ddt.token_stats(logits, targets), float64_stats(logits, targets),
  )


def test_half_precision_logits_are_upcast():
  logits = jax.random.normal(jax.random.key(0), [3, 11]).astype(jnp.bfloat16)
  a = ddt.token_stats(logits, jnp.arange(3))
  b = ddt.token_stats(logits.astype(jnp.float32), jnp.arange(3))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert a.phi.dtype == jnp.float32


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_phi_is_the_statistics_phi_to_the_last_bit(temperature):
  logits = 3 * jax.random.normal(jax.random.key(0), [40, 203])
  logits = logits.at[:, 7].set(-jnp.inf)
  targets = jax.random.randint(jax.random.key(1), [40], 8, 203)
  np.testing.assert_array_equal(
      ddt.centered_log_likelihood(logits, targets, temperature=temperature),
      ddt.token_stats(logits, targets, temperature=temperature).phi)


def test_map_applies_to_every_statistic():
  stats = ddt.token_stats(jnp.zeros([2, 3, 5]), jnp.zeros([2, 3], int))
  assert {x.shape for x in jax.tree.leaves(stats.map(jnp.ravel))} == {(6,)}


@functools.cache
def tokenizer():
  return transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')


def prompt(case):
  """The text before the solution, by the case's template."""
  template, problem = case['prompt_template'], case['problem']
  if template == 'chat':
    return tokenizer().apply_chat_template(
        [{'role': 'user', 'content': problem}], tokenize=False,
        add_generation_prompt=True, enable_thinking=case['enable_thinking'],
    )
  if template is None:
    return f'Problem: {problem}\n\nSolution: '
  return template.format(question=problem) if template else problem


@pytest.mark.parametrize('case', CASES, ids=[str(c['id']) for c in CASES])
def test_official_phi_from_text_to_summary(case):
  start = len(tokenizer().encode(prompt(case), add_special_tokens=False))
  ids = tokenizer().encode(
      prompt(case) + case['solution'], add_special_tokens=False
  )
  if not case['solution']:
    assert len(ids) == start and case['num_tokens'] == 0
    return
  golden = np.load(paths.GOLDEN / 'phi' / 'phi.npz')
  golden = {k: golden[f'c{case["id"]}_{k}']
            for k in ('full_ids', 'phi64', 'logp64', 'entropy64')}
  np.testing.assert_array_equal(ids, golden['full_ids'])
  assert start == case['prompt_length']
  config, params = load(paths.GOLDEN / 'models' / case['model'])
  # One shape for all cases; right padding does not change the logits.
  padded = np.pad(ids, (0, 96 - len(ids)))[None]
  positions = np.where(np.arange(96) < len(ids), np.arange(96), -1)[None]
  logits = forward(params, config, padded, positions=positions)[0][0]
  temperature = max(case['temperature'], 1e-8)
  stats = ddt.token_stats(
      logits[start - 1: len(ids) - 1], np.array(ids[start:]),
      temperature=temperature,
  )
  # The model's float32 allowance of 3e-4 is divided by the temperature.
  atol = 3e-4 / min(temperature, 1.0)
  np.testing.assert_allclose(stats.log_p, golden['logp64'], atol=atol)
  np.testing.assert_allclose(stats.phi, golden['phi64'], atol=atol)
  if temperature > 1e-8:  # at 1e-8 the entropy is that of float noise
    np.testing.assert_allclose(stats.entropy, golden['entropy64'], atol=atol)
  np.testing.assert_allclose(
      [stats.phi.sum(), stats.phi.mean()],
      [case['total_phi'], case['avg_phi']], rtol=1e-4,
      atol=atol * case['num_tokens'],
  )
  assert np.mean(stats.phi > 0) == pytest.approx(case['positive_ratio'])
  for bound in (1, 3, 5):
    assert np.mean(stats.phi > -bound) == pytest.approx(
        case[f'ratio_phi_gt_-{bound}']
    )


def test_the_model_s_own_text_looks_on_policy_and_random_text_does_not():
  config, params = load(paths.GOLDEN / 'models' / 'qwen2-tiny')
  golden = np.load(paths.GOLDEN / 'logits' / 'qwen2-tiny.npz')
  own = golden['own_ids']
  rng = np.random.default_rng(0)
  foreign = np.where(
      np.arange(len(own)) < golden['own_prompt_len'],
      own, rng.integers(0, 470, len(own)),
  )
  rows = np.stack([own, foreign])
  logits, _ = forward(params, config, rows)
  stats = ddt.token_stats(logits[:, :-1], rows[:, 1:])
  np.testing.assert_allclose(stats.phi[0], golden['own_phi'], atol=3e-4)
  response = np.arange(1, len(own)) >= golden['own_prompt_len']
  test = ddt.on_policy_test(stats, jnp.tile(response, (2, 1)))
  assert test.p_value[0] > 0.05
  assert test.p_value[1] < 1e-6 and test.mean_phi[1] < -1


def test_on_policy_test_by_hand():
  stats = ddt.TokenStats(
      log_p=jnp.array([[-2.0, -1.0, -9.0]]), entropy=jnp.array([[1.0, 1.5, 1]]),
      varentropy=jnp.array([[1.0, 3.0, 7.0]]), collision=jnp.zeros([1, 3]),
  )
  test = ddt.on_policy_test(stats, jnp.array([[1, 1, 0]]))
  # phi = (-1, 0.5): their sum over the square root of 1 + 3.
  np.testing.assert_allclose(test.mean_phi, [-0.25])
  np.testing.assert_allclose(test.z, [-0.25])
  np.testing.assert_allclose(test.p_value, [0.80258], atol=1e-5)


def test_forced_and_empty_texts_are_no_evidence():
  forced = ddt.token_stats(
      jnp.array([[[0.0, 200.0]] * 3] * 2), jnp.ones([2, 3], int)
  )
  test = ddt.on_policy_test(forced, jnp.array([[1, 1, 1], [0, 0, 0]]))
  np.testing.assert_array_equal(test.z, 0)
  np.testing.assert_array_equal(test.p_value, 1)
  np.testing.assert_array_equal(test.mean_phi, 0)


def test_p_values_of_own_samples_are_uniform():
  # 2000 texts of 200 tokens, each token from a distribution of its own.
  logits = 2 * jax.random.normal(jax.random.key(1), [200, 12])

  @jax.jit
  def p_values(key):
    tokens = jax.random.categorical(key, logits, shape=(2000, 200))
    stats = ddt.token_stats(
        jnp.broadcast_to(logits, (2000, 200, 12)), tokens
    )
    return ddt.on_policy_test(stats, jnp.ones(tokens.shape)).p_value

  ranked = np.sort(p_values(jax.random.key(2)))
  distance = np.abs(ranked - (np.arange(2000) + 0.5) / 2000).max()
  # Kolmogorov's 0.1 % point is 1.95 / sqrt(2000) = 0.044.
  assert distance < 0.044


def test_tail_ties_and_the_likeliest_by_hand():
  # Probabilities 1/2, 1/8, 1/4, 1/8.
  logits = jnp.log(jnp.array([[0.5, 0.125, 0.25, 0.125]] * 4))
  stats = ddt.token_stats(logits, jnp.arange(4), tail=True, top_k=2)
  np.testing.assert_allclose(stats.tail, [0, 0.75, 0.5, 0.75], atol=1e-6)
  np.testing.assert_allclose(stats.ties, [0.5, 0.25, 0.25, 0.25], atol=1e-6)
  np.testing.assert_array_equal(stats.top_ids, [[0, 2]] * 4)
  np.testing.assert_allclose(
      np.exp(stats.top_log_p), [[0.5, 0.25]] * 4, rtol=1e-5)
  plain = ddt.token_stats(logits, jnp.arange(4))
  assert plain.tail is plain.ties is plain.top_ids is plain.top_log_p is None
  every = ddt.token_stats(logits, jnp.arange(4), top_k=9)
  np.testing.assert_allclose(
      -(np.exp(every.top_log_p) * every.top_log_p).sum(-1), every.entropy, atol=1e-6)
  u = ddt.randomised_pit(stats, jnp.array([0.5, 0.0, 0.2, 1.0]))
  np.testing.assert_allclose(u, [0.25, 0.75, 0.55, 1.0], atol=1e-6)


def test_the_pit_test_by_hand():
  # Row 0, one token: both p-values are 2 min(u, 1 - u). Row 1, two tokens whose
  # scores cancel: the survival function of S is e^-S (1 + S). Row 2: one token has
  # weight 0 in W. Row 3: no token.
  u = jnp.array([[0.9, 0.3], [0.999, 0.001], [0.999, 0.5], [0.9, 0.9]])
  varentropy = jnp.array([[2.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
  mask = jnp.array([[1, 0], [1, 1], [1, 1], [0, 0]])
  s = -np.log(0.001 * 0.999)
  fisher = 2 * np.exp(-s) * (1 + s)
  np.testing.assert_allclose(
      ddt.pit_test(u, varentropy, mask),
      [2 * 0.2, 2 * fisher, 2 * 2 * 0.001, 1], rtol=2e-4)
  # A certain model: W sees nothing, S does.
  surprised = ddt.pit_test(jnp.ones([1, 5]), jnp.zeros([1, 5]), jnp.ones([1, 5]))
  assert 0 < surprised[0] < 1e-15


@pytest.mark.parametrize('scale', [0.5, 8.0])  # hardly and nearly always certain
def test_pit_is_uniform_and_its_test_rejects_no_more_than_it_may(scale):
  logits = scale * jax.random.normal(jax.random.key(3), [3, 12])

  @jax.jit
  def drawn(key):
    of_tokens, of_ties = jax.random.split(key)
    tokens = jax.random.categorical(of_tokens, logits, shape=(4000, 3))
    stats = ddt.token_stats(
        jnp.broadcast_to(logits, (4000, 3, 12)), tokens, tail=True)
    u = ddt.randomised_pit(stats, jax.random.uniform(of_ties, tokens.shape))
    return u, ddt.pit_test(u, stats.varentropy, jnp.ones(tokens.shape))

  u, p_value = drawn(jax.random.key(4))
  ranked = np.sort(u.ravel())
  n = len(ranked)
  assert np.abs(ranked - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)
  for level in (0.2, 0.05, 0.01):
    assert np.mean(p_value < level) < level + 3 * np.sqrt(level / 4000)
  assert np.mean(p_value < 0.2) > 0.1
