"""Losses that compare with a reference: whole logits, devices, updates, resuming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.training import reference
from ddt_jax.training import train_step
from tests.support import unfused
from tests.training import train_step_test

WEIGHTS = {'sft_kl': 'sft', 'asft': 'dft', 'psft': 'psft', 'iw_sft': 'iw_sft'}


@functools.cache
def other():
  """The tiny model with noise on every parameter."""
  _, params = train_step_test.tiny()
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: x + np.float32(0.1 * x.std() * rng.normal(size=x.shape)), params)


def rule(name):
  return reference.Reference(kl_weight=0.5 if WEIGHTS[name] != name else 0.0)


def step_and_state(name, update='frozen', tx=None, every=8, **options):
  config, params = train_step_test.tiny()
  tx = tx or optax.sgd(1.0)
  comparison = reference.Reference(
      rule(name).kl_weight, kind=update, every=every, rate=0.25)
  step = train_step.make_train_step(
      config, tx, name=WEIGHTS[name], comparison=comparison, **options)
  compared = None if update == 'live' else other()
  return step, train_step.TrainState.create(params, tx, compared)


def expected_loss(params, name, batch):
  """The loss per token by logits that are held."""
  config, _ = train_step_test.tiny()

  def log_q(params):
    return jax.nn.log_softmax(model.forward(
        params, config, batch.tokens, positions=batch.positions)[0])

  ours, base = log_q(params), log_q(other())
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  at = jnp.asarray(batch.targets)[..., None]
  of_base = jnp.take_along_axis(base, at, -1)[..., 0]
  mask, log_p = jnp.asarray(batch.mask), jnp.take_along_axis(ours, at, -1)[..., 0]
  if name == 'iw_sft':
    mean = (mask * (log_p - of_base)).sum(-1) / mask.sum(-1)
    weight = jnp.clip(jnp.exp(mean), 0, 16)[:, None]
  else:
    weight = unfused.weight(
        WEIGHTS[name], flat(ours), flat(jnp.asarray(batch.targets)), None,
        flat(of_base)).reshape(mask.shape)
  total = -(mask * jax.lax.stop_gradient(weight) * log_p).sum()
  kl = (jnp.exp(base) * (base - ours)).sum(-1)
  return (total + rule(name).kl_weight * (mask * kl).sum()) / mask.sum()


@functools.cache
def expected_gradient(name):
  _, params = train_step_test.tiny()
  batch = jax.tree.map(jnp.asarray, train_step_test.batch_of(8))
  return jax.jit(jax.value_and_grad(
      lambda p: expected_loss(p, name, batch)))(params)


def assert_step(name, step, state, batch):
  before = jax.tree.map(np.array, state.params)
  new, metrics = step(state, batch)
  loss, gradient = expected_gradient(name)
  np.testing.assert_allclose(
      metrics['loss'] / metrics['count'], loss, rtol=2e-5)
  found = jax.tree.map(lambda a, b: np.array(a) - np.array(b), before, new.params)
  # A difference of parameters is rounded to their last bits.
  unfused.assert_close(found, gradient, 1e-4)
  assert ('kl' in metrics) == (WEIGHTS[name] != name)
  if 'kl' in metrics:
    assert metrics['kl'] > 0


@pytest.mark.parametrize('micro_batches', [1, 4])
@pytest.mark.parametrize('name', sorted(WEIGHTS))
def test_a_step_follows_the_gradient_of_whole_logits(name, micro_batches):
  step, state = step_and_state(name, micro_batches=micro_batches)
  step, batch = jax.jit(step), train_step_test.batch_of(8)
  assert_step(name, step, state, batch)
  # Nothing supervised; and one token of each response.
  new, metrics = step(state, batch.replace(mask=np.zeros_like(batch.mask)))
  assert metrics['loss'] == metrics['grad_norm'] == metrics['count'] == 0
  assert equal(new.params, state.params)
  last = np.float32(np.cumsum(batch.mask[:, ::-1], 1)[:, ::-1] == 1) * batch.mask
  _, metrics = step(state, batch.replace(mask=last))
  assert metrics['count'] == len(last) and metrics['finite']


@pytest.mark.parametrize('name', sorted(WEIGHTS))
def test_eight_devices_take_the_same_step(name):
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  step, state = step_and_state(name, mesh=mesh)
  where = sharding.tree_shardings(state, mesh)
  step = jax.jit(
      step, in_shardings=(where, sharding.batch_sharding(mesh)),
      out_shardings=(where, None))
  assert_step(name, step, state, train_step_test.batch_of(8))


def equal(a, b):
  return all(
      np.array_equal(x, y) for x, y in
      zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_reference_moves_as_its_rule_says():
  batch = train_step_test.batch_of(8)
  _, first = train_step_test.tiny()
  for update in ('frozen', 'refreshed', 'ema'):
    step, state = step_and_state('sft_kl', update, optax.sgd(0.01), every=2)
    step, seen = jax.jit(step), []
    for _ in range(3):
      state, _ = step(state, batch)
      seen.append(jax.tree.map(np.array, (state.reference, state.params)))
    (r1, p1), (r2, p2), (r3, p3) = seen
    assert not equal(p1, first) and not equal(p3, p2)
    if update == 'frozen':
      assert equal(r3, other())
    elif update == 'refreshed':
      assert equal(r1, other()) and equal(r2, p2) and equal(r3, p2)
    else:
      train_step_test.assert_close(r2, jax.tree.map(
          lambda p, r: 0.75 * r + 0.25 * p, p2, r1))


def test_a_live_reference_is_the_model_itself():
  step, state = step_and_state('sft_kl', 'live')
  assert state.reference is None
  batch = train_step_test.batch_of(8)
  new, metrics = jax.jit(step)(state, batch)
  assert abs(metrics['kl']) <= 1e-6
  # The divergence has no gradient: the step is that of plain SFT.
  step, plain = train_step_test.sgd_step(name='sft')
  expected, without = jax.jit(step)(plain, batch)
  np.testing.assert_allclose(metrics['grad_norm'], without['grad_norm'], rtol=1e-6)
  train_step_test.assert_close(new.params, expected.params, 1e-6)


def test_rounds_keep_a_frozen_base_and_renew_a_refreshed_one():
  assert reference.Reference().start('new', 'base') == 'base'
  assert reference.Reference().start('new') == 'new'
  assert reference.Reference(kind='ema').start('new', 'mean') == 'mean'
  assert reference.Reference(kind='refreshed').start('new', 'old') == 'new'
  assert reference.Reference(kind='live').start('new', 'old') is None


@pytest.mark.parametrize('wrong', [
    dict(kl_weight=-1.0), dict(kl_weight=float('nan')), dict(kind='often'),
    dict(every=0), dict(rate=0.0), dict(rate=1.5)])
def test_options_without_a_meaning_are_refused(wrong):
  with pytest.raises(errors.InputError, match=f'reference.{next(iter(wrong))}='):
    reference.Reference(**wrong)
