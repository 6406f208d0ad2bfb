"""Which problems a run trains, validates and evaluates on."""

import functools
import json

import pytest

from ddt_jax.data import corpus
from ddt_jax.data import readers
from ddt_jax.embedded import problems
from ddt_jax.embedded import word_problems
from experiments.run import inputs

SIZES = {'train': 12, 'validation': 6, 'test': 8, 'generalisation': 7,
         'retained': 9}


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def sums(**columns):
  """Forty rows; `columns` are made from the right answer."""
  return [
      {'problem': f'What is {i} + 1?', 'solution': f'It is {i + 1}.'}
      | {name: make(i + 1) for name, make in columns.items()}
      for i in range(40)
  ]


def from_file(path, **options):
  options = dict(
      validation=0.1, evaluation=0.3, evaluation_problems=100
  ) | options
  return corpus.from_file(path, **options)


def test_a_file_is_cut_into_three(tmp_path):
  path = write(tmp_path / 'mine.jsonl', sums(answer=str))
  found = from_file(path)
  assert (len(found.train), len(found.validation)) == (24, 4)
  evaluation, = found.evaluation.values()
  assert len(evaluation) == 12
  parts = found.train + found.validation + evaluation
  assert len({p.problem for p in parts}) == 40
  for p in parts:
    number = int(p.problem.split()[2])
    assert p.answer == str(number + 1) and p.kind == 'math'
  assert found.bad_rows == 0
  assert found.description.startswith(f'{path}: 40 problems: 24 train')
  assert from_file(path) == found
  assert from_file(path, seed=1).train != found.train


def test_so_many_problems_are_evaluated_on(tmp_path):
  path = write(tmp_path / 'mine.jsonl', sums(answer=str))
  whole = from_file(path)
  fewer = from_file(path, evaluation_problems=5)
  assert fewer.evaluation['evaluation'] == whole.evaluation['evaluation'][:5]
  # What is not evaluated on is held out all the same.
  assert fewer.train == whole.train
  assert from_file(path, evaluation_problems=0).evaluation == {}
  assert from_file(path, evaluation=0.0).evaluation == {}


def test_only_what_has_an_answer_is_evaluated_on(tmp_path):
  # Every other one is known from its solution.
  path = write(tmp_path / 'half.jsonl', sums(
      solution=lambda n: f'\\boxed{{{n}}}' if n % 2 else f'It is {n}.'
  ))
  found = from_file(path)
  assert 0 < len(found.evaluation['evaluation']) < 12
  assert all(int(p.answer) % 2 for p in found.evaluation['evaluation'])
  assert len(found.train) == 24

  found = from_file(write(tmp_path / 'none.jsonl', sums()))
  assert found.evaluation == {} and len(found.train) == 24


def test_options_reach_the_reader(tmp_path):
  path = tmp_path / 'mine.jsonl'
  row = {'question': 'say a b', 'solution': 'a b', 'answer': 'a b'}
  path.write_text(json.dumps(row) + '\n{}\n')
  options = dict(
      name='', path=str(path), validation=0.0, evaluation=0.0,
      evaluation_problems=3, columns={'problem': 'question'}, kind='text',
  )
  found = inputs.load_corpus(bad_rows='skip', **options)
  assert found.bad_rows == 1
  assert [(p.problem, p.kind) for p in found.train] == [('say a b', 'text')]
  with pytest.raises(readers.BadData, match='mine.jsonl:2'):
    inputs.load_corpus(**options)


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match="'gsm8k'.*word_problems"):
    inputs.load_corpus(name='gsm8k', path='', evaluation_problems=3)


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


def by_id(found):
  return sorted(found, key=lambda p: p.id)


def test_the_data_set_holds_the_world_s_problems(tiny):
  for split in SIZES:
    found = tiny(split)
    assert by_id(found) == by_id(problems.problems(split)), split
    assert tiny(split) == found
    assert tiny(f'{split}[:3]') == found[:3]


def test_the_embedded_corpus(tiny):
  found = inputs.load_corpus(
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
