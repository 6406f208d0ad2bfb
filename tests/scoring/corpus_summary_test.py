"""Numbers of a corpus by hand, its filters, and the examples that are shown."""

import dataclasses

import numpy as np
import pytest

from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import token_sums
from ddt_jax.storage import typed_json
from tests.support import corpora


def test_numbers_by_hand():
  # Two responses of 1 and 3 tokens.
  phi, lengths = np.array([-1.0, -2, 0, -1]), np.array([1, 3])
  columns = {name: np.zeros(2) for name in corpus_summary.COLUMNS} | {
      'length': lengths, 'phi': np.array([-1.0, -1]),
      'phi_sum': np.array([-1.0, -3]), 'log_p_sum': np.array([-2.0, -4]),
      'tail_1': np.array([0.0, 1 / 3]), 'z': np.array([-1.0, 3]),
      'p_value': np.array([0.9, 0.001]), 'rejected': np.array([False, True])}
  sums = token_sums.TokenSums.of(phi, lengths, np.array([0.1, 0.3, 0.6, 0.99]))
  found = corpus_summary.numbers(columns, sums)
  assert (found.responses, found.tokens, found.length) == (2, 4, 2)
  assert found.phi == -1 and found.phi_se == 0  # both have this mean
  assert found.nll == 1.5 and found.perplexity == pytest.approx(np.exp(1.5))
  assert found.tail_1 == pytest.approx(1 / 4) and found.tail_3 == 0
  assert found.rejected == 0.5 and found.rejected_z == 0.5
  assert (found.z_mean, found.z_variance) == (1, 4)
  assert sum(found.token_phi.counts) == 4 and sum(found.pit_histogram) == 4
  assert found.lowest['5 %'] == pytest.approx(0.2 * 2 / 4)  # 0.2 of a token


def test_the_standard_error_is_over_responses():
  # Residuals from the mean of -1: +1 for one token, -1 for one token.
  columns = {name: np.zeros(2) for name in corpus_summary.COLUMNS} | {
      'length': np.array([1, 1]), 'phi': np.array([0.0, -2]),
      'phi_sum': np.array([0.0, -2])}
  sums = token_sums.TokenSums.of([0, -2], [1, 1], [0.5, 0.5])
  assert corpus_summary.numbers(columns, sums).phi_se == pytest.approx(
      np.sqrt(2) / 2)


def test_an_empty_corpus_has_numbers():
  columns = {name: np.zeros(0) for name in corpus_summary.COLUMNS}
  found = corpus_summary.numbers(columns, token_sums.TokenSums.of([], [], []))
  assert found.responses == 0 and found.phi == 0 and found.z_variance is None


def test_a_summary_survives_its_file():
  found = corpus_summary.ScoresSummary(
      'm', 9, 1.0, 'own', {'own': corpora.summary(), 'b': corpora.summary(
          sources={'s': corpora_numbers()})}, {'b': {'phi': 0.75}})
  assert typed_json.from_json(
      typed_json.to_json(found), corpus_summary.ScoresSummary, source='x') == found


def corpora_numbers():
  whole = corpora.summary(n=7)
  return corpus_summary.Numbers(**{
      f.name: getattr(whole, f.name)
      for f in dataclasses.fields(corpus_summary.Numbers)})


def test_filters_keep_what_they_say():
  columns = {
      'phi': np.array([-0.6, -0.2, 0.0, 0.1]), 'length': np.array([10, 20, 30, 40]),
      'phi_sum': np.array([-6.0, -4, 0, 4]), 'tail_5': np.array([0.1, 0, 0, 0]),
      'rejected': np.array([True, True, False, False]),
  }
  found = corpus_summary.parts(columns)
  assert found['all'] == corpus_summary.Filter(1.0, 1.0, -0.06)
  assert found['accepted'] == corpus_summary.Filter(
      0.5, 0.7, pytest.approx(4 / 70))
  assert found['phi>-0.5'].tokens == 0.9
  assert found['no_token_below_-5'].responses == 0.75
  # 0 would read as the ideal mean.
  columns['tail_5'] = np.full(4, 0.1)
  assert corpus_summary.parts(columns)['no_token_below_-5'] == (
      corpus_summary.Filter(0.0, 0.0, None))


@pytest.mark.parametrize('phi', [
    [-6.2, -5.9, -5.95], [-1.3, -0.2, 0.1], [0.0], [-0.06, 0.06, 0.0], [],
    np.linspace(-0.3, 0.3, 99), [-35.0, 11.0], [0.3, -0.1, 0.7, 0.9],
], ids=str)
def test_the_histogram_of_responses_covers_the_data(phi):
  found = corpus_summary._histogram(np.array(phi))
  assert sum(found.counts) == len(phi)
  width = found.edges[1] - found.edges[0]
  for x in phi:
    place = int(np.searchsorted(found.edges, x + 1e-9, 'right')) - 1
    assert found.counts[min(place, len(found.counts) - 1)] > 0
  if len(phi):
    assert found.edges[0] <= min(phi) + 1e-9
    assert max(phi) <= found.edges[-1] + 1e-9
    assert max(phi) - min(phi) >= (len(found.counts) - 2) * width - 1e-9
  # Edges are multiples of the width, so that corpora share their bins.
  np.testing.assert_allclose(
      np.round(np.array(found.edges) / width) * width, found.edges, atol=1e-9)


def test_the_worst_the_typical_and_some_others_are_shown():
  phi = np.array([5, -9, 0, 1, -8, 2, 0.9, 30, -7, 1.1, 40, 50])
  found = corpus_summary.choose(phi, 9, seed=0)
  assert found['worst'] == [1, 4, 8]
  assert set(found['typical']) == {3, 6, 9}  # about the median, 1.05
  assert len(found['drawn']) == 3
  places = [i for some in found.values() for i in some]
  assert len(set(places)) == 9
  few = corpus_summary.choose(np.array([1.0, 2.0]), 9, seed=0)
  assert sorted(i for some in few.values() for i in some) == [0, 1]
