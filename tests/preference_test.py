"""DPO and SimPO: formulas in float64, limits, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import preference


@pytest.fixture
def pairs():
  """Log-probabilities of 64 pairs, policy and reference, nats."""
  rng = np.random.default_rng(0)
  policy = -rng.gamma(4.0, 10.0, (2, 64))
  return policy, policy + rng.normal(0, 0.3, policy.shape)


def log_sigmoid(x):
  return -np.logaddexp(0, -x)


@pytest.mark.parametrize('beta', [0.1, 2.0])
@pytest.mark.parametrize('e', [0.0, 0.1, 0.4])
def test_dpo_is_its_formula(pairs, beta, e):
  (c, r), (ref_c, ref_r) = pairs
  h = beta * ((c - ref_c) - (r - ref_r))
  want = -(1 - e) * log_sigmoid(h) - e * log_sigmoid(-h)
  losses, metrics = preference.dpo(
      c, r, ref_c, ref_r, beta=beta, label_smoothing=e)
  np.testing.assert_allclose(losses, want, rtol=1e-4)
  np.testing.assert_allclose(metrics['rewards/margins'], h, rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(metrics['rewards/accuracies'], h > 0)


def test_dpo_of_the_reference_itself_is_log_2_and_pulls_both_sides_alike(pairs):
  (c, r), _ = pairs
  losses, metrics = preference.dpo(c, r, c, r)
  np.testing.assert_allclose(losses, np.log(2), rtol=1e-6)
  assert not np.any(metrics['rewards/accuracies'])
  total = lambda c, r: jnp.sum(preference.dpo(c, r, *pairs[0], beta=0.5)[0])
  grad_c, grad_r = jax.grad(total, (0, 1))(*map(jnp.asarray, pairs[0]))
  np.testing.assert_allclose(grad_c, -0.25, rtol=1e-5)  # -beta sigma(-h) at h = 0
  np.testing.assert_allclose(grad_r, 0.25, rtol=1e-5)


@pytest.mark.parametrize('e', [0.0, 0.2])
def test_the_gradient_of_dpo_is_that_of_its_formula_in_float64(pairs, e):
  beta, (policy, reference) = 0.7, pairs
  total = lambda x: jnp.sum(preference.dpo(
      *x, *reference, beta=beta, label_smoothing=e)[0])
  got = jax.grad(total)(jnp.asarray(policy, jnp.float32))
  h = beta * ((policy - reference)[0] - (policy - reference)[1])
  sigma = np.exp(log_sigmoid(h))
  slope = beta * (-(1 - e) * (1 - sigma) + e * sigma)
  want = np.stack([slope, -slope])
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_simpo_and_its_gradient_are_those_of_the_formula(pairs):
  (c, r), _ = pairs
  rng = np.random.default_rng(1)
  n_c, n_r = rng.integers(1, 200, (2, 64))
  beta, gamma = 2.5, 1.2
  h = beta * (c / n_c - r / n_r) - gamma
  args = n_c.astype(np.float32), n_r.astype(np.float32)
  losses, metrics = preference.simpo(c, r, *args, beta=beta, gamma=gamma)
  np.testing.assert_allclose(losses, -log_sigmoid(h), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      metrics['rewards/margins'], h + gamma, rtol=1e-4, atol=1e-5)
  total = lambda x: jnp.sum(
      preference.simpo(*x, *args, beta=beta, gamma=gamma)[0])
  got = jax.grad(total)(jnp.asarray(np.stack([c, r]), jnp.float32))
  slope = -beta * (1 - np.exp(log_sigmoid(h)))
  want = np.stack([slope / n_c, -slope / n_r])
  assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


LOSSES = {
    'dpo': lambda c, r, ref: preference.dpo(c, r, ref, ref, label_smoothing=0.1)[0],
    'simpo': lambda c, r, tokens: preference.simpo(c, r, tokens, tokens)[0],
}


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('c,r', [
    (0.0, 0.0), (-np.inf, -1.0), (-1.0, -np.inf), (-np.inf, -np.inf), (0.0, -1e6)])
@pytest.mark.parametrize('third', [0.0, 1.0])  # the reference, or the tokens
def test_limits_are_finite_in_value_and_gradient(name, c, r, third):
  total = lambda c, r: jnp.sum(LOSSES[name](c, r, jnp.array([third])))
  value, grads = jax.value_and_grad(total, (0, 1))(jnp.array([c]), jnp.array([r]))
  assert np.isfinite(value) and np.all(np.isfinite(grads))


@pytest.mark.parametrize('name', LOSSES)
def test_an_equal_pair_pulls_nowhere(name):
  total = lambda x: jnp.sum(LOSSES[name](x, x, jnp.array([3.0])))
  assert jax.grad(total)(jnp.array([-3.0])) == 0


@pytest.mark.parametrize('call,name', [
    (lambda x: preference.dpo(x, x, x, x, beta=0.0), 'beta'),
    (lambda x: preference.dpo(x, x, x, x, label_smoothing=0.5), 'label_smoothing'),
    (lambda x: preference.simpo(x, x, x, x, beta=-1.0), 'beta'),
    (lambda x: preference.simpo(x, x, x, x, gamma=-1.0), 'gamma')])
def test_options_out_of_range_are_named(call, name):
  with pytest.raises(errors.InputError, match=name):
    call(jnp.zeros(2))
