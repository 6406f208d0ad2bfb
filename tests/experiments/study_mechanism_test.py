"""Tokens by phi: their gradients against autodiff, and their bands by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import ddt
from ddt_jax import objectives
from experiments.cells import mechanism


def some_stats(tokens=60, vocabulary=30):
  logits = 3 * jax.random.normal(jax.random.key(0), (tokens, vocabulary))
  targets = jnp.arange(tokens) % vocabulary
  stats = ddt.token_stats(logits, targets, top_k=20)
  return logits, targets, jax.tree.map(np.asarray, stats)


def test_the_norm_is_that_of_the_gradient_in_the_logits():
  logits, targets, stats = some_stats()
  weight = np.asarray(objectives.token_weights('idft', stats))

  def loss(logits):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(weight * jnp.take_along_axis(log_p, targets[:, None], 1)[:, 0])

  found = mechanism.gradient_norm(stats, weight)
  expected = jnp.linalg.norm(jax.grad(loss)(logits), axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_token_is_in_one_band_and_every_band_has_a_name():
  phi = np.array([-9.0, -2.0, -0.1, 0.0, 0.05, 0.3, 0.5, 7.0])
  inside = np.stack(mechanism.bands(phi))
  assert (inside.sum(0) == 1).all()
  assert inside.argmax(0).tolist() == [0, 1, 2, 3, 3, 4, 5, 5]
  assert mechanism.names() == [
      'below -2', '-2 to -0.5', '-0.5 to 0', '0 to 0.1', '0.1 to 0.5', '0.5 and above']


def test_shares_of_tokens_and_gradients_are_shares():
  *_, stats = some_stats()
  content = mechanism.before(stats)
  shares = np.array([[float(x) for x in (row[1], *row[4:])] for row in content.rows])
  np.testing.assert_allclose(shares.sum(0), 100, atol=0.5)
  assert {len(row) for row in content.rows} == {len(content.header)}


def test_what_training_moved_is_nothing_for_the_same_model():
  *_, stats = some_stats()
  nll, entropy = mechanism.moved(stats, {'idle': stats})
  assert nll[:2] == ['idle', 'NLL'] and entropy[:2] == ['idle', 'entropy']
  assert {x for x in nll[2:] + entropy[2:] if x} <= {'+0.000', '-0.000'}
