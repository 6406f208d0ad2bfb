"""The official training run end to end; cuts, meshes and broken gradients."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from tests.support import jobs
from tests.support import paths

RUNS = json.loads((paths.GOLDEN / 'loss' / 'train.json').read_text())
# A torch run differs from itself by 3e-5 when only the attention kernel does.
RTOL = 1e-3

load = functools.cache(weights.load)


def arrays(model_name):
  return np.load(paths.GOLDEN / 'loss' / f'train_{model_name}.npz')


def official_batch(golden, micro_batches=2):
  """The official mean of micro-batch means, as weights in the mask."""
  mask = np.float32(golden['loss_mask'])
  halves = np.split(mask, micro_batches)
  mask = np.concatenate([half / half.sum() for half in halves]) / micro_batches
  positions = np.where(golden['attention_mask'], golden['position_ids'], -1)
  ids = golden['input_ids']
  return batches.Batch(ids[:, :-1], ids[:, 1:], mask[:, 1:], positions[:, :-1])


def batch_of(rows):
  """Rows of the golden batch over again, with a plain mask."""
  golden = arrays('qwen2-tiny')
  positions = np.where(golden['attention_mask'], golden['position_ids'], -1)
  ids, mask = golden['input_ids'], np.float32(golden['loss_mask'])
  batch = batches.Batch(ids[:, :-1], ids[:, 1:], mask[:, 1:], positions[:, :-1])
  return jax.tree.map(lambda x: np.resize(x, (rows, *x.shape[1:])), batch)


def by_hf_name(config, tree):
  """Hugging Face's names -> our arrays, oriented as there."""
  found = {}
  names = weights.hf_names(config)
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    path = sharding.path_name(key_path)
    layers = leaf if path.startswith('layers/') else leaf[None]
    kernel = path.startswith('layers/') and path.endswith('kernel')
    for name, x in zip(names[path], np.asarray(layers), strict=True):
      found[name] = x.T if kernel else x
  return found


def assert_first_gradient(run, golden, found):
  """`found`: Hugging Face's names -> the gradient before clipping."""
  for name, norm in run['grad0_norm_by_parameter'].items():
    np.testing.assert_allclose(
        np.linalg.norm(found[name]), norm, rtol=RTOL, err_msg=name
    )
  stored = [k for k in golden.files if k.startswith('grad0:')]
  assert stored
  for key in stored:
    np.testing.assert_allclose(
        found[key.removeprefix('grad0:')], golden[key], err_msg=key,
        atol=RTOL * np.abs(golden[key]).max(),
    )


@pytest.mark.parametrize('run', RUNS, ids=lambda r: r['model'])
def test_official_training_run(run):
  config, params = load(paths.GOLDEN / 'models' / run['model'])
  golden = arrays(run['model'])
  batch = official_batch(golden)
  b1, b2 = run['adamw_betas']
  _, tx = optimizer.make(
      lr=run['lr'], total_steps=run['steps'], b1=b1, b2=b2, eps=run['eps'],
      warmup_ratio=run['lr_warmup_steps_ratio'], clip=run['clip'],
      weight_decay=run['weight_decay'],
  )
  step = jax.jit(train_step.make_train_step(
      config, tx, name='idft', total_steps=run['steps'],
      warmup_ratio=run['warm'], transition_ratio=run['trans'],
      beta=run['beta'], gamma_min=run['gmin'], gamma_max=run['gmax'],
  ))
  state = train_step.TrainState.create(params, tx)
  for log in run['log']:
    state, metrics = step(state, batch)
    assert metrics['finite'] and metrics['count'] == pytest.approx(1)
    assert state.step == log['step'] + 1
    norm = metrics['grad_norm']
    np.testing.assert_allclose(
        metrics['curriculum'], log['lambda_t'], atol=1e-6
    )
    np.testing.assert_allclose(metrics['loss'], log['loss'], rtol=RTOL)
    np.testing.assert_allclose(norm, log['grad_norm_before_clip'], rtol=RTOL)
    if state.step == 1:
      # Adam's moment is now (1 - b1) times the clipped gradient.
      moment = by_hf_name(config, optax.tree.get(state.opt_state, 'mu'))
      scale = max(norm / run['clip'], 1) / (1 - b1)
      assert_first_gradient(
          run, golden, {k: scale * v for k, v in moment.items()}
      )
  found = by_hf_name(config, state.params)
  assert found.keys() == run['final_param_norms'].keys()
  for name, norm in run['final_param_norms'].items():
    np.testing.assert_allclose(
        np.linalg.norm(found[name]), norm, rtol=1e-4, err_msg=name
    )


