"""Divergences from a teacher: float64, both routes, devices, edges, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import sharding
from ddt_jax import vocab_head
from tests.support import unfused
from tests.vocab_head import vocab_head_test

KINDS = ('forward', 'reverse', 'jsd')
CASES = [
    *(dict(kind=kind) for kind in KINDS), dict(kind='jsd', beta=0.1),
    *(dict(kind=kind, temperature=1.7, clip=0.2) for kind in KINDS),
]
by_case = pytest.mark.parametrize('options', CASES, ids=str)


@functools.cache
def arrays(vocab=unfused.VOCAB):
  """Golden student logits, and a teacher of another width near them."""
  hidden, head, _, mask = unfused.golden()
  rng = np.random.default_rng(2)
  hidden, head = hidden / 4, head[:vocab]
  teacher_head = np.concatenate(
      [head, rng.normal(size=(vocab, 3))], 1).astype(np.float32)
  teacher = np.concatenate(
      [hidden + 0.3 * rng.normal(size=hidden.shape), rng.normal(size=(16, 3))], 1)
  return hidden, head, np.float32(teacher), teacher_head, mask


def formula(hidden, head, teacher, teacher_head, mask, kind='forward', beta=0.5,
            temperature=1.0, clip=None):
  a = unfused.log_softmax(hidden @ head.T / temperature)
  b = unfused.log_softmax(teacher @ teacher_head.T / temperature)

  def kl(p, q):
    return (jnp.exp(p) * (p - q)).sum(-1)

  if kind == 'jsd':
    m = jnp.log(beta * jnp.exp(b) + (1 - beta) * jnp.exp(a))
    value = beta * kl(b, m) + (1 - beta) * kl(a, m)
  else:
    value = kl(b, a) if kind == 'forward' else kl(a, b)
  value = jnp.minimum(value, clip) if clip else value
  return (mask * value).sum(), value


def exact(options, of=None):
  *both, mask = of or arrays()
  return unfused.exactly(jax.value_and_grad(
      lambda *x: formula(*x, mask, **options), (0, 1), has_aux=True), *both)


def found(options, of=None, **how):
  *both, mask = of or arrays()

  def loss(*x):
    total, count, value = vocab_head.divergence(*x, mask, **options, **how)
    return total, (count, value)

  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(*both)


@pytest.mark.parametrize('how', [
    dict(chunk=5), dict(), dict(stream=True, chunk=100)], ids=str)
@by_case
def test_value_and_gradients_are_those_of_float64(options, how):
  (expected, values), gradients = exact(options)
  (total, (count, per_token)), found_gradients = found(options, **how)
  mask = arrays()[-1]
  assert count == mask.sum() and unfused.norm(gradients) > 0
  unfused.assert_close(total, expected)
  unfused.assert_close(per_token, mask * values, 2e-5)
  unfused.assert_close(found_gradients, gradients)
  if options.get('clip'):
    clipped = per_token[mask > 0] == np.float32(options['clip'])
    assert clipped.any() and not clipped.all()


@by_case
def test_without_a_gradient_the_value_is_the_same(options):
  total, _, per_token = vocab_head.divergence(*arrays(), **options)
  (expected, values), _ = exact(options)
  unfused.assert_close(total, expected)
  unfused.assert_close(per_token, arrays()[-1] * values, 2e-5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('stream', [True, False])
def test_a_teacher_that_is_the_student_gives_zero(kind, stream):
  hidden, head, _, _, mask = arrays()
  (total, _), gradients = found(
      dict(kind=kind), (hidden, head, hidden, head, mask), stream=stream)
  assert abs(total) <= 1e-6 and unfused.norm(gradients) <= 1e-6


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('stream', [True, False])
def test_certain_distributions_and_an_empty_mask_stay_finite(kind, stream):
  hidden, head = jnp.float32([[0, 3000], [0, 3000], [0, 0]]), jnp.eye(2)
  teacher = jnp.float32([[0, 3000], [3000, 0], [0, 3000]])
  for mask in (jnp.ones(3), jnp.zeros(3)):
    (total, (_, value)), gradients = found(
        dict(kind=kind), (hidden, head, teacher, head, mask), stream=stream)
    assert all(jnp.isfinite(x).all() for x in (total, value, *gradients))
    if not mask.any():
      assert total == 0 and not any(x.any() for x in gradients)
  assert value.shape == (3,)
  if kind == 'jsd':
    value = vocab_head.divergence(
        hidden, head, teacher, head, jnp.ones(3), kind=kind)[2]
    np.testing.assert_allclose(value[1], np.log(2), rtol=1e-6)


def test_the_teacher_gets_no_gradient():
  *both, mask = arrays()
  for stream in (True, False):
    gradients = jax.grad(lambda *x, stream=stream: vocab_head.divergence(
        *x, mask, stream=stream)[0], (2, 3))(*both)
    assert not any(x.any() for x in gradients)


@pytest.mark.parametrize('vocab', [502, 501])
@pytest.mark.parametrize('kind', KINDS)
def test_eight_devices_agree_with_float64(kind, vocab):
  of = arrays(vocab)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  assert vocab_head.is_split(mesh, of[1]) == (vocab == 502)
  (total, _), gradients = found(dict(kind=kind), of, mesh=mesh)
  (expected, _), expected_gradients = exact(dict(kind=kind), of)
  unfused.assert_close(total, expected)
  unfused.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize('kind', KINDS)
def test_no_array_of_all_logits_is_held(kind):
  rng = np.random.default_rng(0)
  hidden, teacher = rng.normal(size=(2, 96, 16)).astype(np.float32)
  head, teacher_head = rng.normal(size=(2, 1000, 16)).astype(np.float32)
  mask = np.ones(96, np.float32)

  def largest(**how):
    jaxpr = jax.make_jaxpr(jax.value_and_grad(
        lambda h, w: vocab_head.divergence(
            h, w, teacher, teacher_head, mask, kind=kind, **how)[0], (0, 1)
    ))(hidden, head)
    shapes = vocab_head_test.all_shapes(jaxpr.jaxpr)
    return max(int(np.prod(shape)) for shape in shapes)

  assert largest(chunk=24) == 24 * 1000
  # The gradient of the head is larger than a chunk of logits.
  assert largest(stream=True, chunk=128) == head.size


@pytest.mark.parametrize('wrong', [
    dict(kind='both'), dict(beta=0.0), dict(beta=1.0), dict(clip=0.0),
    dict(temperature=0.0), dict(beta=float('nan')), dict(clip=-1.0)])
def test_options_without_a_meaning_are_refused(wrong):
  with pytest.raises(errors.InputError, match=next(iter(wrong))):
    vocab_head.divergence(*arrays(), **wrong)


def test_unequal_vocabularies_are_refused():
  hidden, head, teacher, teacher_head, mask = arrays()
  with pytest.raises(errors.InputError, match='502 token ids and the teacher 400'):
    vocab_head.divergence(hidden, head, teacher, teacher_head[:400], mask)


def test_operands_in_bfloat16():
  hidden, head, teacher, teacher_head, mask = arrays()
  low = jnp.bfloat16(hidden), head, jnp.bfloat16(teacher), teacher_head, mask
  rounded = (np.float32(low[0]), head, np.float32(low[2]),
             np.float32(jnp.bfloat16(teacher_head)), mask)
  (expected, _), _ = exact({}, rounded)
  for stream in (True, False):
    (total, _), (dh, dw) = found({}, low, stream=stream)
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    assert dh.dtype == jnp.bfloat16 and dw.dtype == jnp.float32
