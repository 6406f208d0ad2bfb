"""Readers of public data sets, on small copies of the hub's files."""

import pathlib

import pyarrow
from pyarrow import parquet
import pytest

from ddt_jax import errors
from ddt_jax.data import corpus
from ddt_jax.data import public_sets
from ddt_jax.data import readers

GSM8K = [
    {'question': 'Tom has 3 and gets 4. How many?',
     'answer': 'He has 3 + 4 = <<3+4=7>>7.\n#### 7'},
    {'question': 'Ann has 1,000 and 5.', 'answer': 'It is <<1000+5=1005>>1005.\n#### 1,005'},
    {'question': 'No answer?', 'answer': 'None.'},
    {'question': '', 'answer': 'x\n#### 1'},
]
NUMINA = [
    {'source': 'olympiads', 'problem': 'What is $1 + 1$?', 'messages': [
        {'role': 'user', 'content': 'What is $1 + 1$?'}],
     'solution': r'It is $\boxed{2}$.'},
    {'source': 'cn_k12', 'problem': 'Prove it.', 'messages': [], 'solution': 'Trivial.'},
    {'source': 'cn_k12', 'problem': 'See ![](x.png).', 'messages': [],
     'solution': r'\boxed{3}'},
    {'source': 'x', 'problem': 'Show it.', 'messages': [], 'solution': r'\boxed{proof}'},
]
DEEPMATH = [
    {'question': 'Limit?', 'final_answer': '0', 'difficulty': 4.5, 'topic': 'x',
     'r1_solution_1': 'Nothing.', 'r1_solution_2': r'So \boxed{0}.',
     'r1_solution_3': r'Also \boxed{0}.'},
    {'question': 'Which?', 'final_answer': '1', 'difficulty': 1.0, 'topic': 'x',
     'r1_solution_1': 'a', 'r1_solution_2': 'b', 'r1_solution_3': 'c'},
]


@pytest.fixture
def write(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

  def written(rows, name):
    file = tmp_path / 'hub' / name
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return tmp_path / 'hub'

  return written


def test_gsm8k(write):
  write(GSM8K, 'socratic/train-00000-of-00001.parquet')
  write(GSM8K[:1], 'main/test-00000-of-00001.parquet')
  folder = write(GSM8K, 'main/train-00000-of-00001.parquet')
  found = readers.read(f'gsm8k:{folder}')[0]
  assert [(p.problem, p.solution, p.answer) for p in found] == [
      (GSM8K[0]['question'], 'He has 3 + 4 = 7.\n#### 7', '7'),
      (GSM8K[1]['question'], 'It is 1005.\n#### 1,005', '1,005')]
  assert found[1].id == 'gsm8k:train-00000-of-00001.parquet:2'
  assert public_sets.describe(public_sets.named(f'gsm8k:{folder}')) == (
      'gsm8k, train: 4 rows; left out: 1 no problem or no solution, 1 no final answer')
  assert len(readers.read(f'gsm8k:{folder}:test')[0]) == 1


def test_numinamath_in_several_files(write):
  write(NUMINA[:2], 'data/train-00000-of-00002.parquet')
  folder = write(NUMINA[2:], 'data/train-00001-of-00002.parquet')
  found = corpus.from_file(
      f'numinamath_cot:{folder}', validation=0, evaluation=0, evaluation_problems=0)
  problem, = found.train
  assert (problem.problem, problem.solution, problem.answer) == (
      'What is $1 + 1$?', r'It is $\boxed{2}$.', '2')
  assert ('numinamath_cot, train: 4 rows; left out: 0 no problem or no solution, 1 no'
          ' final answer, 1 shows a picture, 1 a proof') in found.description


def test_deepmath_takes_the_first_solution_with_an_answer(write):
  folder = write(DEEPMATH, 'data/train-00000-of-00001.parquet')
  problem, = readers.read(f'deepmath:{folder}')[0]
  assert (problem.problem, problem.solution, problem.answer) == (
      'Limit?', r'So \boxed{0}.', '0')


def test_changed_files_are_built_anew(write):
  folder = write(GSM8K[:1], 'main/train-00000-of-00001.parquet')
  assert len(readers.read(f'gsm8k:{folder}')[0]) == 1
  public_sets._built.cache_clear()  # as in another process
  write(GSM8K[:2], 'main/train-00000-of-00001.parquet')
  assert len(readers.read(f'gsm8k:{folder}')[0]) == 2


def test_other_files_are_refused(write, tmp_path):
  with pytest.raises(errors.InputError, match=r'holds no train-\*.parquet'):
    readers.read(f'gsm8k:{tmp_path}')
  folder = write(NUMINA, 'main/train-00000-of-00001.parquet')
  with pytest.raises(errors.InputError, match="no column 'answer'"):
    readers.read(f'gsm8k:{folder}')
  broken = pathlib.Path(folder) / 'main/train-00000-of-00001.parquet'
  broken.write_bytes(b'PAR1')
  with pytest.raises(errors.InputError, match='broken Parquet'):
    readers.read(f'gsm8k:{folder}')