@functools.cache
def tiny():
  """A model of one layer, on the host: donation cannot take it away."""
  config, params = load(paths.GOLDEN / 'models' / 'qwen2-loop')
  return config, jax.tree.map(np.array, params)


def sgd_step(**options):
  """A plain step: the update is the gradient itself."""
  config, params = tiny()
  tx = optax.sgd(1.0)
  step = train_step.make_train_step(config, tx, **{'name': 'idft'} | options)
  return step, train_step.TrainState.create(params, tx)


def assert_close(a, b, rtol=2e-5):
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(
          x, y, rtol=rtol, atol=rtol * np.abs(y).max() + 1e-9
      ), a, b,
  )


@functools.cache
def plain_step():
  """One device, no micro-batches: compiled once for the tests below."""
  step, state = sgd_step()
  return jax.jit(step), state


@functools.cache
def reference():
  step, state = plain_step()
  return step(state, batch_of(8))


@pytest.mark.parametrize('micro_batches', [2, 4])
def test_the_cut_into_micro_batches_does_not_matter(micro_batches):
  step, state = sgd_step(micro_batches=micro_batches)
  state, metrics = jax.jit(step)(state, batch_of(8))
  assert_close(state.params, reference()[0].params)
  assert_close(metrics, reference()[1])


# Objectives that read a reference: see reference_test.py.
@pytest.mark.slow
@pytest.mark.parametrize('name', [
    name for name in sorted(objectives.WEIGHTS)
    if name != 'idft' and not objectives.reference_option(name)])
def test_no_objective_depends_on_the_cut_into_micro_batches(name):
  results = []
  for micro_batches in (1, 4):
    step, state = sgd_step(name=name, micro_batches=micro_batches)
    results.append(jax.jit(step)(state, batch_of(8)))
  (whole, metrics), (cut, metrics_cut) = results
  assert_close(cut.params, whole.params)
  assert_close(metrics_cut, metrics)


def test_rows_of_padding_do_not_matter():
  # The batch is four rows twice: the mean is that of four rows and padding.
  step, state = plain_step()
  padded = jax.tree.map(np.copy, batch_of(8))
  for x in (padded.tokens, padded.targets, padded.mask):
    x[4:] = 0
  padded.positions[4:] = model.PADDING
  state, metrics = step(state, padded)
  assert metrics['count'] == reference()[1]['count'] / 2
  assert_close(state.params, reference()[0].params)


@pytest.mark.parametrize('mesh, micro_batches', [
    ({'data': 2, 'fsdp': 4}, 1),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, 2),
])
def test_eight_devices_compute_what_one_does(mesh, micro_batches):
  mesh = sharding.make_mesh(**mesh)
  step, state = sgd_step(micro_batches=micro_batches, mesh=mesh)
  places = sharding.tree_shardings(state, mesh)
  state = jax.device_put(state, places)
  batch = batches.place(batch_of(8), mesh)
  step = jax.jit(
      step, donate_argnums=0, out_shardings=(places, None),
      in_shardings=(places, sharding.batch_sharding(mesh)),
  )
  state, metrics = step(state, batch)
  assert_close(jax.device_get(state.params), reference()[0].params)
  assert_close(jax.device_get(metrics), reference()[1])
  kernel = state.params['layers']['attn']['q']['kernel']
  assert not kernel.is_fully_replicated


def test_a_split_vocabulary_and_two_processes_train_as_one_device_does(tmp_path):
  one = jobs.train(sharding.make_mesh(devices=jax.devices()[:1]))
  assert len(one['losses']) == 10
  norm = np.linalg.norm(one['gradient'])
  for many in (jobs.train(), *jobs.launch('train', tmp_path)):
    np.testing.assert_allclose(many['losses'], one['losses'], rtol=1e-5)
    apart = np.subtract(many['gradient'], one['gradient'])
    assert np.linalg.norm(apart) <= 1e-5 * norm
    np.testing.assert_allclose(many['phi'], one['phi'], atol=2e-5)


