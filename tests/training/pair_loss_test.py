"""DPO and SimPO on batches: float64 formulas, cuts, devices, memory, limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import pair_batches
from ddt_jax.training import log
from ddt_jax.training import pair_loss
from ddt_jax.training import reference
from ddt_jax.training import train_step
from ddt_jax.training.progress import Progress
from ddt_jax.vocab_head import tiles
from tests.support import unfused
from tests.training import train_step_test
from tests.vocab_head import vocab_head_test

RULES = {
    'dpo': pair_loss.Preference('dpo', beta=0.3, label_smoothing=0.1),
    'dpo_nll': pair_loss.Preference('dpo', nll_weight=0.7),
    'simpo': pair_loss.Preference('simpo', beta=2.0, gamma=1.0),
}
PAIRS, TIME = 4, 8


def pair_losses(log_p, tokens, of_reference, rule):
  """Losses [P] of sums [P, 2], as in the papers."""
  log_sigmoid = lambda x: -jnp.logaddexp(0.0, -x)
  if rule.name == 'dpo':
    ratio = log_p - of_reference
    h = rule.beta * (ratio[:, 0] - ratio[:, 1])
    e = rule.label_smoothing
    losses = -(1 - e) * log_sigmoid(h) - e * log_sigmoid(-h)
  else:
    mean = log_p / tokens
    losses = -log_sigmoid(rule.beta * (mean[:, 0] - mean[:, 1]) - rule.gamma)
  return losses - rule.nll_weight * log_p[:, 0] / tokens[:, 0]


@functools.cache
def golden():
  """Hidden states whose logits are golden [2 P, T, V], the head, and a batch.

  The reference is the model's own log p, perturbed by N(0, 0.3).
  """
  hidden, head, targets, _ = unfused.golden(2 * PAIRS * TIME)
  rng = np.random.default_rng(1)
  # Every response has at least one token; the first places are prompts.
  lengths = rng.integers(1, TIME, 2 * PAIRS)
  mask = np.float32(np.arange(TIME) >= TIME - lengths[:, None])
  log_p = np.log(jax.nn.softmax(hidden, -1))[np.arange(len(targets)), targets]
  log_p = (log_p.reshape(mask.shape) * mask).sum(-1).reshape(PAIRS, 2)
  shape = PAIRS, 2, TIME
  targets = targets.reshape(shape)
  rows = batches.Batch(targets, targets, mask.reshape(shape), targets)
  of_reference = np.float32(log_p + rng.normal(0, 0.3, log_p.shape))
  return (hidden.reshape(2 * PAIRS, TIME, -1), head,
          pair_batches.PairBatch(rows, of_reference))


@functools.cache
def exact(name):
  """(loss, gradients) of the golden batch in float64, from whole logits."""
  hidden, head, batch = golden()

  def loss(hidden, head):
    log_q = unfused.log_softmax(hidden @ head.T)
    rows = batch.flat_rows()
    log_p = jnp.take_along_axis(log_q, rows.targets[..., None], -1)[..., 0]
    sums = lambda x: (rows.mask * x).sum(-1).reshape(-1, 2)
    return pair_losses(
        sums(log_p), sums(1.0), np.float64(batch.reference), RULES[name]).sum()

  return unfused.exactly(jax.value_and_grad(loss, (0, 1)), hidden, head)


# By tiles on one and on eight devices, and streamed where the head is split.
@pytest.mark.parametrize('mesh', [
    None, dict(data=2, fsdp=2, tensor=2), dict(data=2, fsdp=4, tensor=1)], ids=str)
@pytest.mark.parametrize('name', RULES)
def test_the_gradient_is_that_of_the_formula_in_float64(name, mesh):
  hidden, head, batch = golden()
  mesh = mesh and sharding.make_mesh(**mesh)
  f = jax.jit(jax.value_and_grad(
      lambda h, w: pair_loss.head_sums(h, w, batch, RULES[name], mesh=mesh),
      (0, 1), has_aux=True))
  (total, (count, sums)), gradients = f(hidden, head)
  expected, expected_gradients = exact(name)
  assert count == sums['pairs'] == PAIRS
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  unfused.assert_close(gradients, expected_gradients)


@functools.cache
def pairs(rows=8):
  """A batch of rows of the golden training run, two in a row being a pair."""
  flat = train_step_test.batch_of(rows)
  batch = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), flat)
  rng = np.random.default_rng(2)
  return pair_batches.PairBatch(
      batch, np.float32(rng.normal(-60.0, 5.0, (rows // 2, 2))))


def step_and_state(rule, mesh=None, **options):
  config, params = train_step_test.tiny()

  def loss(params, batch, compared, strength):
    del compared, strength
    return pair_loss.loss_sums(params, config, batch, rule, mesh=mesh)

  tx = optax.sgd(1.0)
  step = train_step.make_step(
      loss, tx, comparison=reference.Reference(), is_read=False, **options)
  return step, train_step.TrainState.create(params, tx)



@functools.cache
def expected_step(name):
  """The loss and the gradient of the mean over pairs, from logits that are held."""
  config, params = train_step_test.tiny()
  batch = jax.tree.map(jnp.asarray, pairs())
  rows = batch.flat_rows()

  def loss(params):
    log_q = jax.nn.log_softmax(model.forward(
        params, config, rows.tokens, positions=rows.positions)[0])
    log_p = jnp.take_along_axis(log_q, rows.targets[..., None], -1)[..., 0]
    sums = lambda x: (rows.mask * x).sum(-1).reshape(-1, 2)
    return pair_losses(
        sums(log_p), sums(1.0), batch.reference, RULES[name]).mean()

  return jax.jit(jax.value_and_grad(loss))(params)


def assert_step(name, step, state, batch):
  before = jax.tree.map(np.array, state.params)
  new, metrics = step(state, batch)
  loss, gradient = expected_step(name)
  np.testing.assert_allclose(metrics['loss'] / metrics['count'], loss, rtol=2e-5)
  found = jax.tree.map(lambda a, b: np.array(a) - np.array(b), before, new.params)
  # A difference of parameters is rounded to their last bits.
  unfused.assert_close(found, gradient, 1e-4)


@pytest.mark.parametrize('name, micro_batches', [
    ('dpo', 1), ('dpo', 4), ('dpo_nll', 2), ('simpo', 1), ('simpo', 4)])
def test_a_step_follows_the_gradient_of_whole_logits(name, micro_batches):
  step, state = step_and_state(RULES[name], micro_batches=micro_batches)
  assert_step(name, jax.jit(step), state, pairs())


@pytest.mark.parametrize('name', ['dpo', 'simpo'])
def test_eight_devices_take_the_same_step(name):
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  step, state = step_and_state(RULES[name], mesh)
  where = sharding.tree_shardings(state, mesh)
  step = jax.jit(
      step, in_shardings=(where, sharding.batch_sharding(mesh)),
      out_shardings=(where, None))
  assert_step(name, step, state, batches.place(pairs(), mesh))


def test_no_array_of_all_logits_is_held(monkeypatch):
  monkeypatch.setattr(tiles, 'TILE', 32)
  monkeypatch.setattr(tiles, 'REMAINDER_TILE', 32)
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(8, 24, 16)).astype(np.float32)
  head = rng.normal(size=(5_000, 16)).astype(np.float32)
  ids = rng.integers(0, 5_000, (4, 2, 24))
  batch = pair_batches.PairBatch(
      batches.Batch(ids, ids, np.ones(ids.shape, np.float32), ids),
      np.zeros((4, 2), np.float32))

  def largest(mesh):
    jaxpr = jax.make_jaxpr(jax.value_and_grad(
        lambda h, w: pair_loss.head_sums(h, w, batch, RULES['dpo'], mesh=mesh),
        (0, 1), has_aux=True))(hidden, head)
    return max(int(np.prod(s)) for s in vocab_head_test.all_shapes(jaxpr.jaxpr))

  assert largest(None) == 32 * 5_000  # one tile
  # Split over `tensor`: a chunk of the vocabulary, of the tokens of two rows.
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  assert largest(mesh) < 8 * 24 * 5_000 / 4


def example(prompt, response):
  return chat.answered(prompt, response)


def batch_of(*sides, time=8, count=1):
  return pair_batches.collate(
      [pair_batches.PairExample(*sides, (0.0, 0.0))], count, time)


@functools.cache
def value_and_gradient(name):
  config, _ = train_step_test.tiny()
  return jax.jit(jax.value_and_grad(
      lambda p, b: pair_loss.loss_sums(p, config, b, RULES[name]), has_aux=True))


@pytest.mark.parametrize('name', RULES)
def test_equal_sides_pull_nowhere(name):
  _, params = train_step_test.tiny()
  one = example([3, 4], [5, 6, 2])
  (total, (_, sums)), gradient = value_and_gradient(name)(params, batch_of(one, one))
  assert np.isfinite(total) and abs(sums['rewards/margins']) < 1e-5
  if not RULES[name].nll_weight:
    other = example([3, 4], [7, 8, 2])
    _, usual = value_and_gradient(name)(params, batch_of(one, other))
    assert unfused.norm(gradient) <= 1e-6 * unfused.norm(usual)


@pytest.mark.parametrize('name', RULES)
def test_one_token_responses_and_padding_are_finite(name):
  _, params = train_step_test.tiny()
  sides = example([3, 4], [5]), example([3, 4], [6])
  f = value_and_gradient(name)
  (one, (count, sums)), gradient = f(params, batch_of(*sides))
  assert count == 1 and sums['tokens'] == 2 and np.isfinite(one)
  assert 0 < unfused.norm(gradient) < np.inf
  # Pairs of padding add nothing.
  (two, (count, _)), padded = f(params, batch_of(*sides, count=4))
  assert count == 1
  np.testing.assert_allclose(two, one, rtol=1e-5)
  unfused.assert_close(padded, gradient)


@pytest.mark.parametrize('name', ['dpo', 'simpo'])
def test_a_batch_of_padding_alone_changes_nothing(name):
  step, state = step_and_state(RULES[name])
  empty = pair_batches.collate([], 4, 8)
  new, metrics = jax.jit(step)(state, empty)
  assert metrics['loss'] == metrics['count'] == metrics['grad_norm'] == 0
  jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
  assert all(np.isfinite(list(pair_loss.summarise(
      jax.device_get(metrics)).values())))


@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('name', RULES)
def test_impossible_and_certain_tokens_are_finite(name, side):
  # Logits of 1e4 apart: p is exactly 0 on one side and exactly 1 on the other.
  head = np.eye(4, dtype=np.float32)
  hidden = np.zeros((2, 3, 4), np.float32)
  hidden[..., 0] = 1e4
  targets = np.zeros((1, 2, 3), np.int32)
  targets[0, side] = 1
  batch = pair_batches.PairBatch(
      batches.Batch(targets, targets, np.ones((1, 2, 3), np.float32), targets),
      np.zeros((1, 2), np.float32))
  (total, (_, sums)), gradients = jax.value_and_grad(
      lambda h, w: pair_loss.head_sums(h, w, batch, RULES[name]), (0, 1),
      has_aux=True)(hidden, head)
  for x in jax.tree.leaves((total, sums, gradients)):
    assert np.all(np.isfinite(x))


def test_a_stream_of_pairs_resumes_and_shows_every_pair():
  made = [
      pair_batches.PairExample(
          example([1] * (1 + i % 3), [10 + i, 2]), example([1], [30 + i, 2]),
          (-float(i), -2.0 * i)) for i in range(7)]
  stream = lambda: pair_batches.Stream(made, batch=4, epochs=2, seed=0)
  whole, resumed, cut = list(stream()), stream(), stream()
  assert len(whole) == batches.steps(7, 4, 2)
  next(cut)
  resumed.set_state(cut.get_state())
  for a, b in zip(whole[1:], resumed, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)
  seen = np.concatenate([b.reference[:, 0] for b in whole])
  assert sorted(seen)[:14] == sorted([-float(i) for i in range(7)] * 2)
  for batch in whole:
    assert batch.rows.tokens.shape[:2] == (4, 2)
    for i, x in enumerate(batch.reference[:, 0]):
      if x:  # both sides belong together
        assert 10 - x in batch.rows.targets[i, 0]
        assert 30 - x in batch.rows.targets[i, 1]
        assert batch.reference[i, 1] == 2 * x


def test_a_line_of_metrics_has_the_names_of_trl():
  step, state = step_and_state(RULES['dpo'])
  _, metrics = jax.jit(step)(state, pairs())
  progress, scalars, text = log.summarise(
      [metrics], Progress(round_step=1, step=1), since=0.0, lr=1e-5, patience=3)
  assert {
      'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'rewards/accuracies',
      'logps/chosen', 'logps/rejected', 'lengths/chosen', 'nll', 'loss', 'tokens',
      'pairs'} <= scalars.keys()
  assert 'weight' not in scalars and 'ess' not in scalars
  np.testing.assert_allclose(
      scalars['rewards/margins'],
      scalars['rewards/chosen'] - scalars['rewards/rejected'], rtol=1e-4)
  assert progress.tokens == pairs().rows.mask.sum()
  assert 'margin' in text and 'accuracy' in text


@pytest.mark.parametrize('wrong', [
    dict(beta=0.0), dict(beta=float('nan')), dict(label_smoothing=0.5),
    dict(nll_weight=-1.0), dict(nll_weight=float('inf')), dict(name='ipo'),
    dict(name='simpo', gamma=-1.0), dict(name='simpo', label_smoothing=0.1)])
def test_options_without_a_meaning_are_refused(wrong):
  with pytest.raises(errors.InputError, match=list(wrong)[-1]):
    pair_loss.Preference(**{'name': 'dpo'} | wrong)
