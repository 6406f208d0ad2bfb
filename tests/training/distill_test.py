"""A step of distillation: whole logits, devices, masks, and a teacher of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import two_contexts
from ddt_jax.training import distill
from ddt_jax.training import reference
from ddt_jax.training import train_step
from tests.support import unfused
from tests.vocab_head import divergence_test
from tests.vocab_head import vocab_head_test

CASES = [
    dict(kind='forward'), dict(kind='reverse'), dict(kind='jsd', clip=0.05),
    dict(skip=2, least_entropy=3.9, most_entropy=4.3),
]


def config_of(width=32):
  """A tiny model; two devices can share its 512 tokens."""
  return model.ModelConfig.from_hf(dict(
      model_type='qwen2', vocab_size=512, hidden_size=width, intermediate_size=64,
      num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
      rms_norm_eps=1e-6, max_position_embeddings=64, initializer_range=0.4))


@functools.cache
def parameters(width=32, seed=0):
  return model.init(config_of(width), jax.random.key(seed))


@functools.cache
def batch():
  """Eight rows: one has a response of one token, one is padding."""
  rng = np.random.default_rng(0)

  def tokens(n):
    return rng.integers(0, 512, n).tolist()

  rows = [two_contexts.Row(tokens(3 + i), tokens(9 - i), tokens(1 + 2 * (i % 4)))
          for i in range(7)]
  return two_contexts.collate(rows, two_contexts.Shape(8, 16, 17, 7))


def log_probabilities(params, config, tokens, positions, start):
  """[B, R, V] by logits that are held."""
  logits, _ = model.forward(params, config, tokens, positions=positions)
  rows = [logits[i, s: s + 7] for i, s in enumerate(start)]
  rows = [jnp.pad(x, ((0, 7 - len(x)), (0, 0))) for x in rows]
  return jnp.stack(rows)


def expected(params, teacher, teacher_config, options):
  """(loss per trained token, mask) by whole logits and the formulas in float64."""
  b = batch()
  ours = log_probabilities(params, config_of(), b.tokens, b.positions, b.start)
  other = log_probabilities(
      teacher, teacher_config, b.teacher_tokens, b.teacher_positions, b.teacher_start)
  identity, flat = jnp.eye(512), lambda x: x.reshape(-1, 512)
  q = jax.nn.log_softmax(other)
  entropy = -(jnp.exp(q) * q).sum(-1)
  mask = b.mask * (np.arange(7) >= options.get('skip', 0))
  mask = mask * (entropy >= options.get('least_entropy', 0))
  mask = mask * (entropy <= options.get('most_entropy', np.inf))
  kept = {k: v for k, v in options.items() if k in ('kind', 'clip')}
  total, _ = divergence_test.formula(
      flat(ours), identity, flat(jax.lax.stop_gradient(other)), identity,
      mask.reshape(-1), **kept)
  return total / mask.sum(), mask


def gradient_and_loss(options, teacher, teacher_config, **how):
  """Those of a step with plain gradient descent, whose rate is 1."""
  step, state = step_and_state(options, teacher_config, **how)
  before = jax.tree.map(np.array, state.params)
  new, metrics = step(state, batch(), teacher)
  found = jax.tree.map(lambda a, b: np.array(a) - np.array(b), before, new.params)
  return found, metrics


def step_and_state(options, teacher_config, *, mesh=None, micro_batches=1):
  loss = distill.make_loss(
      config_of(), teacher_config, distill.Distillation(**options), mesh=mesh)
  step = train_step.make_step(
      loss, optax.sgd(1.0), micro_batches=micro_batches,
      comparison=reference.Reference(), is_read=False)
  state = train_step.TrainState.create(parameters(), optax.sgd(1.0))
  if mesh is None:
    return jax.jit(step), state
  where = sharding.tree_shardings(state, mesh)
  of_teacher = jax.eval_shape(lambda: model.init(teacher_config, jax.random.key(0)))
  return jax.jit(step, in_shardings=(
      where, sharding.batch_sharding(mesh), sharding.tree_shardings(of_teacher, mesh)),
      out_shardings=(where, None)), state


def assert_step(options, teacher, teacher_config, **how):
  found, metrics = gradient_and_loss(options, teacher, teacher_config, **how)
  (value, mask), exact = jax.jit(jax.value_and_grad(
      lambda p: expected(p, teacher, teacher_config, options), has_aux=True)
  )(parameters())
  assert 0 < mask.sum() <= batch().mask.sum()
  assert metrics['count'] == mask.sum() == metrics['weight']
  assert metrics['tokens'] == batch().mask.sum()
  np.testing.assert_allclose(metrics['loss'] / metrics['count'], value, rtol=1e-5)
  # A difference of parameters is rounded to their last bits.
  unfused.assert_close(found, exact, 2e-5)
  assert_metrics(metrics)


def assert_metrics(metrics):
  """They are of all response tokens, the trained ones or not."""
  b = batch()
  log_q = jax.nn.log_softmax(log_probabilities(
      parameters(), config_of(), b.tokens, b.positions, b.start))
  log_p = jnp.take_along_axis(log_q, b.targets[..., None], -1)[..., 0]
  entropy = -(jnp.exp(log_q) * log_q).sum(-1)
  for name, value in (
      ('nll', -log_p), ('entropy', entropy), ('phi', log_p + entropy)):
    np.testing.assert_allclose(metrics[name], (b.mask * value).sum(), rtol=1e-4)


@pytest.mark.parametrize('options', CASES, ids=str)
def test_a_step_follows_the_gradient_of_whole_logits(options):
  # One of the teachers is a model of another width.
  width = 48 if options.get('kind') == 'reverse' else 32
  assert_step(options, parameters(width, 1), config_of(width))


@pytest.mark.parametrize('how', [
    dict(micro_batches=4), dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_micro_batches_and_eight_devices_take_the_same_step(how):
  # The three kinds on eight devices: see vocab_head/divergence_test.py.
  if 'data' in how:
    how = dict(mesh=sharding.make_mesh(**how))
  assert_step(CASES[2], parameters(seed=1), config_of(), **how)


@pytest.mark.parametrize('kind', divergence_test.KINDS)
def test_a_teacher_that_is_the_student_teaches_nothing(kind):
  same = two_contexts.collate([
      two_contexts.Row([3, 4, 5], [3, 4, 5], [7, 8, 9]),
      two_contexts.Row([6], [6], [2])], two_contexts.Shape(2, 8, 8, 4))
  # Small logits: those of two forwards differ by rounding.
  params = jax.tree.map(lambda x: x / 4, parameters())
  (total, _), gradient = jax.jit(jax.value_and_grad(
      lambda p: distill.loss_sums(
          p, params, config_of(), config_of(), same,
          distill.Distillation(kind=kind)), has_aux=True))(params)
  assert abs(total) <= 1e-6 and unfused.norm(gradient) <= 1e-6


def test_a_batch_without_a_row_or_without_a_trained_token_changes_nothing():
  f = jax.jit(jax.value_and_grad(
      lambda p, b: distill.loss_sums(
          p, parameters(seed=1), config_of(), config_of(), b,
          distill.Distillation(most_entropy=1.0)), has_aux=True))
  # The teacher is never as sure as that.
  empty = two_contexts.collate([], two_contexts.Shape(8, 16, 17, 7))
  for rows in (empty, batch()):
    (total, (count, sums)), gradient = f(parameters(), rows)
    assert total == count == sums['weight'] == 0
    assert sums['tokens'] == rows.mask.sum() and np.isfinite(sums['nll'])
    assert unfused.norm(gradient) == 0


def test_no_array_of_tokens_by_vocabulary_is_held():
  config = model.ModelConfig.from_hf(dict(
      model_type='qwen2', vocab_size=40_000, hidden_size=8, intermediate_size=8,
      num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
      rms_norm_eps=1e-6, max_position_embeddings=4096))
  params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  rows = two_contexts.abstract(
      two_contexts.Shape(8, 1040, 1056, 1024),
      sharding.replicated(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])))
  for options in CASES:
    jaxpr = jax.make_jaxpr(jax.grad(
        lambda p, t, b, o=options: distill.loss_sums(
            p, t, config, config, b, distill.Distillation(**o))[0]
    ))(params, params, rows)
    shapes = vocab_head_test.all_shapes(jaxpr.jaxpr)
    # One tile of 2048 tokens of the 8192.
    assert max(np.prod(s) for s in shapes if 40_000 in s) <= 2048 * 40_000


def test_the_memory_of_the_teachers_forward_grows_with_its_rows():
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  few, many = (
      distill.teacher_memory(
          parameters(), config_of(), two_contexts.Shape(rows, 16, 32, 8), mesh)
      for rows in (2, 16))
  assert 0 < few < many


@pytest.mark.parametrize('wrong', [
    dict(every=0), dict(responses='some'), dict(hint=False), dict(kind='both'),
    dict(skip=-1), dict(clip=-1.0), dict(least_entropy=float('nan')),
    dict(most_entropy=1.0, least_entropy=2.0), dict(temperature=0.0)])
def test_options_without_a_meaning_are_refused(wrong):
  with pytest.raises(errors.InputError, match=next(iter(wrong))):
    distill.Distillation(**wrong)
  with pytest.raises(errors.InputError, match='distill.mixture=1.0'):
    distill.Distillation(mixture=1.0)
