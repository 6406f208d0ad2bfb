"""KL to the base: whole logits, any batches, any mesh; 0 for the base itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import model
from ddt_jax.data import chat
from ddt_jax.scoring import kl_to_base
from tests.support import student


def examples():
  rng = np.random.default_rng(0)
  return [
      chat.answered(rng.integers(5, 50, 4).tolist(), rng.integers(5, 50, n).tolist())
      for n in (3, 9, 6, 1, 7)]


def moved(params):
  return jax.tree.map(lambda x: x + 0.02 * jnp.sign(x) * jnp.std(x), params)


def test_the_base_has_not_moved():
  config, params = student.load()
  assert kl_to_base.kl_to_base(
      params, params, config, examples(), batch=2, mesh=student.mesh()) == 0


@pytest.mark.parametrize('devices', [1, 2])
def test_it_is_the_mean_over_all_tokens(devices):
  config, base = student.load(devices)
  params = moved(base)

  def log_p(params, tokens):
    logits, _ = model.forward(params, config, jnp.asarray(tokens)[None])
    return jax.nn.log_softmax(np.float32(logits[0]))

  values = []
  for e in examples():
    a, b = (log_p(p, e.tokens[:-1]) for p in (base, params))
    kl = (jnp.exp(a) * (a - b)).sum(-1)
    values += kl[e.supervised[1:]].tolist()
  found = kl_to_base.kl_to_base(
      base, params, config, examples(), batch=2, mesh=student.mesh(devices))
  assert len(values) == 26 and found > 1e-4
  np.testing.assert_allclose(found, np.mean(values), rtol=1e-3)
