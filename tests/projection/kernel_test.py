"""The transition kernel of a chain, written out: is pi stationary?"""

import math

import numpy as np
import pytest

from ddt_jax.projection import metropolis
from tests.support import tiny_worlds

PREDICATES = {
    'a sum': lambda text: sum(text) % 3 != 1,
    'no double': lambda text: len(text) > 1 and text[0] != text[1],
    'some words': lambda text: text[0] in (1, 2, 4),
}
TOLERANCE = 1e-12
RIGHT = metropolis.log_ratio  # bound here: another test replaces it by a wrong one


def log_without_cut(old_m, old_q, new_m, new_q, cut, restart=False):
  return RIGHT(old_m, old_q, new_m, new_q, cut, restart=True)


def log_with_lengths(old_m, old_q, new_m, new_q, cut, restart=False):
  return RIGHT(old_m, old_q, new_m, new_q, cut, restart=False)


def log_exchanged(old_m, old_q, new_m, new_q, cut, restart=False):
  return RIGHT(old_q, old_m, new_q, new_m, cut, restart)


# With the share of restarts at which it shows.
WRONG = [
    (log_without_cut, 0.0), (log_exchanged, 0.0), (log_exchanged, 0.5),
    (log_with_lengths, 1.0)]


def kernel(densities, pi, log_ratio, restarts=0.0):
  """[n, n], the probability of each move between the texts of pi."""
  states = list(pi)
  found = np.zeros((len(states), len(states)))
  for i, x in enumerate(states):
    for j, y in enumerate(states):
      # (share of the moves, cut, whether it is a restart)
      for share, cut, restart in [(restarts, 0, True)] + [
          ((1 - restarts) / len(x), cut, False) for cut in range(len(x))]:
        if i == j or y[:cut] != x[:cut] or len(y) <= cut:
          continue
        drawn = share * np.exp(densities[y][0][cut:].sum())
        ratio = log_ratio(*densities[x], *densities[y], cut, restart)
        found[i, j] += drawn * math.exp(min(0.0, ratio))
    found[i, i] = 1 - found[i].sum()  # rejected: stays
  return found


def world(beta, is_right, **options):
  config, params = tiny_worlds.tiny()
  densities = tiny_worlds.log_probs(config, params, beta=beta, **options)
  pi = tiny_worlds.target(densities, is_right)
  return densities, pi, np.array(list(pi.values()))


@pytest.mark.parametrize('beta, options', [
    (0.0, {}), (1.0, {}), (3.0, {}), (1.0, dict(temperature=0.7, top_p=0.9))])
@pytest.mark.parametrize('restarts', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('is_right', PREDICATES.values(), ids=PREDICATES.keys())
def test_pi_is_in_detailed_balance_and_reached_from_anywhere(
    beta, options, is_right, restarts):
  densities, pi, p = world(beta, is_right, **options)
  moves = kernel(densities, pi, metropolis.log_ratio, restarts)
  assert (moves >= 0).all()
  flow = p[:, None] * moves
  np.testing.assert_allclose(flow, flow.T, atol=TOLERANCE)
  np.testing.assert_allclose(p @ moves, p, atol=TOLERANCE)
  # From any start: all rows of a high power are pi.
  np.testing.assert_allclose(
      np.linalg.matrix_power(moves, 2**20), np.tile(p, (len(p), 1)), atol=1e-6)


@pytest.mark.parametrize('wrong, restarts', WRONG)
def test_a_wrong_ratio_leaves_pi(wrong, restarts):
  densities, pi, p = world(0.0, PREDICATES['a sum'])
  moved = p @ kernel(densities, pi, wrong, restarts)
  assert abs(moved - p).sum() > 0.01
