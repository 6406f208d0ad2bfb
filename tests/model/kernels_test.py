"""Every program for attention against blocks of XLA, and which one is chosen."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import sharding
from ddt_jax.model import attention
from ddt_jax.model import cudnn
from ddt_jax.model import flash
from ddt_jax.model import kernels
from ddt_jax.model import splash

TIME = 300  # no multiple of a block
MOVED = np.s_[0, :50]  # the segment that the tests change

# Uneven blocks, so that a block of queries has some keys of the next one.
SMALL = flash.Tiles(*(
    flash.Blocks(*sizes, warps=4, stages=2)
    for sizes in ((32, 64), (64, 32), (32, 64))))


@pytest.fixture(params=['blocks', 'splash', 'triton', 'triton on a GPU', 'cudnn'])
def program(request, monkeypatch):
  """(attend_rows, dtype, whether it takes segment ids)."""
  monkeypatch.setattr(splash, '_BLOCK', 128)
  if request.param in ('triton on a GPU', 'cudnn') and (
      jax.default_backend() != 'gpu'):
    pytest.skip('needs a GPU')
  return {
      'blocks': (
          functools.partial(attention.attend_rows, whole=64), jnp.float32, True),
      'splash': (
          functools.partial(splash.attend_rows, interpret=True), jnp.float32, True),
      'triton': (
          functools.partial(flash.attend_rows, tiles=SMALL, interpret=True),
          jnp.float32, True),
      'triton on a GPU': (flash.attend_rows, jnp.bfloat16, True),
      'cudnn': (cudnn.attend_rows, jnp.bfloat16, False),
  }[request.param]


def arrays(dtype=jnp.float32):
  """q, k, v and the weights of a loss."""
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = (2, TIME, 4, 64), (2, 2, 64, TIME), (2, 2, TIME, 64), (2, TIME, 4, 64)
  return [jax.random.normal(*x).astype(dtype) for x in zip(keys, shapes, strict=True)]


def rows(segmented):
  """Positions and segments: two segments, then padding; padding, then two."""
  positions = np.tile(np.arange(TIME), (2, 1))
  if not segmented:
    positions[0, 110:] = -1
    return jnp.asarray(positions), None
  segments = np.ones_like(positions)
  segments[0, 50:], positions[0, 50:] = 2, positions[0, 50:] - 50
  segments[0, 110:], positions[0, 110:] = 0, -1
  positions[1] -= 30
  positions[1, :30] = -1
  segments[1, 200:], positions[1, 200:] = 5, positions[1, 200:] - 170
  return jnp.asarray(positions), jnp.asarray(segments)


def loss_and_gradients(attend, q, k, v, weight, positions, segments, window=None):
  """(y, gradients of q, k and v), of a weighted sum of y outside of padding."""
  real = (positions >= 0)[..., None, None]
  if segments is not None:
    attend = functools.partial(attend, segment_ids=segments)

  def f(q, k, v):
    y = jnp.where(real, attend(q, k, v, positions, window=window), 0)
    return jnp.sum((y * weight).astype(jnp.float32)), y

  grad = jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))
  (_, y), grads = grad(q, k, v)
  return y, grads


@pytest.mark.parametrize('window', [None, 70])
def test_a_program_equals_one_block_in_value_and_gradient(program, window):
  attend, dtype, segmented = program
  inputs, where = arrays(dtype), rows(segmented)
  y, grads = loss_and_gradients(attend, *inputs, *where, window)
  wide = [x.astype(jnp.float32) for x in inputs]
  want, want_grads = loss_and_gradients(
      attention.attend_rows, *wide, *where, window)
  exact = dtype == jnp.float32
  np.testing.assert_allclose(
      y.astype(jnp.float32), want, atol=2e-5 if exact else 2e-2)
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected, atol=5e-5 if exact else 5e-2)


def test_no_bit_of_a_segment_reaches_another(program):
  attend, dtype, segmented = program
  q, k, v, weight = arrays(dtype)
  where = rows(segmented)
  moved = (
      q.at[MOVED].add(1), k.at[0, :, :, :50].add(1), v.at[0, :, :50].add(1),
      weight.at[MOVED].add(1))
  # [B, T, heads, H], to compare tokens.
  def tokens(y, grads):
    return y, grads[0], grads[1].transpose(0, 3, 1, 2), grads[2].swapaxes(1, 2)

  before = tokens(*loss_and_gradients(attend, q, k, v, weight, *where))
  after = tokens(*loss_and_gradients(attend, *moved, *where))
  for old, new in zip(before, after, strict=True):
    assert (old[MOVED] != new[MOVED]).any()
    np.testing.assert_array_equal(new[1], old[1])
    if segmented:
      np.testing.assert_array_equal(new[0, 50:110], old[0, 50:110])


@pytest.mark.parametrize('attend', [
    functools.partial(splash.attend_rows, interpret=True),
    functools.partial(flash.attend_rows, tiles=SMALL, interpret=True),
], ids=['splash', 'triton'])
def test_a_kernel_runs_on_the_rows_and_heads_of_each_device(attend):
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  keys = jax.random.split(jax.random.key(0), 3)
  q = jax.random.normal(keys[0], (4, 128, 4, 64))
  k = jax.random.normal(keys[1], (4, 2, 64, 128))
  v = jax.random.normal(keys[2], (4, 2, 128, 64))
  positions = jnp.tile(jnp.arange(128), (4, 1))
  split = jax.jit(functools.partial(attend, mesh=mesh))(q, k, v, positions)
  np.testing.assert_allclose(
      split, attention.attend_rows(q, k, v, positions), atol=2e-5)


def test_the_kernel_for_gpus_computes_only_blocks_that_share_a_segment():
  ids = jnp.repeat(jnp.array([[1, 2, 3]]), np.array([128, 64, 64]), 1)
  blocks = flash.Blocks(64, 64, 4, 2)
  first, last = flash.block_ranges(ids, blocks, window=256)
  np.testing.assert_array_equal(first, [[0, 0, 2, 3]])
  np.testing.assert_array_equal(last, [[1, 1, 2, 3]])
  # A query sees one block back.
  first, last = flash.block_ranges(jnp.ones_like(ids), blocks, window=65)
  np.testing.assert_array_equal(first, [[0, 0, 1, 2]])
  np.testing.assert_array_equal(last, [[1, 2, 3, 3]])


def devices(platform, capability='9.0', tensor=2):
  device = types.SimpleNamespace(platform=platform, compute_capability=capability)
  return types.SimpleNamespace(
      devices=np.array([device]), shape={'tensor': tensor})


def chosen(mesh, *, dtype='bfloat16', time=4096, head_dim=64, kv_heads=8,
           segmented=True):
  return kernels.choose(
      mesh, dtype=dtype, time=time, head_dim=head_dim, kv_heads=kv_heads,
      segmented=segmented)


def test_the_program_follows_from_devices_and_shapes():
  tpu, gpu = devices('tpu'), devices('gpu')
  assert str(chosen(tpu)) == 'splash' and str(chosen(gpu)) == 'triton'
  assert chosen(tpu, dtype='float32').name == 'splash'
  assert str(chosen(gpu, segmented=False)) == 'cudnn'
  assert chosen(gpu, segmented=False, head_dim=80).name == 'cudnn'
  # On a CPU nothing is missing that could be said.
  assert str(chosen(sharding.make_mesh(data=4, tensor=2))) == 'blocks'


@pytest.mark.parametrize(('mesh', 'shape', 'reason'), [
    (None, {}, 'devices'),
    (devices('tpu'), dict(kv_heads=3), '2 devices cannot share 3'),
    (devices('tpu'), dict(time=256), 'shorter than 512'),
    (devices('gpu'), dict(time=256), 'shorter than 512'),
    (devices('gpu'), dict(dtype='float32'), 'float32'),
    (devices('gpu'), dict(head_dim=80), '80 channels'),
    (devices('gpu'), dict(head_dim=256, segmented=False), '256 channels'),
    (devices('gpu', '7.5'), {}, '7.5'),
    (devices('gpu', 'gfx90a'), {}, 'gfx90a'),
])
def test_blocks_where_no_kernel_fits_and_the_reason_is_said(mesh, shape, reason):
  choice = chosen(mesh, **shape)
  assert choice.name == 'blocks' and reason in str(choice)


def test_rows_that_cudnn_would_get_wrong_are_nan(monkeypatch):
  monkeypatch.setattr(
      jax.nn, 'dot_product_attention', lambda q, k, v, **_: q)
  q, k, v, _ = arrays()
  positions = jnp.stack([jnp.arange(TIME), jnp.arange(TIME) - 30])
  y = cudnn.attend_rows(q, k, v, positions)
  assert not jnp.isnan(y[0]).any() and jnp.isnan(y[1]).all()


def test_the_kernels_for_gpus_become_triton_without_a_gpu():
  h100 = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'gpu')
  q, k, v, _ = arrays(jnp.bfloat16)

  def f(q, k, v):
    return flash.attend_rows(q, k, v, *rows(True)).astype(jnp.float32).sum()

  with jax.sharding.use_abstract_mesh(
      jax.sharding.AbstractMesh((), (), abstract_device=h100)):
    text = jax.jit(jax.grad(f, (0, 1, 2))).trace(q, k, v).lower(
        lowering_platforms=('cuda',)).as_text()
  # y, dq, and dk with dv.
  assert text.count('__gpu$xla.gpu.triton') == 3
