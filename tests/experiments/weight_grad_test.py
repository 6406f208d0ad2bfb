"""The two gradients of the weight: the curves side by side, and their cause."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import objectives
from experiments import weight_grad


def test_a_curve_has_the_means_of_equal_stretches():
  lines = [dict(step=i, loss=i, phi=-i, nll=2 * i) for i in range(1, 7)]
  assert weight_grad.curve(lines, 3) == [
      (2, [1.5, -1.5, 3.0]), (4, [3.5, -3.5, 7.0]), (6, [5.5, -5.5, 11.0])]
  text = weight_grad.table({'through': lines[:2], 'stop': lines[4:]}, 8)
  assert text.splitlines()[2] == (
      '| to 1 | 1.000 | -1.000 | 2.000 | 5.000 | -5.000 | 10.000 |')


@pytest.mark.parametrize('kind, falls', [('through', True), ('stop', False)])
def test_descent_unlearns_an_unlikely_token_where_the_weight_has_a_gradient(kind, falls):
  logits, target = np.float32([2.0, 0.0, -3.0, 1.0]), jnp.array(2)

  def loss(z):
    stats = ddt.token_stats(z, target)
    return objectives.token_loss('idft', stats, jnp.ones(()), weight_grad=kind)[0]

  before = jax.nn.log_softmax(logits)[2]
  after = jax.nn.log_softmax(logits - 0.1 * jax.grad(loss)(logits))[2]
  assert (after < before) == falls
