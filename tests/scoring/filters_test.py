"""Filters: their names, and rows that have several responses."""

import json

import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.scoring import filters


class Split:
  """A corpus whose first line was split into two responses."""

  prefix = 'ddt_'

  def columns(self, *names):
    found = {'line': [1, 1, 2], 'phi': [-0.9, 0.0, 0.0], 'tail_5': [0, 0, 0],
             'rejected': [True, False, False]}
    return {name: np.array(found[name]) for name in names}

  def rows(self):
    for line, turn in ((1, 2), (1, 4), (2, 2)):
      yield {'messages': [line], 'ddt_line': line, 'ddt_turn': turn}


@pytest.mark.parametrize('name, kept', [
    ('accepted', [{'messages': [2]}]), ('phi>-1', [{'messages': [1]}, {'messages': [2]}]),
    ('phi>0.5', [])])
def test_a_split_conversation_is_kept_whole_or_not_at_all(tmp_path, name, kept):
  file = storage.path(tmp_path / 'kept.jsonl')
  assert filters.write(Split(), name, file) == (len(kept), 2)
  assert [json.loads(line) for line in file.read_text().split('\n')[:-1]] == kept


@pytest.mark.parametrize('name', ['phi', 'phi>', 'phi>high', 'accept', 'phi>0.5x'])
def test_a_filter_that_is_not_there_is_refused_by_name(name):
  with pytest.raises(errors.InputError, match='choose from all, accepted'):
    filters.check(name)
  for known in filters.ABOUT:
    filters.check(known)
