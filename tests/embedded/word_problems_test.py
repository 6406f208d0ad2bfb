"""The embedded world as a data set on disk, and as the corpus of a run."""

import functools
import json

import pytest

from ddt_jax import errors
from ddt_jax.embedded import problems
from ddt_jax.embedded import word_problems
from experiments.run import inputs
from tests.support import student

SIZES = {'train': 12, 'validation': 6, 'test': 8, 'generalisation': 7,
         'retained': 9}


@pytest.fixture
def tiny(monkeypatch, tmp_path_factory):
  """The embedded world with few problems, in a folder of its own."""
  monkeypatch.setattr(problems, 'SIZES', SIZES)
  load = functools.partial(
      word_problems.load,
      data_dir=str(tmp_path_factory.getbasetemp() / 'tiny_world'),
  )
  monkeypatch.setattr(word_problems, 'load', load)
  return load


def load(**options):
  """The corpus that a command reads."""
  found, _, _ = inputs.load_data(
      student.tokenizer(), student.turn_end(), max_tokens=256,
      overlong='truncate', **options)
  return found


def by_id(found):
  return sorted(found, key=lambda p: p.id)


def test_the_data_set_holds_the_world_s_problems(tiny):
  for split in SIZES:
    found = tiny(split)
    assert by_id(found) == by_id(problems.problems(split)), split
    assert tiny(split) == found
    assert tiny(f'{split}[:3]') == found[:3]


def test_the_embedded_corpus(tiny):
  found = load(
      name='word_problems', path='', evaluation_problems=4, validation=0.5,
      kind='math',  # a file's options do not matter here
  )
  assert by_id(found.train) == by_id(problems.problems('train'))
  assert by_id(found.validation) == by_id(problems.problems('validation'))
  assert {n: len(p) for n, p in found.evaluation.items()} == {
      'target': 4, 'generalisation': 4, 'retained': 4
  }
  tests = {p.problem for p in problems.problems('test')}
  assert {p.problem for p in found.evaluation['target']} < tests
  assert found.bad_rows == 0
  assert '12 train, 6 validation; evaluated on 4 target' in found.description


def test_more_than_there_are_is_all_there_are(tiny):
  found = word_problems.world(1000).evaluation
  assert [len(p) for p in found.values()] == [8, 7, 9]


def test_without_an_evaluation(tiny):
  found = word_problems.world(0)
  assert found.evaluation == {}
  assert found.description.endswith('evaluated on nothing')


def test_a_path_goes_before_the_name(tmp_path):
  path = tmp_path / 'mine.jsonl'
  row = {'question': 'say a b', 'solution': 'a b', 'answer': 'a b'}
  path.write_text(json.dumps(row) + '\n{}\n')
  options = dict(
      name='', path=str(path), validation=0.0, evaluation=0.0,
      evaluation_problems=3, columns={'problem': 'question'}, kind='text',
  )
  found = load(bad_rows='skip', **options)
  assert found.bad_rows == 1
  assert [(p.problem, p.kind) for p in found.train] == [('say a b', 'text')]
  with pytest.raises(errors.InputError, match='mine.jsonl:2'):
    load(**options)


def test_an_unknown_name_is_refused():
  with pytest.raises(errors.InputError, match="'gsm8k'.*word_problems"):
    load(name='gsm8k', path='', evaluation_problems=3)
