"""A user's file is cut into training, validation and evaluation problems."""

import json

import pytest

from ddt_jax import errors
from ddt_jax.data import corpus


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
      validation=0.0, evaluation=0.0, columns={'problem': 'question'},
      kind='text')
  found = from_file(str(path), bad_rows='skip', **options)
  assert found.bad_rows == 1
  assert [(p.problem, p.kind) for p in found.train] == [('say a b', 'text')]
  with pytest.raises(errors.InputError, match='mine.jsonl:2'):
    from_file(str(path), **options)
