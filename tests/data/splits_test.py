"""Splits part the distinct texts, and are the same in every process."""

import random

from hypothesis import given
from hypothesis import strategies as st
import pytest

from ddt_jax import errors
from ddt_jax.data import records
from ddt_jax.data import splits


def _problems(texts):
  return [records.Problem(str(i), text) for i, text in enumerate(texts)]


SHARES = st.tuples(st.floats(0, 0.49), st.floats(0, 0.5))


@given(st.lists(st.text('abc', max_size=3), min_size=1, max_size=40), SHARES,
       st.integers(0, 3), st.randoms())
def test_split_parts_a_set_of_texts(texts, shares, seed, rng: random.Random):
  problems = _problems(texts)
  shuffled = rng.sample(problems, len(problems))
  parts, again = [
      splits.split(rows, validation=shares[0], evaluation=shares[1], seed=seed)
      for rows in (problems, shuffled)]
  names = 'train', 'validation', 'evaluation'
  ids = [{p.id for p in getattr(parts, name)} for name in names]
  assert ids == [{p.id for p in getattr(again, name)} for name in names]
  assert sorted(i for part in ids for i in part) == sorted(
      p.id for p in problems)
  of_part = [{p.problem for p in getattr(parts, name)} for name in names]
  assert sum(map(len, of_part)) == len(set(texts))
  assert of_part[0]
  for part, share in zip(of_part[1:], shares, strict=True):
    assert len(part) <= share * len(set(texts)) + 0.5
  if len(of_part[0]) > 1:  # nothing had to be left for training
    for part, share in zip(of_part[1:], shares, strict=True):
      assert len(part) >= share * len(set(texts)) - 0.5


def test_split_is_the_same_in_every_process_and_moves_with_the_seed():
  problems = _problems(f'problem {i}' for i in range(20))
  held_out = [
      {p.id for p in splits.split(
          problems, validation=0.1, evaluation=0.1, seed=seed).validation}
      for seed in (0, 0, 1)]
  # From `printf '0\nproblem 12' | sha256sum` and so on. Another rule would mix
  # what earlier runs trained on with what they held out.
  assert held_out[0] == held_out[1] == {'11', '12'}
  assert held_out[2] == {'5', '10'}


def test_split_says_what_it_did():
  parts = splits.split(_problems('abc'), validation=0.05, evaluation=0.05)
  assert parts.describe() == (
      '3 problems: 3 train, 0 validation, 0 evaluation (shares 0.05 and 0.05; '
      '--config.data.validation=, --config.data.evaluation=)'
      '; data.validation=0.05 of 3 distinct prompts comes out as 0'
      '; data.evaluation=0.05 of 3 distinct prompts comes out as 0')
  parts = splits.split(_problems('abc'), validation=0, evaluation=0.3)
  assert parts.describe() == (
      '3 problems: 2 train, 0 validation, 1 evaluation (shares 0 and 0.3; '
      '--config.data.validation=, --config.data.evaluation=)')


def test_split_refuses_shares_that_leave_nothing():
  for shares in (1, 0), (0, -0.1), (float('nan'), 0), (0.5, 0.5):
    with pytest.raises(errors.InputError, match=r'data\.'):
      splits.split(_problems('abc'), validation=shares[0],
                   evaluation=shares[1])
  with pytest.raises(errors.InputError, match='no problems'):
    splits.split([], validation=0, evaluation=0)
