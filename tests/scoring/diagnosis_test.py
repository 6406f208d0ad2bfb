"""Each kind of corpus gets its diagnosis."""

import pytest

from ddt_jax.scoring import diagnosis
from tests.support import corpora

OFF_POLICY = dict(
    responses=100, phi=-0.3, phi_se=0.01, rejected=0.9, tail_5=0.02,
    lowest={'1 %': 0.2, '5 %': 0.4})


@pytest.mark.parametrize('numbers, expected', [
    ({'phi': -0.02, 'rejected': 0.01}, 'on_policy'),
    ({'phi': -0.07, 'rejected': 0.04}, 'mild'),
    ({'phi': -0.02, 'rejected': 0.01, 'phi_se': 0.001}, 'on_policy'),
    ({'phi': -0.02, 'rejected': 0.01, 'phi_se': 0.05}, 'undecided'),
    ({'phi': 0.02, 'rejected': 0.01, 'phi_se': 0.001}, 'on_policy'),
    ({'phi': 0.2, 'rejected': 0.01}, 'deterministic'),
    ({'phi': -0.01, 'lowest': {'1 %': None, '5 %': None}}, 'mixed'),
    ({'lowest': {'1 %': 0.9, '5 %': 1.1}, 'tail_5': 0.005}, 'few_tokens'),
    ({'lowest': {'1 %': 0.9, '5 %': 1.1}}, 'some_tokens'),
    ({'lowest': {'1 %': 0.3, '5 %': 0.7}}, 'some_tokens'),
    ({'lowest': {'1 %': 0.3, '5 %': 0.7}, 'phi': -2.0}, 'far'),
    ({}, 'spread'),
    ({'phi': 0.2, 'lowest': {'1 %': None, '5 %': None}}, 'deterministic'),
], ids=str)
def test_diagnosis(numbers, expected):
  found = corpora.summary(**OFF_POLICY | numbers)
  assert diagnosis.diagnose(found) == expected


@pytest.mark.parametrize('phi, rejected, far', [
    (-0.11, 0.1, True), (-0.09, 0.1, False), (-0.09, 0.6, True)])
def test_data_beyond_self_distillation_are_far(phi, rejected, far):
  found = corpora.summary(phi=phi, rejected=rejected)
  assert diagnosis.is_far(found) == far
