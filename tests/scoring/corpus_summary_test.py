"""What is advised for which corpus, and which examples are shown."""

import numpy as np
import pytest

from ddt_jax.scoring import corpus_summary


def corpus(**numbers):
  return {
      'responses': 100, 'phi': -0.3, 'phi_se': 0.01, 'rejected': 0.9,
      'tail_5': 0.02, 'carried': {'1 %': 0.2, '5 %': 0.4},
  } | numbers


@pytest.mark.parametrize('numbers, remedy, said', [
    ({'phi': -0.02, 'rejected': 0.01}, 'none', 'is on-policy'),
    ({'phi': -0.07, 'rejected': 0.04}, 'hinted', 'mildly off-policy'),
    ({'carried': {'1 %': 0.9, '5 %': 1.1}, 'tail_5': 0.005}, 'mask', 'a mask first'),
    ({'carried': {'1 %': 0.9, '5 %': 1.1}}, 'idft', 'IDFT first'),
    ({'carried': {'1 %': 0.3, '5 %': 0.7}}, 'idft', 'IDFT first'),
    ({'carried': {'1 %': 0.3, '5 %': 0.7}, 'phi': -2.0}, 'hinted', 'Hinted Decoding'),
    ({}, 'hinted', 'is off-policy'),
    ({'phi': 0.2, 'carried': {'1 %': None, '5 %': None}}, 'deterministic',
     'more deterministic'),
], ids=str)
def test_remedies(numbers, remedy, said):
  assert corpus_summary.remedy(corpus(**numbers)) == remedy
  text = corpus_summary.verdict('mine', corpus(**numbers))
  assert said in text and 'responses rejected' in text


def test_an_empty_corpus_has_a_verdict():
  assert 'nothing to score' in corpus_summary.verdict('x', corpus(responses=0))


def test_filters_say_what_they_keep():
  columns = {
      'phi': np.array([-0.6, -0.2, 0.0, 0.1]), 'length': np.array([10, 20, 30, 40]),
      'phi_sum': np.array([-6.0, -4, 0, 4]), 'tail_5': np.array([0.1, 0, 0, 0]),
      'rejected': np.array([True, True, False, False]),
  }
  found = corpus_summary.filters(columns)
  assert found['all'] == {'responses': 1.0, 'tokens': 1.0, 'phi': -0.06}
  assert found['what the test does not reject'] == {
      'responses': 0.5, 'tokens': 0.7, 'phi': pytest.approx(4 / 70)}
  assert found['mean phi above -0.5']['tokens'] == 0.9
  assert found['no token with phi below -5']['responses'] == 0.75


class Fake:
  """Shards whose responses have these phi."""

  def __init__(self, phi):
    self._phi = np.array(phi)

  def columns(self, *names):
    assert names == ('phi',)
    return {'phi': self._phi}


def test_the_worst_the_typical_and_some_others_are_shown():
  phi = [5, -9, 0, 1, -8, 2, 0.9, 30, -7, 1.1, 40, 50]
  found = corpus_summary.choose(Fake(phi), 9, seed=0)
  assert found['worst'] == [1, 4, 8]
  assert set(found['typical']) == {3, 6, 9}  # about the median, 1.05
  assert len(found['drawn']) == 3
  places = [i for some in found.values() for i in some]
  assert len(set(places)) == 9
  few = corpus_summary.choose(Fake([1.0, 2.0]), 9, seed=0)
  assert sorted(i for some in few.values() for i in some) == [0, 1]
