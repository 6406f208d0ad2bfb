"""Steps with adapters: gradients, the base as reference, devices, a bfloat16 base."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import lora
from ddt_jax import sharding
from ddt_jax.training import optimizer
from ddt_jax.training import reference
from ddt_jax.training import train_step
from tests.support import unfused
from tests.training import train_step_test


@functools.cache
def adapters():
  """Adapters of the tiny model whose B is not zero, as after some steps."""
  config, _ = train_step_test.tiny()
  fresh = lora.init(config, jax.random.key(1), rank=2, alpha=4)
  return jax.tree.map(
      lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), fresh)


def moved(step, state, base, batch=None):
  """(the step's change of what is trained, metrics, state after it)."""
  batch = train_step_test.batch_of(8) if batch is None else batch
  new, metrics = jax.jit(step)(state, batch, None, base)
  return jax.tree.map(lambda a, b: np.array(a) - np.array(b), state.params,
                      new.params), metrics, new


def made(name='idft', tx=None, start=None, **options):
  config, _ = train_step_test.tiny()
  tx = tx or optax.sgd(1.0)
  comparison = reference.Reference(**options.pop('comparison', {}))
  step = train_step.make_train_step(
      config, tx, name=name, comparison=comparison, **options)
  trained = adapters()
  return step, train_step.TrainState.create(
      trained, tx, comparison.start(trained, start))


@pytest.mark.parametrize('micro_batches', [1, 4])
def test_a_step_follows_the_gradient_through_merged_weights(micro_batches):
  config, base = train_step_test.tiny()
  batch = jax.tree.map(jnp.asarray, train_step_test.batch_of(8))

  def loss(trained):
    total, (count, _) = train_step.loss_sums(
        lora.merge(base, trained), config, batch, 'idft')
    return total / count

  expected = jax.jit(jax.grad(loss))(adapters())
  step, state = made(micro_batches=micro_batches)
  found, _, new = moved(step, state, base)
  assert isinstance(new.params, lora.Adapters)
  unfused.assert_close(found, expected, 1e-4)


def test_the_state_holds_and_counts_adapters_alone():
  _, base = train_step_test.tiny()
  _, tx = optimizer.make(total_steps=1, lr=1e-3)
  state = train_step.TrainState.create(adapters(), tx)
  floats = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
  assert floats == 3 * lora.count(adapters())  # with Adam's two moments
  assert floats < sum(x.size for x in jax.tree.leaves(base))


@pytest.mark.parametrize('name', ['sft', 'iw_sft'])
def test_a_frozen_reference_is_the_base_at_no_copy(name):
  config, base = train_step_test.tiny()
  kl = dict(kl_weight=0.5)
  step, state = made(name, comparison=kl)
  assert state.reference is None
  found, metrics, _ = moved(step, state, base)
  batch = jax.tree.map(jnp.asarray, train_step_test.batch_of(8))

  def loss(trained):  # with a copy of the base as reference
    total, (count, sums) = train_step.loss_sums(
        lora.attach(base, trained), config, batch, name, None,
        jax.tree.map(jnp.copy, base), **kl)
    return total / count, sums['kl']

  gradient, divergence = jax.jit(jax.grad(loss, has_aux=True))(adapters())
  unfused.assert_close(found, gradient, 1e-5)
  np.testing.assert_allclose(metrics['kl'], divergence, rtol=1e-5)
  assert divergence > 1e-3


def test_a_reference_that_moves_is_a_copy_of_the_adapters():
  _, base = train_step_test.tiny()
  for kind in ('refreshed', 'ema'):
    step, state = made(
        'sft', comparison=dict(kl_weight=0.5, kind=kind, every=1, rate=0.25))
    assert isinstance(state.reference, lora.Adapters)
    _, metrics, new = moved(step, state, base)
    assert metrics['kl'] == 0  # still equal to the adapters
    want = new.params if kind == 'refreshed' else jax.tree.map(
        lambda p, r: r + 0.25 * (p - r), new.params, state.reference)
    unfused.assert_close(new.reference, want, 1e-6)
    _, metrics, _ = moved(step, new, base)
    assert (metrics['kl'] > 0) == (kind == 'ema')


def test_a_live_reference_is_the_adapted_model():
  _, base = train_step_test.tiny()
  step, state = made('sft', comparison=dict(kl_weight=0.5, kind='live'))
  assert state.reference is None
  _, metrics, _ = moved(step, state, base)
  assert metrics['kl'] == 0


def test_eight_devices_take_the_same_step():
  _, base = train_step_test.tiny()
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  options = dict(comparison=dict(kl_weight=0.5))
  expected, one, _ = moved(*made('sft', **options), base)
  step, state = made('sft', mesh=mesh, **options)
  where, of_base = (sharding.tree_shardings(x, mesh) for x in (state, base))
  split = {x.spec for x in jax.tree.leaves(where.opt_state)} | {
      x.spec for x in jax.tree.leaves(where.params)}
  assert jax.P(None, 'fsdp', None) in split
  step = jax.jit(
      step, in_shardings=(where, sharding.batch_sharding(mesh), None, of_base),
      out_shardings=(where, None))
  found, eight, _ = moved(step, state, base)
  unfused.assert_close(found, expected, 1e-4)
  for name in ('loss', 'kl', 'grad_norm'):
    np.testing.assert_allclose(eight[name], one[name], rtol=1e-5)


def test_a_base_in_the_compute_dtype_gives_the_same_bits():
  config, base = train_step_test.tiny()
  config = dataclasses.replace(config, dtype='bfloat16')
  # As published: every value is one of bfloat16.
  base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
  step = train_step.make_train_step(config, optax.sgd(1.0), name='idft')
  state = train_step.TrainState.create(adapters(), optax.sgd(1.0))
  held, _, new = moved(step, state, base)
  wide, _, _ = moved(step, state, jax.tree.map(lambda x: x.astype(jnp.float32), base))
  assert {x.dtype for x in jax.tree.leaves(new.params)} == {jnp.dtype('float32')}
  for a, b in zip(*map(jax.tree.leaves, (held, wide)), strict=True):
    np.testing.assert_array_equal(a, b)
    assert np.abs(a).max() > 0
