"""Attention against a loop in float64, and its mask against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax.model import attention


def mask_by_hand(positions, key_positions, segments, window=None):
  """Query by query."""
  mask = np.zeros((*positions.shape, key_positions.shape[1]), bool)
  for b, t, s in np.ndindex(mask.shape):
    same = segments is None or segments[0][b, t] == segments[1][b, s]
    written = key_positions[b, s] != attention.PADDING
    distance = positions[b, t] - key_positions[b, s]
    near = 0 <= distance < (window or np.inf)
    mask[b, t, s] = same and written and near
  return mask


def by_hand(q, k, v, mask):
  """Head by head, in float64."""
  y = np.zeros(q.shape)
  shared = q.shape[2] // k.shape[1]
  for b, t, n in np.ndindex(q.shape[:3]):
    scores = q[b, t, n] @ k[b, n // shared] / np.sqrt(q.shape[3])
    p = np.exp(scores - scores.max()) * mask[b, t]
    y[b, t, n] = p / p.sum() @ v[b, n // shared]
  return y


@pytest.mark.parametrize('segmented, window', [
    (False, None), (True, None), (False, 90), (True, 200)])
@pytest.mark.parametrize('heads', [2, 6])
@pytest.mark.parametrize('time', [1, 3])
def test_attend(heads, time, segmented, window):
  rng, keys = np.random.default_rng(time), 512
  q = rng.normal(size=(2, time, heads, 8))
  k = rng.normal(size=(2, 2, 8, keys))
  v = rng.normal(size=(2, 2, keys, 8))
  positions = rng.integers(100, 400, (2, time))
  key_positions = rng.integers(-1, 400, (2, keys))
  segments = None
  if segmented:
    segments = rng.integers(1, 4, (2, time)), rng.integers(0, 4, (2, keys))
  mask = mask_by_hand(positions, key_positions, segments, window)
  assert 0.05 < mask.mean() < 0.95
  np.testing.assert_array_equal(
      attention.visible(
          positions, key_positions,
          segments and tuple(map(jnp.asarray, segments)), window), mask)
  y = attention.attend(
      *(jnp.asarray(x, jnp.float32) for x in (q, k, v)), positions,
      key_positions, segments, window)
  np.testing.assert_allclose(y, by_hand(q, k, v, mask), atol=1e-6)


def test_a_query_that_sees_no_key_gets_the_mean_of_all_values():
  v = np.random.default_rng(0).normal(size=(1, 1, 5, 4)).astype(np.float32)
  y = attention.attend(
      jnp.ones((1, 1, 1, 4)), jnp.ones((1, 1, 4, 5)), jnp.asarray(v),
      np.array([[-1]]), np.arange(5)[None],
  )
  np.testing.assert_allclose(y[0, 0, 0], v[0, 0].mean(0), rtol=1e-5)


@pytest.mark.parametrize('segmented', [False, True])
@pytest.mark.parametrize('window', [None, 1, 4, 5, 11])
def test_blocks_are_the_whole_row(monkeypatch, segmented, window):
  monkeypatch.setattr(attention, '_BLOCK', 5)
  rng, time = np.random.default_rng(0), 23
  q, k, v = (
      jnp.asarray(rng.normal(size=shape), jnp.float32)
      for shape in ((2, time, 4, 8), (2, 2, 8, time), (2, 2, time, 8))
  )
  positions = np.where(np.arange(time) < [[time], [19]], np.arange(time), -1)
  ids = np.repeat([[1, 2]], [9, 14], 1) * np.ones((2, 1), int)
  ids = jnp.asarray(ids) if segmented else None
  rows = functools.partial(attention.attend_rows, window=window)
  whole = rows(q, k, v, positions, ids)
  blocks = rows(q, k, v, positions, ids, whole=8)
  seen = positions >= 0
  np.testing.assert_allclose(blocks[seen], whole[seen], atol=1e-6)


def test_a_long_row_has_no_mask_of_all_its_pairs():
  time = 4096
  x = jax.ShapeDtypeStruct((1, time, 1, 8), jnp.float32)
  k = jax.ShapeDtypeStruct((1, 1, 8, time), jnp.float32)
  v = jax.ShapeDtypeStruct((1, 1, time, 8), jnp.float32)
  at = jax.ShapeDtypeStruct((1, time), jnp.int32)
  text = str(jax.make_jaxpr(attention.attend_rows)(x, k, v, at, at))
  assert f'{time},{time}]' not in text and f'512,{time}]' in text
