"""Equal to whole logits: float64, autodiff, any chunk, tile and mesh."""

import functools
import re

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax import vocab_head
from ddt_jax.vocab_head import tiles

FIELDS = ('log_p', 'entropy', 'varentropy', 'collision')


def data(rows=24, width=16, vocab=203, scale=1.0, seed=0):
  """Random hidden [rows, width], head, targets and mask."""
  rng = np.random.default_rng(seed)
  hidden = rng.normal(size=(rows, width)).astype(np.float32)
  head = (scale * rng.normal(size=(vocab, width))).astype(np.float32)
  targets = rng.integers(0, vocab, rows).astype(np.int32)
  mask = (rng.random(rows) < 0.6).astype(np.float32)
  return hidden, head, targets, mask


def exact(hidden, head, targets, temperature=1.0):
  """Statistics of the whole logits in float64."""
  z = np.float64(hidden) @ np.float64(head).T / temperature
  z -= z.max(-1, keepdims=True)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  p = np.exp(log_p)
  entropy = -(p * log_p).sum(-1)
  return ddt.TokenStats(
      np.take_along_axis(log_p, targets[:, None], 1)[:, 0], entropy,
      (p * (log_p + entropy[:, None])**2).sum(-1), (p * p).sum(-1),
  )


def held(hidden, head, targets, temperature=1.0, top_k=0):
  return ddt.token_stats(
      hidden @ head.T, targets, temperature=temperature, top_k=top_k)


def norm(x):
  return float(np.sqrt(sum(np.sum(np.float64(leaf)**2) for leaf in
                           jax.tree.leaves(x))))


def assert_close(found, expected, rtol=1e-5):
  """Compares the norm of all differences with that of all expected values."""
  apart = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), found, expected)
  assert norm(apart) <= rtol * norm(expected)


@pytest.mark.parametrize('scale', [0.0, 0.2, 1.0, 8.0])
@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('chunk', [None, 1, 64, 203])
def test_statistics_against_float64(chunk, temperature, scale):
  hidden, head, targets, _ = data(scale=scale)
  found = vocab_head.token_stats(
      hidden, head, targets, chunk=chunk, temperature=temperature)
  expected = exact(hidden, head, targets, temperature)
  for name in FIELDS:
    value, error = getattr(expected, name), getattr(found, name)
    # Logits are sums of products in float32, and as large as `scale` makes them.
    limit = 3e-6 * (1 + np.abs(value)) * max(scale, 1)
    assert (np.abs(error - value) <= limit).all(), name


@pytest.mark.parametrize('field', FIELDS)
@pytest.mark.parametrize('chunk', [64, 203])
def test_every_field_has_its_gradient(field, chunk):
  hidden, head, targets, mask = data()

  def total(stats):
    return jnp.sum(getattr(stats, field) * (1 + mask))

  def gradient(f):
    return jax.grad(lambda h, w: total(f(h, w)), (0, 1))(hidden, head)

  found = gradient(functools.partial(
      vocab_head.token_stats, targets=targets, chunk=chunk, temperature=0.8))
  expected = gradient(
      functools.partial(held, targets=targets, temperature=0.8))
  assert_close(found, expected)


OPTIONAL = ('tail', 'ties', 'top_ids', 'top_log_p')


def assert_optional(found, expected):
  for name in OPTIONAL:
    np.testing.assert_allclose(
        getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-5,
        err_msg=name)


@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('chunk', [None, 2, 64])
def test_tail_and_the_likeliest_in_any_chunks(chunk, temperature):
  hidden, head, targets, _ = data()
  # The targets of the last three rows are their likeliest token, tied with another.
  head[7] = head[5] = np.round(2 * head[5])  # so that the products are exact
  hidden[-3:] = 4 * head[7]
  targets[-3:] = 7
  how = dict(temperature=temperature, tail=True, top_k=3)
  found = vocab_head.token_stats(hidden, head, targets, chunk=chunk, **how)
  expected = ddt.token_stats(hidden @ head.T, targets, **how)
  assert_optional(found, expected)
  assert found.top_ids[-1, :2].tolist() == [5, 7]
  np.testing.assert_allclose(found.tail[-3:], 0, atol=1e-6)
  assert vocab_head.token_stats(hidden, head, targets).tail is None
  every = vocab_head.token_stats(hidden, head, targets, top_k=999)
  assert every.top_ids.shape == (24, 203)


