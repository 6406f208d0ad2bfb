"""Schedules at their corners, clipping, decoupled decay."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import errors
from ddt_jax.training import optimizer


def rates(**options):
  schedule = optimizer.make_schedule(lr=1.0, total_steps=100, **options)
  return np.array([schedule(step) for step in range(101)])


def test_cosine():
  rate = rates(warmup_ratio=0.1)
  np.testing.assert_allclose(rate[[0, 5, 10]], [0, 0.5, 1], atol=1e-6)
  np.testing.assert_allclose(rate[55], 0.5, atol=1e-6)  # half-way down
  np.testing.assert_allclose(rate[100], 0, atol=1e-6)
  assert (np.diff(rate[:11]) > 0).all() and (np.diff(rate[10:]) < 0).all()


def test_wsd_warms_up_stays_and_decays():
  rate = rates(schedule='wsd', warmup_ratio=0.1, decay_ratio=0.2)
  np.testing.assert_allclose(rate[[0, 5, 10]], [0, 0.5, 1], atol=1e-6)
  np.testing.assert_allclose(rate[10:81], 1, atol=1e-6)
  np.testing.assert_allclose(rate[[90, 100]], [0.5, 0], atol=1e-6)


def test_constant_without_warmup_starts_at_the_peak():
  np.testing.assert_allclose(
      rates(schedule='constant', warmup_ratio=0.0), 1, atol=1e-6
  )
  assert rates(warmup_ratio=0.0)[0] == 1


def test_a_run_shorter_than_its_warmup_share_has_no_warmup():
  schedule = optimizer.make_schedule(lr=1.0, total_steps=3, warmup_ratio=0.1)
  assert schedule(0) == 1


@pytest.mark.parametrize('options, message', [
    ({'schedule': 'linear'}, "'linear'.*cosine.*wsd.*constant"),
    ({'warmup_ratio': 1.5}, 'warmup_ratio 1.5'),
    ({'warmup_ratio': -0.1}, 'warmup_ratio -0.1'),
    ({'schedule': 'wsd', 'warmup_ratio': 0.5, 'decay_ratio': 0.6},
     'decay_ratio 0.6'),
    ({'schedule': 'wsd', 'decay_ratio': -0.1}, 'decay_ratio'),
    ({'lr': -1e-5}, 'optim.lr -1e-05'),
    ({'b1': 1.0}, 'optim.b1 1.0'),
    ({'b2': -0.1}, 'optim.b2 -0.1'),
    ({'eps': 0.0}, 'optim.eps 0.0'),
    ({'weight_decay': -1.0}, 'optim.weight_decay -1.0'),
    ({'clip': -1.0}, 'optim.clip -1.0'),
    ({'clip': float('nan')}, 'optim.clip nan'),
])
def test_options_that_do_not_fit_are_refused(options, message):
  with pytest.raises(errors.InputError, match=message):
    optimizer.make(total_steps=100, **{'lr': 1.0} | options)


def test_every_option_reaches_adam():
  # One section of the config is the whole wiring, and each option matters.
  section = dict(
      lr=0.1, schedule='wsd', warmup_ratio=0.2, decay_ratio=0.4, b1=0.5, b2=0.6,
      eps=1e-3, weight_decay=0.1, clip=0.5,
  )
  others = dict(
      lr=0.2, schedule='constant', warmup_ratio=0.0, decay_ratio=0.8, b1=0.6,
      b2=0.7, eps=1e-2, weight_decay=0.2, clip=0.25,
  )
  assert section.keys() == others.keys()

  def after_ten(options):
    _, tx = optimizer.make(total_steps=10, **options)
    params = {'w': jnp.array([1.0, -2.0])}
    state = tx.init(params)
    for i in range(10):
      updates, state = tx.update({'w': jnp.array([1.0, i - 3.0])}, state, params)
      params = optax.apply_updates(params, updates)
    return params['w']

  same = after_ten(section)
  for name, value in others.items():
    assert not np.allclose(after_ten(section | {name: value}), same), name


def test_a_misspelt_option_is_refused():
  with pytest.raises(TypeError, match='beta1'):
    optimizer.make(total_steps=10, lr=1.0, beta1=0.9)


def test_a_continued_optimizer_takes_its_share_of_the_schedule():
  # Round 2 of 2, with 5 steps each; the first round has applied 4 updates.
  whole = optimizer.make_schedule(total_steps=10, lr=1.0)
  rate, _ = optimizer.make(total_steps=10, lr=1.0, first_step=5, updates=4)
  np.testing.assert_array_equal(
      [rate(4 + i) for i in range(5)], [whole(5 + i) for i in range(5)])


def one_update(tx, grads, params):
  updates, _ = tx.update(grads, tx.init(params), params)
  return optax.apply_updates(params, updates)


def test_clipping_is_by_the_global_norm():
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}  # norm 5
  # A large eps makes Adam's first step proportional to the gradient.
  lr = optax.constant_schedule(1.0)
  options = dict(eps=1e6, weight_decay=0.0)
  clipped, free, loose = (
      one_update(optimizer.make_optimizer(lr, clip=c, **options), grads, params)
      for c in (1.0, 0.0, 10.0)
  )
  np.testing.assert_allclose(clipped['a'], free['a'] / 5, rtol=1e-4)
  np.testing.assert_allclose(clipped['b'], free['b'] / 5, rtol=1e-4)
  assert loose == free


def test_decay_is_decoupled_and_on_every_parameter():
  params = {'scale': jnp.ones(3), 'kernel': jnp.full([2, 2], 2.0)}
  grads = {'scale': jnp.zeros(3), 'kernel': jnp.zeros([2, 2])}
  tx = optimizer.make_optimizer(
      optax.constant_schedule(0.1), weight_decay=0.5
  )
  new = one_update(tx, grads, params)
  np.testing.assert_allclose(new['scale'], 0.95, rtol=1e-6)
  np.testing.assert_allclose(new['kernel'], 1.9, rtol=1e-6)


def test_make_joins_the_schedule_and_the_optimizer():
  rate, tx = optimizer.make(
      total_steps=10, lr=1.0, schedule='constant', warmup_ratio=0.2,
      weight_decay=0.5,
  )
  np.testing.assert_allclose([rate(0), rate(1), rate(5)], [0, 0.5, 1])
  # Decay alone: the first step's rate is 0, the second's 1/2.
  params, nothing = {'w': jnp.ones(1)}, {'w': jnp.zeros(1)}
  state = tx.init(params)
  for expected in (1.0, 0.75):
    updates, state = tx.update(nothing, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['w'], expected, rtol=1e-6)
