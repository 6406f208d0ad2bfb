"""The official lambda schedules; the mixture at its ends and with -inf."""

import json

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import hinting
from tests.support import paths

SAMPLING = paths.GOLDEN / 'sampling'
RULES = json.loads((SAMPLING / 'functions.json').read_text())['lam']
V = 503


def log_softmax(seed, shape=(3, V)):
  return jax.nn.log_softmax(
      3 * jax.random.normal(jax.random.key(seed), shape)
  )


@pytest.mark.parametrize('rule', RULES, ids=lambda r: f'{r["mode"]}')
def test_official_rules(rule):
  options = {k: rule[k] for k in ('beta', 'center', 'bounds') if k in rule}
  entropy = np.array(rule['H_norm']) * np.log(V)
  lam = hinting.hint_weight(entropy, V, schedule=rule['mode'], **options)
  np.testing.assert_allclose(lam, rule['lam'], atol=2e-6)


def test_defaults_are_the_linear_rule():
  h = np.linspace(0, 1, 5)
  lam = hinting.hint_weight(h * np.log(V), V)
  np.testing.assert_allclose(lam, 0.7 * h, atol=1e-6)


@pytest.mark.parametrize('options, message', [
    ({'schedule': 'cosine'}, "'cosine'.*linear.*sigmoid.*piecewise"),
    ({'schedule': 'piecewise', 'bounds': (0.7, 0.3)}, 'bounds'),
])
def test_wrong_options_are_refused(options, message):
  with pytest.raises(errors.InputError, match=message):
    hinting.hint_weight(jnp.ones(1), V, **options)


def test_entropy():
  x = np.random.default_rng(0).normal(size=(4, V)).astype(np.float32)
  x *= np.array([[0], [1], [10], [100]], np.float32)
  x[:, 7] = -np.inf
  log_p = x - np.log(np.sum(np.exp(x.astype(np.float64)), -1, keepdims=True))
  log_p[:, 7] = -1e3
  expected = -np.sum(np.exp(log_p) * log_p, -1)
  np.testing.assert_allclose(
      hinting.entropy(jnp.asarray(x) + 50), expected, rtol=1e-5, atol=1e-6
  )


def test_the_ends_of_the_mixture_are_its_streams():
  log_p, log_q = log_softmax(0), log_softmax(1)
  none, all_ = jnp.zeros(3), jnp.ones(3)
  np.testing.assert_array_equal(hinting.mix(log_p, log_q, none), log_p)
  np.testing.assert_array_equal(hinting.mix(log_p, log_q, all_), log_q)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.floats(0, 1, width=32))
def test_mixture_is_geometric(lam):
  log_p, log_q = log_softmax(0), log_softmax(1)
  log_m = hinting.mix(log_p, log_q, jnp.full(3, lam))
  expected = np.exp(log_p) ** (1 - lam) * np.exp(log_q) ** lam
  np.testing.assert_allclose(np.exp(log_m), expected, rtol=1e-4, atol=1e-9)


def test_each_row_has_its_own_share():
  log_p, log_q = log_softmax(0), log_softmax(1)
  lam = jnp.array([0.0, 0.25, 1.0])
  log_m = hinting.mix(log_p, log_q, lam)
  for row in range(3):
    np.testing.assert_allclose(
        log_m[row], hinting.mix(log_p[row], log_q[row], lam[row]), rtol=1e-6
    )


def test_forbidden_tokens_stay_forbidden_and_poison_nothing():
  log_p = jnp.log(jnp.array([0.5, 0.5, 0.0, 0.0]))
  log_q = jnp.log(jnp.array([0.25, 0.0, 0.75, 0.0]))
  no, half, yes = (
      jnp.exp(hinting.mix(log_p, log_q, jnp.array(lam)))
      for lam in (0.0, 0.5, 1.0)
  )
  np.testing.assert_allclose(no, [0.5, 0.5, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(half, [0.125**0.5, 0, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(yes, [0.25, 0, 0.75, 0], rtol=1e-6)