@pytest.mark.parametrize('chunk', [64, 203])
@pytest.mark.parametrize('field', ['tail', 'ties', 'top_log_p'])
def test_optional_fields_have_their_gradients(field, chunk):
  hidden, head, targets, _ = data()

  def gradient(f):
    def total(hidden, head):
      x = getattr(f(hidden, head), field)
      return jnp.sum(x * jnp.cos(jnp.arange(x.size).reshape(x.shape)))
    return jax.grad(total, (0, 1))(hidden, head)

  how = dict(temperature=0.8, tail=True, top_k=3)
  assert_close(
      gradient(lambda h, w: vocab_head.token_stats(
          h, w, targets, chunk=chunk, **how)),
      gradient(lambda h, w: ddt.token_stats(h @ w.T, targets, **how)))


@pytest.mark.parametrize('tensor', [1, 2, 4])
def test_optional_fields_of_supervised_tokens_on_a_mesh(monkeypatch, tensor):
  monkeypatch.setattr(tiles, 'TILE', 4)
  monkeypatch.setattr(tiles, 'REMAINDER_TILE', 2)
  hidden, head, targets, mask = data(vocab=204)
  how = dict(temperature=0.8, tail=True, top_k=3)
  expected = ddt.token_stats(hidden @ head.T, targets, **how)
  mesh = sharding.make_mesh(data=2, fsdp=4 // tensor, tensor=tensor)
  for where in (None, mesh):
    found = jax.jit(
        functools.partial(vocab_head.supervised_stats, mesh=where, **how)
    )(hidden, head, targets, mask)
    for name in OPTIONAL:
      x, y = getattr(found, name), getattr(expected, name)
      y = np.where(mask.reshape(-1, *[1] * (y.ndim - 1)) > 0, y, 0)
      np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-5, err_msg=name)
    every = vocab_head.token_stats(hidden, head, targets, mesh=where, **how)
    assert_optional(every, expected)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    rows=st.integers(1, 9), vocab=st.integers(2, 40), chunk=st.integers(1, 41),
    seed=st.integers(0, 99),
)
def test_the_chunk_size_does_not_change_the_numbers(rows, vocab, chunk, seed):
  hidden, head, targets, _ = data(rows, 4, vocab, seed=seed)
  found = vocab_head.token_stats(hidden, head, targets, chunk=chunk)
  expected = exact(hidden, head, targets)
  for name in FIELDS:
    np.testing.assert_allclose(
        getattr(found, name), getattr(expected, name), rtol=2e-5, atol=2e-5,
        err_msg=name)


@pytest.mark.parametrize('supervised', [0, 3, 9, 10, 14, 20, 24])
def test_supervised_tokens_are_scored_and_no_others(monkeypatch, supervised):
  # Whole tiles, and smaller ones for the remainder.
  monkeypatch.setattr(tiles, 'TILE', 10)
  monkeypatch.setattr(tiles, 'REMAINDER_TILE', 5)
  hidden, head, targets, _ = data()
  mask = np.random.default_rng(1).permutation(np.arange(24) < supervised)
  mask = mask.astype(np.float32)
  # A new function each time: jit would reuse a trace with other tile sizes.
  found = jax.jit(lambda *x: vocab_head.supervised_stats(*x))(
      hidden, head, targets, mask)
  expected = held(hidden, head, targets)
  for name in FIELDS:
    np.testing.assert_allclose(
        getattr(found, name), mask * getattr(expected, name), atol=1e-5)


