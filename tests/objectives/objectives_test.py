"""The official loss in float64, and the identities between the objectives."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import objectives
from tests.support import paths

LOSS = paths.GOLDEN / 'loss'
IDFT = json.loads((LOSS / 'idft.json').read_text())
NPZ = np.load(LOSS / 'idft.npz')
# Golden numbers are float64 and ours float32. The official code also clamps p(y)
# at 1e-10 and adds 1e-10 inside the entropy's logarithm; both effects are smaller.
TOLERANCE = dict(rtol=2e-5, atol=2e-6)


def mean_loss(logits, targets, mask, name='idft', **options):
  stats = ddt.token_stats(logits, targets)
  total, count, _ = objectives.token_loss(name, stats, mask, **options)
  return total / count


def example(rows=6, vocab=11, scale=3.0):
  key, other = jax.random.split(jax.random.key(0))
  logits = scale * jax.random.normal(key, [rows, vocab])
  return logits, jax.random.randint(other, [rows], 0, vocab)


def golden_set(case_set):
  return (np.float32(NPZ[f'{case_set}_logits']), NPZ[f'{case_set}_labels'],
          np.float32(NPZ[f'{case_set}_mask']))


@pytest.mark.parametrize('case', IDFT['cases'], ids=lambda c: str(c['id']))
def test_official_idft(case):
  logits, labels, mask = golden_set(case['set'])
  golden = {k: NPZ[f'c{case["id"]}_{k}'] for k in (
      'phi', 'entropy', 'logp', 'gamma', 'weight', 'loss', 'grad')}
  options = dict(
      beta=case['beta'], gamma_min=case['gamma_min'],
      gamma_max=case['gamma_max'], curriculum=case['lambda_t'],
  )
  stats = ddt.token_stats(logits, labels)
  np.testing.assert_allclose(stats.phi, golden['phi'], **TOLERANCE)
  np.testing.assert_allclose(stats.entropy, golden['entropy'], **TOLERANCE)
  np.testing.assert_allclose(stats.log_p, golden['logp'], **TOLERANCE)
  gamma = objectives.idft_exponent(stats.phi, **options)
  np.testing.assert_allclose(gamma, golden['gamma'], **TOLERANCE)
  weight = objectives.token_weights('idft', stats, **options)
  np.testing.assert_allclose(weight, golden['weight'], **TOLERANCE)
  np.testing.assert_allclose(
      -weight * stats.log_p, golden['loss'], **TOLERANCE
  )
  loss, grad = jax.value_and_grad(mean_loss)(logits, labels, mask, **options)
  np.testing.assert_allclose(loss, case['total_loss'], rtol=1e-5)
  np.testing.assert_allclose(grad, golden['grad'], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('case', IDFT['cases'], ids=lambda c: str(c['id']))
def test_official_statistics(case):
  logits, labels, mask = golden_set(case['set'])
  _, count, sums = objectives.token_loss(
      'idft', ddt.token_stats(logits, labels), mask, beta=case['beta'],
      gamma_min=case['gamma_min'], gamma_max=case['gamma_max'],
      curriculum=case['lambda_t'],
  )
  summary = objectives.summarise(sums)
  assert count == summary['tokens'] == mask.sum()
  np.testing.assert_allclose(
      summary['phi'], case['stats']['phi_mean'], **TOLERANCE
  )
  weight = NPZ[f'c{case["id"]}_weight'][mask > 0]
  np.testing.assert_allclose(summary['weight'], weight.mean(), **TOLERANCE)
  np.testing.assert_allclose(
      summary['ess'], weight.sum() ** 2 / (weight**2).sum() / len(weight),
      rtol=1e-4,
  )
  free = np.exp(-NPZ[f'c{case["id"]}_phi'][mask > 0] / case['beta'])
  outside = (free < case['gamma_min']) | (free > case['gamma_max'])
  np.testing.assert_allclose(summary['clipped'], outside.mean(), rtol=1e-6)


@pytest.mark.parametrize('case_set', ['A', 'B'])
@pytest.mark.parametrize('name', ['sft', 'dft'])
def test_official_sft_and_dft(case_set, name):
  logits, labels, mask = golden_set(case_set)
  loss, grad = jax.value_and_grad(mean_loss)(logits, labels, mask, name)
  np.testing.assert_allclose(
      loss, IDFT['sft_dft'][f'{case_set}_{name}'], rtol=1e-5
  )
  np.testing.assert_allclose(
      grad, NPZ[f'{case_set}_{name}_grad'], rtol=1e-4, atol=1e-7
  )


def test_official_micro_batches_are_a_mean_of_means():
  logits = np.float32(NPZ['mb_logits'][:, :-1])
  targets, mask = NPZ['mb_ids'][:, 1:], NPZ['mb_loss_mask'][:, 1:]
  mask = np.float32(mask)
  golden = IDFT['micro']
  whole, grad = jax.value_and_grad(mean_loss)(logits, targets, mask)
  np.testing.assert_allclose(whole, golden['one_batch_loss'], rtol=2e-5)
  np.testing.assert_allclose(
      grad, NPZ['mb_grad'][:, :-1], rtol=1e-4, atol=1e-8
  )
  for row, loss in enumerate(golden['two_micro_batches']):
    alone = mean_loss(logits[row], targets[row], mask[row])
    np.testing.assert_allclose(alone / 2, loss, rtol=2e-5)

  # The official sum of both is ours with 1 / (2 count) in the mask.
  means = mask / (2 * mask.sum(-1, keepdims=True))
  np.testing.assert_allclose(
      mean_loss(logits, targets, means), golden['step_loss_is_their_sum'],
      rtol=2e-5,
  )


def test_sums_add_over_any_cut_of_the_batch():
  logits, targets = example()
  mask = jnp.array([1.0, 0, 1, 1, 1, 0])

  def parts(rows):
    return objectives.token_loss(
        'idft', ddt.token_stats(logits[rows], targets[rows]), mask[rows]
    )

  whole, first, rest = (
      parts(rows) for rows in (slice(None), slice(1), slice(1, None))
  )
  jax.tree.map(
      lambda w, a, b: np.testing.assert_allclose(w, a + b, rtol=1e-6),
      whole, first, rest,
  )


@pytest.mark.parametrize(
    'step, total, warmup, transition, expected',
    [tuple(c.values()) for c in
     json.loads((LOSS / 'curriculum.json').read_text())],
)
def test_official_curriculum(step, total, warmup, transition, expected):
  options = dict(warmup_ratio=warmup, transition_ratio=transition)
  strength = objectives.curriculum(step, total, **options)
  np.testing.assert_allclose(strength, expected, atol=1e-6)
  traced = jax.jit(lambda s: objectives.curriculum(s, total, **options))
  np.testing.assert_allclose(traced(step), expected, atol=1e-6)


def test_an_exponent_of_zero_is_cross_entropy():
  logits, targets = example()
  mask = jnp.array([1.0, 1, 0, 1, 1, 0])

  def cross_entropy(logits):
    each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(each * mask) / mask.sum()

  expected, expected_grad = jax.value_and_grad(cross_entropy)(logits)
  for options in (
      {'name': 'sft'}, {'name': 'idft', 'gamma_min': 0.0, 'gamma_max': 0.0}
  ):
    loss, grad = jax.value_and_grad(mean_loss)(logits, targets, mask, **options)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-8)


def test_idft_at_curriculum_zero_is_dft():
  logits, targets = example()
  mask = jnp.ones(6)
  a = jax.value_and_grad(mean_loss)(logits, targets, mask, 'dft')
  b = jax.value_and_grad(mean_loss)(logits, targets, mask, curriculum=0.0)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_natural_tokens_weigh_more_than_in_dft_and_unnatural_ones_less():
  phi = jnp.array([-20.0, -1.0, 0.0, 1.0, 20.0])
  np.testing.assert_allclose(
      objectives.idft_exponent(phi), [2, 2, 1, np.exp(-1), 0.1], rtol=1e-6
  )
  np.testing.assert_allclose(
      objectives.idft_exponent(phi, curriculum=0.5),
      [1.5, 1.5, 1, (1 + np.exp(-1)) / 2, 0.55], rtol=1e-6,
  )
  np.testing.assert_allclose(
      objectives.idft_exponent(phi, beta=4.0, gamma_max=10.0)[1:4],
      np.exp([0.25, 0, -0.25]), rtol=1e-6,
  )


def test_gradient_through_the_weight_follows_its_formula():
  # d/dz of -p^g log p is -p^g (1 + g log p) (onehot - p) with g a constant, and
  # -p^g (onehot - p) when the weight is one, too.
  logits, targets = example()
  stats = ddt.token_stats(logits, targets)
  weight = objectives.token_weights('idft', stats)
  gamma = objectives.idft_exponent(stats.phi)
  away = jax.nn.one_hot(targets, 11) - jax.nn.softmax(logits)
  grads = {
      mode: 6 * jax.grad(mean_loss)(
          logits, targets, jnp.ones(6), weight_grad=mode
      )
      for mode in ('stop', 'through')
  }
  np.testing.assert_allclose(
      grads['stop'], -weight[:, None] * away, rtol=1e-4, atol=1e-7
  )
  factor = weight * (1 + gamma * stats.log_p)
  np.testing.assert_allclose(
      grads['through'], -factor[:, None] * away, rtol=1e-4, atol=1e-7
  )
  # Unlikely tokens are then unlearnt: descent lowers their logit.
  unlikely = stats.log_p < -1 / gamma
  at_target = jnp.take_along_axis(grads['through'], targets[:, None], 1)[:, 0]
  assert unlikely.any() and (at_target[unlikely] > 0).all()


def test_denominators():
  logits = jnp.array([[0.0, 0.0], [0.0, 500.0], [0.0, 0.0]])
  stats = ddt.token_stats(logits, jnp.zeros(3, int))  # p = 1/2, 0, 1/2
  mask = jnp.array([1.0, 1.0, 0.0])
  loss, count, _ = objectives.token_loss('dft', stats, mask)
  assert count == 2
  kept_loss, kept, _ = objectives.token_loss(
      'dft', stats, mask, denominator='kept'
  )
  assert kept == 1 and kept_loss == loss
  np.testing.assert_allclose(loss, 0.5 * np.log(2), rtol=1e-6)


def test_histogram_counts_every_supervised_token_once():
  low, high = objectives.PHI_EDGES[0], objectives.PHI_EDGES[-1]
  phi = jnp.array([[-1e6, low, -0.1, 0.1], [high, 1e6, 0.1, 0.1]])
  stats = ddt.TokenStats(phi, jnp.zeros([2, 4]), *[jnp.ones([2, 4])] * 2)
  mask = jnp.array([[1.0, 1, 1, 1], [1, 1, 1, 0]])
  sums = objectives.token_loss('sft', stats, mask)[2]
  counts = np.asarray(sums['phi_histogram'])
  inside, _ = np.histogram(
      np.clip(phi, low, high)[mask > 0], objectives.PHI_EDGES
  )
  np.testing.assert_array_equal(counts, inside)
  assert counts.sum() == sums['tokens'] == 7


def test_summarise_reads_sums():
  logits, targets = example()
  stats = ddt.token_stats(logits, targets)
  sums = objectives.token_loss('sft', stats, jnp.ones(6))[2]
  summary = objectives.summarise(sums)
  assert summary['nll'] == pytest.approx(-float(stats.log_p.mean()), rel=1e-5)
  assert summary['entropy'] == pytest.approx(
      float(stats.entropy.mean()), rel=1e-5
  )
  assert summary['weight'] == summary['ess'] == 1
  assert 'clipped' not in summary
  nothing = objectives.summarise(jax.tree.map(jnp.zeros_like, sums))
  assert nothing['ess'] == nothing['nll'] == nothing['tokens'] == 0


def test_metrics_carry_no_gradient():
  logits, targets = example()

  def nll(logits):
    stats = ddt.token_stats(logits, targets)
    return objectives.token_loss('idft', stats, jnp.ones(6))[2]['nll']

  np.testing.assert_array_equal(jax.grad(nll)(logits), 0)


@pytest.mark.parametrize('options, message', [
    ({'name': 'rlhf'}, "'rlhf'.*dft.*idft.*sft"),
    ({'name': 'sft', 'denominator': 'rows'}, 'denominator'),
    ({'name': 'sft', 'weight_grad': 'half'}, 'weight_grad'),
])
def test_unknown_choices_are_refused_with_the_known_ones(options, message):
  stats = ddt.token_stats(*example())
  with pytest.raises(errors.InputError, match=message):
    objectives.token_loss(stats=stats, mask=jnp.ones(6), **options)


@pytest.mark.parametrize('name, option, known', [
    ('sft', 'curriculum', 'none'), ('dft', 'betaa', 'none'),
    ('idft', 'betaa', 'beta, gamma_min, gamma_max, curriculum'),
])
def test_an_option_that_a_scheme_does_not_know_is_a_type_error(
    name, option, known
):
  stats, wrong = ddt.token_stats(*example()), {option: 3.0}
  for call in (
      lambda: objectives.token_weights(name, stats, **wrong),
      lambda: objectives.token_loss(name, stats, jnp.ones(6), **wrong),
      lambda: objectives.constant_weights(name, **wrong),
      lambda: objectives.constant_weights(name)(stats, wrong),
  ):
    with pytest.raises(TypeError, match=f"'{name}'.*'{option}'.*{known}"):
      call()


def test_the_denominator_is_no_option_of_weights():
  with pytest.raises(TypeError, match='denominator'):
    objectives.constant_weights('dft', denominator='tokens')


@pytest.mark.parametrize('options, message', [
    ({'beta': 0.0}, 'loss.beta=0.0.*> 0'),
    ({'beta': -1}, 'loss.beta=-1.*> 0'),
    ({'beta': float('nan')}, 'loss.beta=nan.*> 0'),
    ({'gamma_min': 3.0}, 'gamma_min=3.0.*gamma_max=2.0'),
    ({'gamma_min': -0.1}, 'gamma_min=-0.1'),
    ({'gamma_min': -2.0, 'gamma_max': -1.0}, 'gamma_min=-2.0'),
])
def test_settings_without_a_meaning_are_refused(options, message):
  stats = ddt.token_stats(*example())
  for call in (
      lambda: objectives.idft_exponent(stats.phi, **options),
      lambda: objectives.token_weights('idft', stats, **options),
      lambda: objectives.token_loss('idft', stats, jnp.ones(6), **options),
  ):
    with pytest.raises(errors.InputError, match=message):
      call()


def test_shared_options_are_picked_by_the_objective():
  # The loss section of configs/idft.py, which configs/sft.py shares.
  shared = dict(
      beta=1.0, gamma_min=0.1, gamma_max=2.0, denominator='tokens',
      weight_grad='stop',
  )
  assert objectives.pick('idft', **shared) == {'name': 'idft'} | shared
  assert objectives.pick('sft', **shared) == dict(
      name='sft', denominator='tokens', weight_grad='stop')
  assert objectives.traced_options('idft', curriculum=0.5) == {'curriculum': 0.5}
  assert objectives.traced_options('dft', curriculum=0.5) == {}
  with pytest.raises(errors.InputError, match="'betaa'.*beta.*weight_grad"):
    objectives.pick('sft', betaa=3.0)
  with pytest.raises(errors.InputError, match="'rlhf'.*dft.*idft.*sft"):
    objectives.pick('rlhf')


@pytest.mark.parametrize('name', sorted(objectives.WEIGHTS))
def test_every_objective_is_a_documented_function_of_its_own(name):
  scheme = objectives.WEIGHTS[name]
  assert scheme is getattr(objectives, name)
  for part in ('.. math::', 'Args:', 'Returns:', 'Source:'):
    assert part in scheme.__doc__
  stats = ddt.token_stats(*example(), top_k=11)
  given = {'psft': dict(old_log_p=stats.log_p),
           'iw_sft': dict(reference_log_p=stats.log_p, mask=jnp.ones(6))}
  weight = scheme(stats, **given.get(name, {}))
  assert weight.shape == (6,) and weight.dtype == jnp.float32
  assert ((weight >= 0) & (weight <= 1)).all()