def test_a_donated_state_can_be_stepped_on_and_on():
  config, params = tiny()
  params = jax.tree.map(jnp.array, params)
  tx = optimizer.make_optimizer(optax.constant_schedule(1e-3))
  step = jax.jit(
      train_step.make_train_step(config, tx, name='idft'), donate_argnums=0
  )
  state = train_step.TrainState.create(params, tx)
  losses = []
  for _ in range(4):
    state, metrics = step(state, batch_of(8))
    losses.append(float(metrics['loss']))
  assert state.step == 4 and losses[-1] < losses[0]
  assert all(x.is_deleted() for x in jax.tree.leaves(params))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counters(value):
  config, params = tiny()
  tx = optimizer.make_optimizer(optax.constant_schedule(1e-3))
  step = jax.jit(train_step.make_train_step(config, tx, name='idft'))
  good = train_step.TrainState.create(params, tx)
  scale = params['final_norm']['scale'].copy()
  scale[0] = value
  broken = good.replace(params=params | {'final_norm': {'scale': scale}})
  state, metrics = step(broken, batch_of(8))
  state, _ = step(state, batch_of(8))
  assert not metrics['finite']
  jax.tree.map(np.testing.assert_array_equal, state.params, broken.params)
  jax.tree.map(
      np.testing.assert_array_equal, state.opt_state, good.opt_state
  )
  assert (int(state.step), int(state.skipped)) == (2, 2)

  state, metrics = step(state.replace(params=params), batch_of(8))
  assert metrics['finite']
  assert (int(state.step), int(state.skipped)) == (3, 2)
  applied = optax.tree.get_all_with_path(state.opt_state, 'count')
  assert {int(count) for _, count in applied} == {1}  # Adam's, the schedule's


def test_the_curriculum_follows_the_state_s_step():
  # A resumed run restores the step, and with it the place in the curriculum.
  step, state = sgd_step(
      total_steps=10, warmup_ratio=0.2, transition_ratio=0.4
  )
  step = jax.jit(step)
  strengths = [
      float(step(state.replace(step=jnp.int32(at)), batch_of(8))[1][
          'curriculum'])
      for at in (0, 2, 4, 6, 9)
  ]
  np.testing.assert_allclose(strengths, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_a_batch_without_supervised_tokens_has_no_gradient():
  step, state = plain_step()
  batch = batch_of(8)
  new, metrics = step(state, batch.replace(mask=np.zeros_like(batch.mask)))
  assert metrics['loss'] == metrics['grad_norm'] == metrics['count'] == 0
  jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def test_a_batch_whose_weights_are_all_zero_changes_nothing():
  step, state = sgd_step(name='threshold', q=1.0, denominator='kept')
  new, metrics = jax.jit(step)(state, batch_of(8))
  assert metrics['loss'] == metrics['grad_norm'] == metrics['count'] == 0
  assert metrics['finite'] and metrics['tokens'] == batch_of(8).mask.sum()
  jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


@pytest.mark.parametrize('name', ['sft', 'dft', 'idft'])
def test_one_set_of_options_serves_every_objective(name):
  step, state = sgd_step(
      total_steps=10, warmup_ratio=0.5,
      **objectives.pick(name, beta=0.5, gamma_max=1.5),
  )
  _, metrics = jax.eval_shape(step, state, batch_of(8))
  assert ('clipped' in metrics) == (name == 'idft')
  assert {
      'loss', 'count', 'nll', 'weight', 'grad_norm', 'curriculum'
  } <= metrics.keys()


def test_a_step_swallows_no_option():
  step, state = sgd_step(name='sft', beta=0.5)
  with pytest.raises(TypeError, match="'sft' has no option 'beta'"):
    jax.eval_shape(step, state, batch_of(8))


def test_evaluation_sums_add_up_to_the_whole():
  config, params = tiny()
  step = jax.jit(train_step.make_eval_step(config, name='idft', beta=1.0))
  # Two of them are half a batch each.
  halves = [jax.tree.map(lambda x, r=rows: x[r], batch_of(8))
            for rows in (slice(4), slice(4, 8))]
  sums = train_step.add(step(params, half) for half in halves)
  whole = {k: v for k, v in reference()[1].items() if k in sums}
  assert whole.keys() == sums.keys() and 'nll' in sums
  assert_close(sums, whole)


def test_too_many_skipped_updates_in_a_row_end_the_run():
  def steps(*finite):
    return [{'finite': jnp.bool_(f)} for f in finite]

  count = train_step.check_finite(steps(1, 0, 0), 0, limit=4)
  assert count == 2
  assert train_step.check_finite(steps(0, 1), count, limit=4) == 0
  # The count goes on across calls.
  with pytest.raises(FloatingPointError, match='4 updates in a row'):
    train_step.check_finite(steps(0, 0), count, limit=4)