def all_shapes(jaxpr):
  for equation in jaxpr.eqns:
    yield from (v.aval.shape for v in equation.outvars)
    for parameter in jax.tree.leaves(
        equation.params, is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        yield from all_shapes(inner)


@pytest.mark.parametrize('rows', [96, 24])
def test_nothing_as_large_as_the_logits_is_held(rows):
  hidden, head, targets, mask = data(rows, vocab=1000)

  def streamed(hidden, head):
    return vocab_head.token_stats(hidden, head, targets, chunk=128).phi.sum()

  def tiled(hidden, head):
    return vocab_head.weighted_nll(
        hidden, head, targets, mask, ones, chunk=rows // 4)[0]

  def materialised(hidden, head):
    return held(hidden, head, targets).phi.sum()

  def largest(f):
    jaxpr = jax.make_jaxpr(jax.value_and_grad(f, (0, 1)))(hidden, head)
    return max(int(np.prod(shape)) for shape in all_shapes(jaxpr.jaxpr))

  assert largest(materialised) == rows * 1000
  # The gradient of the head alone is larger than a chunk of logits.
  assert largest(streamed) == max(head.size, rows * 128)
  assert largest(tiled) == max(head.size, rows // 4 * 1000)


def ones(stats, extras):
  del extras
  return jnp.ones_like(stats.log_p), jnp.ones_like(stats.log_p)


def loss_by(path, name, options, hidden, head, targets, mask):
  """(loss, gradients) of an objective, by whole logits or by tiles."""
  traced = {'old_log_p': np.full(24, -5.0)} if name == 'psft' else {}
  if path == 'held':
    def loss(hidden, head):
      return objectives.token_loss(
          name, held(hidden, head, targets, top_k=20), mask, **options,
          **traced)[0]
  else:
    weights = objectives.constant_weights(name, **options)

    def loss(hidden, head):
      return vocab_head.weighted_nll(
          hidden, head, targets, mask, weights, traced, chunk=7)[0]

  return jax.value_and_grad(loss, (0, 1))(hidden, head)


@pytest.mark.parametrize('weight_grad', ['stop', 'through'])
@pytest.mark.parametrize(
    'name', sorted(objectives.WEIGHTS.keys() - objectives.SEQUENCE))
def test_tiles_give_the_objectives_and_their_gradients(name, weight_grad):
  arrays = data()
  options = {'weight_grad': weight_grad}
  found = loss_by('tiles', name, options, *arrays)
  expected = loss_by('held', name, options, *arrays)
  assert_close(found[0], expected[0])
  assert_close(found[1], expected[1])


def test_tiles_give_statistics_without_a_gradient_too():
  hidden, head, targets, mask = data()

  def loss(hidden):
    total, count, stats = vocab_head.weighted_nll(
        hidden, head, targets, mask, ones, chunk=7)
    return total, (count, stats)

  expected = held(hidden, head, targets)
  plain = loss(hidden)
  traced = jax.value_and_grad(loss, has_aux=True)(hidden)[0]
  for total, (count, stats) in (plain, traced):
    assert count == mask.sum()
    np.testing.assert_allclose(total, -(mask * expected.log_p).sum(), rtol=1e-6)
    np.testing.assert_allclose(stats.log_p, mask * expected.log_p, atol=1e-5)
    np.testing.assert_allclose(stats.entropy, mask * expected.entropy, atol=1e-5)


def test_extras_come_traced_and_are_cut_with_the_tokens():
  hidden, head, targets, mask = data()
  extras = {'scale': jnp.float32(3.0), 'each': jnp.arange(24.0)}

  def weights(stats, extras):
    w = extras['scale'] * extras['each'] + 0 * stats.log_p
    return w, w

  @jax.jit
  def loss(hidden, extras):
    return vocab_head.weighted_nll(
        hidden, head, targets, mask, weights, extras, chunk=7)[0]

  def expected(hidden, extras):
    w = extras['scale'] * extras['each']
    return -(mask * w * held(hidden, head, targets).log_p).sum()

  assert_close(jax.grad(loss)(hidden, extras), jax.grad(expected)(hidden, extras))


def test_without_supervised_tokens_loss_and_gradient_are_zero():
  hidden, head, targets, mask = data()
  total, gradient = jax.value_and_grad(
      lambda h: vocab_head.weighted_nll(
          h, head, targets, 0 * mask, ones, chunk=7)[0])(hidden)
  assert total == 0 and not gradient.any()


@pytest.mark.parametrize('vocab', [208, 203])
@pytest.mark.parametrize('axes', [
    dict(data=2, fsdp=1, tensor=4), dict(data=2, fsdp=2, tensor=2),
    dict(data=1, fsdp=8, tensor=1),
])
def test_devices_agree_with_one(axes, vocab):
  hidden, head, targets, mask = data(rows=64, vocab=vocab)
  hidden, targets, mask = (
      x.reshape(16, 4, *x.shape[1:]) for x in (hidden, targets, mask))
  mesh = sharding.make_mesh(**axes)

  def streamed(hidden, head, mesh=None):
    stats = vocab_head.token_stats(hidden, head, targets, chunk=32, mesh=mesh)
    return sum(jnp.sum(mask * getattr(stats, name)) for name in FIELDS)

  def tiled(hidden, head, mesh=None):
    return vocab_head.weighted_nll(
        hidden, head, targets, mask, ones, chunk=3, mesh=mesh)[0]

  where = (
      sharding.batch_sharding(mesh),
      sharding.tree_shardings({'head': {'kernel': head}}, mesh)['head']['kernel'],
  )
  split = vocab_head.is_split(mesh, head)
  assert split == (axes['tensor'] > 1 and vocab % 2 == 0)
  for f in (streamed,) if split else (streamed, tiled):
    one = jax.value_and_grad(f, (0, 1))(hidden, head)
    many = jax.jit(
        jax.value_and_grad(functools.partial(f, mesh=mesh), (0, 1)),
        in_shardings=where, out_shardings=(None, where),
    )(hidden, head)
    assert_close(many, one)
  scored = vocab_head.supervised_stats(hidden, head, targets, mask, mesh=mesh)
  expected = vocab_head.supervised_stats(hidden, head, targets, mask)
  assert_close(scored, expected)


def test_collectives_stay_outside_the_loop():
  hidden, head, targets, _ = data(rows=64, vocab=208)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  where = (
      sharding.batch_sharding(mesh),
      sharding.tree_shardings({'head': {'kernel': head}}, mesh)['head']['kernel'],
  )
  text = jax.jit(
      jax.grad(lambda h, w: vocab_head.token_stats(
          h, w, targets, chunk=16, mesh=mesh).phi.sum(), (0, 1)),
      in_shardings=where, out_shardings=where,
  ).lower(hidden, head).compile().as_text()
  bodies = re.findall(r'body=%([\w.-]+)', text)
  assert bodies
  for name in bodies:
    body = re.search(rf'^%{re.escape(name)} .*?^}}', text, re.M | re.S).group()
    assert 'all-' not in body and 'reduce-scatter' not in body
  assert 'all-reduce' in text


def test_weighted_nll_refuses_a_split_head():
  hidden, head, targets, mask = data(rows=64, vocab=204)
  with pytest.raises(ValueError, match='token_stats'):
    vocab_head.weighted_nll(
        hidden, head, targets, mask, ones, mesh=sharding.make_mesh(tensor=2))


@pytest.mark.parametrize('temperature', [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
  hidden, head, targets, mask = data()
  for score in (
      lambda **how: vocab_head.token_stats(hidden, head, targets, **how),
      lambda **how: vocab_head.supervised_stats(
          hidden, head, targets, mask, **how),
  ):
    with pytest.raises(errors.InputError, match=f'temperature .*{temperature}'):
      score(temperature=temperature)


def test_operands_in_bfloat16():
  hidden, head, targets, _ = data(rows=256, width=64, scale=0.3)
  low = jnp.bfloat16(hidden)
  # Sums are float32, so the only error is the rounding of the operands.
  rounded = exact(
      np.float32(low), np.float32(jnp.bfloat16(head)), targets)

  def tiled(hidden):
    total, _, stats = vocab_head.weighted_nll(
        hidden, head, targets, jnp.ones(256), ones, chunk=64)
    return total, stats

  (_, of_tiles), dh = jax.value_and_grad(tiled, has_aux=True)(low)
  for found in (vocab_head.token_stats(low, head, targets), of_tiles):
    assert found.log_p.dtype == jnp.float32
    np.testing.assert_allclose(found.log_p, rounded.log_p, atol=2e-5)
    np.testing.assert_allclose(found.entropy, rounded.entropy, atol=2e-5)
  exactly, _ = jax.grad(tiled, has_aux=True)(hidden)
  assert dh.dtype == jnp.bfloat16
  assert_close(np.float32(dh), exactly, rtol=0.01)
