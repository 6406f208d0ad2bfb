"""Every objective against its float64 formula; devices, edges and refused options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax import vocab_head
from tests.support import unfused

REFERENCES = {'psft': 'old_log_p', 'iw_sft': 'reference_log_p'}
CASES = [
    ('sft', {}), ('dft', {}), ('idft', {}), ('idft', dict(curriculum=0.5)),
    ('idft_information', {}), ('idft_z', {}), ('idft_z', dict(beta=0.5)),
    ('phi_mask', {}), ('phi_mask', dict(bound=0.5)),
    ('phi_mask', dict(bound=0.5, one_sided=True)),
    ('power', dict(a=0.0)), ('power', dict(a=10.0)), ('threshold', {}),
    ('threshold', dict(q=0.1, keep_p=True)), ('chord', {}), ('deft', {}),
    ('eaft', {}), ('eaft', dict(k=3, alpha=2.0)),
    ('eaft', dict(normalised=False)), ('eaft', dict(k=None)),
    ('eaft', dict(k=999)), ('psft', {}), ('psft', dict(high=1.05)),
    ('iw_sft', {}), ('iw_sft', dict(temperature=3.0, most=1.1)),
]
by_name = pytest.mark.parametrize(
    'name, options', CASES, ids=[f'{n}{o or ""}' for n, o in CASES])
HIDDEN, HEAD, TARGETS, MASK = unfused.golden()


@functools.cache
def reference_log_p():
  """log p of the targets, perturbed by N(0, 0.3)."""
  log_q = unfused.exactly(unfused.log_softmax, HIDDEN)
  log_p = np.take_along_axis(log_q, TARGETS[:, None], 1)[:, 0]
  return np.float32(
      log_p + 0.3 * np.random.default_rng(1).normal(size=log_p.shape))


def traced(name, mask=None):
  options = {}
  if name in REFERENCES:
    options = {REFERENCES[name]: jnp.asarray(reference_log_p())}
  if name == 'iw_sft' and mask is not None:
    options['mask'] = mask
  return options


def exact(name, options):
  """(loss, gradients by hidden and head) in float64."""
  reference = reference_log_p() if name in REFERENCES else None

  def loss(hidden, head):
    return unfused.loss(
        hidden, head, TARGETS, MASK, name, reference, **options)
  return unfused.exactly(jax.value_and_grad(loss, (0, 1)), HIDDEN, HEAD)


def by_statistics(name, options, mesh=None, chunk=100):
  needs, extra = objectives.needs(name, **options), traced(name)

  def loss(hidden, head):
    stats = vocab_head.token_stats(
        hidden, head, TARGETS, chunk=chunk, mesh=mesh, top_k=needs.get('top_k', 0))
    return objectives.token_loss(name, stats, MASK, **options, **extra)[0]
  return jax.value_and_grad(loss, (0, 1))


def by_tiles(name, options, mesh=None):
  extra = traced(name)

  def loss(hidden, head):
    return vocab_head.weighted_nll(
        hidden, head, TARGETS, MASK,
        objectives.constant_weights(name, **options), extra, chunk=5, mesh=mesh)[0]
  return jax.value_and_grad(loss, (0, 1))


def routes(name):
  return (by_statistics,) if name in objectives.SEQUENCE else (
      by_statistics, by_tiles)


@by_name
def test_loss_and_gradients_by_both_routes_are_those_of_float64(name, options):
  expected = exact(name, options)
  assert unfused.norm(expected[1]) > 0
  for route in routes(name):
    found = jax.jit(route(name, options))(HIDDEN, HEAD)
    unfused.assert_close(found[0], expected[0])
    unfused.assert_close(found[1], expected[1])


@by_name
def test_parts_of_a_batch_add_up(name, options):
  # Rows are sequences of two tokens.
  stats = ddt.token_stats(HIDDEN @ HEAD.T, TARGETS, top_k=502)
  extra = traced(name)

  def total(rows):
    def cut(x):
      return jnp.reshape(x, (8, 2, *x.shape[1:]))[rows]
    return objectives.token_loss(
        name, stats.map(cut), cut(MASK), **options, **jax.tree.map(cut, extra))[0]

  np.testing.assert_allclose(
      total(slice(None)), total(slice(3)) + total(slice(3, 8)), rtol=1e-5)


@pytest.mark.parametrize('tensor', [2, 1])
@pytest.mark.parametrize('name', sorted(objectives.WEIGHTS))
def test_eight_devices_agree_with_float64(name, tensor):
  mesh = sharding.make_mesh(data=2, fsdp=4 // tensor, tensor=tensor)
  split = vocab_head.is_split(mesh, HEAD)
  assert split == (tensor == 2)
  where = (
      sharding.batch_sharding(mesh),
      sharding.tree_shardings({'head': {'kernel': HEAD}}, mesh)['head']['kernel'])
  # Rows of one token for the tiles; a sequence of all for iw_sft.
  route = by_statistics if split or name in objectives.SEQUENCE else by_tiles
  found = jax.jit(
      route(name, {}, mesh), in_shardings=where, out_shardings=(None, where)
  )(HIDDEN, HEAD)
  unfused.assert_close(found, exact(name, {}))


@by_name
def test_extreme_tokens_have_finite_losses_and_gradients(name, options):
  # p is 1 exactly, 0 exactly, and that of a uniform model; one-token responses.
  logits = jnp.float32([[0, 2000, 0], [0, 2000, 0], [0, 0, 0], [5, 1, 0]])
  targets = jnp.array([1, 0, 2, 0])
  given = {REFERENCES[name]: jnp.zeros(1)} if name in REFERENCES else {}
  for row in range(4):
    for mask in (jnp.ones(1), jnp.zeros(1)):
      def loss(logits, row=row, mask=mask):
        stats = ddt.token_stats(logits, targets[row:row + 1], top_k=3)
        return objectives.token_loss(name, stats, mask, **options, **given)[0]
      value, grad = jax.value_and_grad(loss)(logits[row:row + 1])
      assert jnp.isfinite(value) and jnp.isfinite(grad).all()
      if not mask.any():
        assert value == 0 and not grad.any()


# Logits by a head that is the identity: p is 1 exactly, 0 exactly, and uniform.
CERTAIN = np.float32([[0, 3000, 0], [0, 3000, 0], [0, 0, 0]])
AT = np.array([1, 0, 2])
CERTAIN_MASKS = {  # rows are tokens of one sequence
    'all': [1, 1, 1], 'none': [0, 0, 0], 'one token': [0, 0, 1],
    'weights of 0': [0, 1, 0]}


@pytest.mark.parametrize('name', sorted(objectives.WEIGHTS))
def test_degenerate_tokens_are_finite_by_both_routes(name):
  # Also more likeliest tokens (20 of eaft) than token ids (3).
  extra = {REFERENCES[name]: jnp.zeros(3)} if name in REFERENCES else {}
  needs = objectives.needs(name)

  def streamed(hidden, head, mask):
    stats = vocab_head.token_stats(
        hidden, head, AT, chunk=2, top_k=needs.get('top_k', 0))
    total, count, _ = objectives.token_loss(
        name, stats, mask, denominator='kept', **extra)
    return total, count

  def tiled(hidden, head, mask):
    total, count, _ = vocab_head.weighted_nll(
        hidden, head, AT, mask, objectives.constant_weights(name), extra, chunk=2)
    return total, count

  for route in (streamed, tiled)[:len(routes(name))]:
    f = jax.jit(jax.value_and_grad(route, (0, 1), has_aux=True))
    for case, mask in CERTAIN_MASKS.items():
      (total, count), gradients = f(CERTAIN, np.eye(3, dtype=np.float32), jnp.float32(mask))
      assert all(jnp.isfinite(x).all() for x in (total, *gradients)), case
      # An impossible token has no weight, except in plain SFT.
      if case == 'none' or (case == 'weights of 0' and name != 'sft'):
        assert total == 0 and not any(x.any() for x in gradients), case
        assert count == 0 or route is tiled


def test_a_weight_of_zero_outweighs_an_impossible_token():
  logits = jnp.float32([[0.0, -jnp.inf]])
  for name in ('dft', 'power', 'chord', 'deft', 'idft', 'threshold'):
    for mode in ('stop', 'through'):
      def loss(logits, name=name, mode=mode):
        stats = ddt.token_stats(logits, jnp.array([1]))
        return objectives.token_loss(
            name, stats, jnp.ones(1), weight_grad=mode)[0]
      assert loss(logits) == 0, name
      if mode == 'stop':
        assert jnp.isfinite(jax.grad(loss)(logits)).all(), name


def test_weights_by_hand():
  stats = ddt.token_stats(
      jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])), jnp.array([0, 1]),
      top_k=2)
  weights = lambda name, **o: np.asarray(objectives.token_weights(name, stats, **o))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  close(weights('power', a=2.0), [0.25, 0.01])
  close(weights('threshold', q=0.4), [1, 0])
  close(weights('threshold', q=0.05, keep_p=True), [0.5, 0.1])
  close(weights('chord'), [0.25, 0.09])
  close(weights('deft'), [0.5**0.375, 0.1**0.66])
  r = np.array([2 / 3, 1 / 3]), np.array([8 / 9, 1 / 9])
  close(weights('eaft', k=2), [-(x * np.log2(x)).sum() for x in r])
  p = np.array([0.5, 0.25]), np.array([0.8, 0.1])
  close(weights('eaft', k=2, alpha=2.0, normalised=False),
        [(x * np.log2(x)).sum()**2 for x in p])
  close(weights('eaft', k=None),
        [1.5 * np.log(2) / np.log(3), 0.6390319 / np.log(3)])
  old = jnp.log(jnp.array([0.4, 0.01]))
  close(weights('psft', old_log_p=old), [1.25, 0])
  close(weights('psft', old_log_p=old, high=20.0), [1.25, 10])
  mean = np.log(1.25 * 10) / 2
  close(weights('iw_sft', reference_log_p=old, mask=jnp.ones(2)), np.exp([mean] * 2))
  close(weights('iw_sft', reference_log_p=old, mask=jnp.array([1.0, 0.0])), [1.25] * 2)
  close(weights('iw_sft', reference_log_p=old, mask=jnp.ones(2), most=1.5), [1.5] * 2)


def test_phi_mask_drops_by_phi():
  phi = jnp.array([-6.0, -4.0, 4.0, 6.0])
  stats = ddt.TokenStats(phi - 7.0, jnp.full(4, 7.0))
  kept = lambda **o: (objectives.token_weights('phi_mask', stats, **o) > 0).tolist()
  assert kept() == [False, True, True, False]
  assert kept(one_sided=True) == [False, True, True, True]
  assert kept(bound=5.0, curriculum=0.0) == kept()


@pytest.mark.parametrize('name, wrong', [
    ('power', dict(a=-1.0)), ('threshold', dict(q=1.5)), ('eaft', dict(k=1)),
    ('eaft', dict(k=-3)), ('eaft', dict(alpha=-1.0)), ('phi_mask', dict(bound=0.0)),
    ('psft', dict(high=0.0)), ('iw_sft', dict(temperature=0.0)),
    ('iw_sft', dict(most=float('nan'))), ('power', dict(a=float('nan'))),
])
def test_options_out_of_range_are_refused_by_name(name, wrong):
  stats = ddt.token_stats(HIDDEN, TARGETS, top_k=20)
  option = next(iter(wrong))
  with pytest.raises(errors.InputError, match=f'loss.{option}='):
    objectives.token_loss(name, stats, MASK, **wrong, **traced(name))


@pytest.mark.parametrize('name', sorted(objectives.WEIGHTS))
def test_an_unknown_option_is_a_type_error_of_every_scheme(name):
  stats = ddt.token_stats(HIDDEN, TARGETS, top_k=20)
  with pytest.raises(TypeError, match=f"'{name}' has no option 'gama'"):
    objectives.token_weights(name, stats, gama=1.0, **traced(name, MASK))
  with pytest.raises(TypeError, match=f"'{name}' has no option 'gama'"):
    objectives.constant_weights(name, gama=1.0)


def test_a_missing_reference_is_a_type_error():
  stats = ddt.token_stats(HIDDEN, TARGETS)
  with pytest.raises(TypeError, match='old_log_p'):
    objectives.token_loss('psft', stats, MASK)


def test_statistics_that_lack_the_likeliest_tokens_are_refused():
  for top_k, k in ((0, 20), (5, 20)):
    with pytest.raises(ValueError, match=f'k={k} .* have {top_k}: .*top_k={k}'):
      objectives.token_weights(
          'eaft', ddt.token_stats(HIDDEN, TARGETS, top_k=top_k), k=k)


def test_tiles_compute_what_the_weights_need_and_no_more():
  for name, fields in (
      ('idft', set()), ('deft', {'collision'}), ('eaft', {'top_log_p'}),
  ):
    def seen(stats, extras, name=name, fields=fields):
      optional = {'varentropy', 'collision', 'top_log_p', 'tail'}
      assert {f for f in optional if getattr(stats, f) is not None} == fields
      return objectives.constant_weights(name)(stats, extras)
    seen.needs = objectives.constant_weights(name).needs
    _, _, stats = vocab_head.weighted_nll(HIDDEN, HEAD, TARGETS, MASK, seen)
    assert stats.vocab_size == 502


def test_weights_of_sequences_refuse_the_tiles():
  with pytest.raises(ValueError, match='iw_sft .*token_stats'):
    objectives.constant_weights('iw_sft')


def test_a_packed_row_has_a_weight_for_each_of_its_sequences():
  stats = ddt.token_stats(HIDDEN, TARGETS).map(lambda x: x.reshape(2, 8))
  reference, mask = reference_log_p().reshape(2, 8), MASK.reshape(2, 8)
  ids = jnp.array([[1, 1, 1, 2, 2, 2, 0, 0], [1] * 8])
  packed = objectives.iw_sft(
      stats, reference_log_p=reference, mask=mask, segment_ids=ids)
  for row, part in ((0, slice(3)), (0, slice(3, 6)), (1, slice(8))):
    alone = objectives.iw_sft(
        stats.map(lambda x, row=row, part=part: x[row, part]),
        reference_log_p=reference[row, part], mask=mask[row, part])
    np.testing.assert_allclose(packed[row, part], alone, rtol=1e-5)
