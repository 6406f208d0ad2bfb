"""Statistics of texts in a few numbers, against NumPy."""

import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import objectives
from ddt_jax.scoring import text_stats
from ddt_jax.storage import typed_json


def made():
  """TokenStats of six texts; some phi beyond the histogram's edges."""
  rng = np.random.default_rng(0)

  def drawn(n):
    return rng.random(n, dtype=np.float32)

  return [
      ddt.TokenStats(-6 * drawn(n), 4 * drawn(n), drawn(n), drawn(n))
      for n in (20, 1, 29, 1, 26, 5)
  ] + [ddt.TokenStats(*np.float32([[-20.0, -1.0], [1.0, 9.0], [1, 1], [1, 1]]))]


def test_texts_in_numbers():
  stats = made()
  log_p = np.concatenate([x.log_p for x in stats])
  phi = np.concatenate([x.phi for x in stats])
  found = text_stats.describe(stats, name='idft', beta=2.0, gamma_max=1.5)
  assert found.examples == 7 and found.tokens == len(log_p)
  np.testing.assert_allclose(found.nll, -log_p.mean(), rtol=1e-5)
  np.testing.assert_allclose(found.phi, phi.mean(), rtol=1e-4)
  gamma = np.exp(-phi / 2.0)
  weight = np.exp(np.clip(gamma, 0.1, 1.5) * log_p)
  np.testing.assert_allclose(found.weight, weight.mean(), rtol=1e-4)
  np.testing.assert_allclose(
      found.ess, weight.sum()**2 / (weight**2).sum() / len(phi), rtol=1e-4)
  np.testing.assert_allclose(
      found.clipped, np.mean((gamma < 0.1) | (gamma > 1.5)), rtol=1e-6)
  edges = np.array(found.histogram.edges)
  assert edges.tolist() == objectives.PHI_EDGES.tolist()
  # The outer bins also count what is beyond them.
  inside = np.clip(phi, edges[0], np.nextafter(edges[-1], 0))
  np.testing.assert_array_equal(
      found.histogram.counts, np.histogram(inside, edges)[0])
  assert phi.min() < edges[0] and phi.max() > edges[-1]


@pytest.mark.parametrize('name', ['sft', 'idft'])
def test_numbers_survive_their_file(name):
  found = text_stats.describe(made(), name=name)
  assert (found.clipped is None) == (name == 'sft')
  text = typed_json.to_json(found)
  assert typed_json.from_json(
      text, text_stats.TextStats, source='x') == found


def test_a_histogram_needs_a_count_in_each_bin():
  with pytest.raises(errors.InputError, match='one count between'):
    text_stats.Histogram((0.0, 1.0), (1.0, 2.0))
