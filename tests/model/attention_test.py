import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax.model import attention


def by_hand(q, k, v, mask):
  """Head by head, in float64."""
  y = np.zeros(q.shape)
  shared = q.shape[2] // k.shape[1]
  for b, t, n in np.ndindex(q.shape[:3]):
    scores = q[b, t, n] @ k[b, n // shared] / np.sqrt(q.shape[3])
    p = np.exp(scores - scores.max()) * mask[b, t]
    y[b, t, n] = p / p.sum() @ v[b, n // shared]
  return y


@pytest.mark.parametrize('heads', [2, 6])
@pytest.mark.parametrize('time', [1, 3])
def test_attend(heads, time):
  rng, keys = np.random.default_rng(time), 512
  q = rng.normal(size=(2, time, heads, 8))
  k = rng.normal(size=(2, 2, 8, keys))
  v = rng.normal(size=(2, 2, keys, 8))
  mask = rng.random((2, time, keys)) < 0.5
  y = attention.attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), mask)
  np.testing.assert_allclose(y, by_hand(q, k, v, mask), atol=1e-6)


def test_who_sees_nothing_gets_a_mean_of_all():
  v = np.random.default_rng(0).normal(size=(1, 1, 5, 4)).astype(np.float32)
  y = attention.attend(
      jnp.ones((1, 1, 1, 4)), jnp.ones((1, 1, 4, 5)), jnp.asarray(v),
      jnp.zeros((1, 1, 5), bool),
  )
  np.testing.assert_allclose(y[0, 0, 0], v[0, 0].mean(0), rtol=1e-5)
