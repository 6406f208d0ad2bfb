"""Rows of other projects are read as they come, or their columns are listed."""

import json
import sys

import pyarrow
from pyarrow import parquet
import pytest

from ddt_jax import errors
from ddt_jax.data import formats
from ddt_jax.data import readers
from tests.support import hub

TURNS = [{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]
SHAREGPT = [{'from': 'human', 'value': 'q'}, {'from': 'gpt', 'value': 'a'}]
SYSTEM = {'role': 'system', 'content': 's'}


def jsonl(folder, *rows):
  file = folder / 'x.jsonl'
  file.write_text(''.join(
      (row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
  return file


@pytest.mark.parametrize('row, problem, solution, messages, layout', [
    ({'prompt': 'q', 'completion': 'a'}, 'q', 'a', [], 'prompt -> problem'),
    ({'prompt': TURNS[:1], 'completion': TURNS[1:]}, 'q', 'a', TURNS, 'prompt'),
    ({'prompt': [SYSTEM, *TURNS[:1]], 'completion': 'a'}, 'q', 'a',
     [SYSTEM, *TURNS], 'prompt'),
    ({'prompt': 'q', 'completion': TURNS[1:]}, 'q', 'a', TURNS, 'prompt'),
    ({'prompt': 'q', 'response': 'a', 'extra': 1}, 'q', 'a', [], 'prompt'),
    ({'instruction': 'q', 'input': '', 'output': 'a'}, 'q', 'a', [], 'Alpaca'),
    ({'instruction': 'q', 'output': 'a'}, 'q', 'a', [], 'Alpaca'),
    ({'instruction': 'q', 'input': 'x', 'output': 'a'}, 'q\n\nx', 'a', [], 'Alpaca'),
    ({'instruction': 'q', 'input': None, 'output': 'a', 'system': 's',
      'history': []}, 'q', 'a', [SYSTEM, *TURNS], 'Alpaca'),
    ({'instruction': 'q', 'output': 'a', 'history': [['1', '2']]}, 'q', 'a', [
        {'role': 'user', 'content': '1'}, {'role': 'assistant', 'content': '2'},
        *TURNS], 'Alpaca'),
    ({'conversations': SHAREGPT}, 'q', 'a', TURNS, 'ShareGPT'),
    ({'conversations': TURNS}, 'q', 'a', TURNS, 'ShareGPT'),
    ({'conversations': SHAREGPT, 'system': 's'}, 'q', 'a', [SYSTEM, *TURNS],
     'ShareGPT'),
    ({'conversations': [{'from': 'system', 'value': 's'}, *SHAREGPT]}, 'q', 'a',
     [SYSTEM, *TURNS], 'ShareGPT'),
    ({'messages': SHAREGPT}, 'q', 'a', TURNS, ''),
    ({'question': 'q', 'answer': 'a'}, 'q', 'a', [], 'question -> problem'),
    ({'query': 'q', 'response': 'a', 'type': 'z'}, 'q', 'a', [], 'query'),
    ({'problem': 'q', 'solution': 'a', 'prompt': 'x', 'response': 'y'}, 'q', 'a',
     [], ''),
])
def test_layouts(tmp_path, row, problem, solution, messages, layout):
  found = readers.read_file(jsonl(tmp_path, row))
  p, = found.problems
  assert (p.problem, p.solution) == (problem, solution)
  assert list(p.messages) == messages
  (name, count), = found.layouts.items()
  assert count == 1 and name.startswith(layout) and bool(name) == bool(layout)
  parquet.write_table(
      pyarrow.Table.from_pylist([row]), tmp_path / 'x.parquet')
  again, = readers.read_file(tmp_path / 'x.parquet').problems
  assert (again.problem, again.solution, again.messages) == (
      p.problem, p.solution, p.messages)


def test_gsm8k(tmp_path):
  row = {'question': 'q', 'answer': 'She adds 1,000.\n#### 1,072'}
  for columns in ({}, {'problem': 'question', 'solution': 'answer'}):
    (p,), _ = readers.read(jsonl(tmp_path, row), columns=columns)
    assert (p.solution, p.answer) == (row['answer'], '1,072')


@pytest.mark.parametrize('solution, answer', [
    ('x\n#### 72', '72'), ('x\n####72  \n\n', '72'), ('so #### -3', '-3'),
    ('#### Step 1\nx', ''), ('x\n####', ''), (r'\boxed{5}' + '\n#### 72', '5'),
])
def test_an_answer_follows_hashes_in_the_last_line_only(tmp_path, solution, answer):
  (p,), _ = readers.read(jsonl(tmp_path, {'problem': 'q', 'solution': solution}))
  assert p.answer == answer


def test_a_column_has_one_role(tmp_path):
  row = {'question': 'q', 'answer': 'x \\boxed{3}'}
  (p,), _ = readers.read(jsonl(tmp_path, row), columns={
      'problem': 'question', 'solution': 'answer', 'answer': 'answer'})
  assert p.answer == '3'
  for columns in ({'problem': 'question', 'solution': 'question'},
                  {'problem': 'question', 'solution': 'answer', 'id': 'question'}):
    with pytest.raises(errors.InputError, match="both name 'question'"):
      readers.read(jsonl(tmp_path, row), columns=columns)


@pytest.mark.parametrize('value, text', [
    (0.1, '0.1'), (1e-05, '0.00001'), (1e22, '1' + '0' * 22), (2.0, '2'),
    (-1.5e-7, '-0.00000015'), (3, '3'), (2.5, '2.5'), ('1e-05', '1e-05'),
])
def test_numbers_are_shortest_decimals(tmp_path, value, text):
  row = {'problem': 'q', 'solution': 'a', 'answer': value}
  (p,), _ = readers.read(jsonl(tmp_path, row))
  assert p.answer == text


def test_floats_have_their_own_width(tmp_path):
  for type_ in (pyarrow.float16(), pyarrow.float32(), pyarrow.float64()):
    values = pyarrow.array([0.1, 1e-5, 2.5, float('nan'), None], pyarrow.float64())
    values = values.cast(type_, safe=False)
    table = {'problem': list('abcde'), 'solution': ['x'] * 5, 'answer': values}
    parquet.write_table(pyarrow.table(table), tmp_path / 'x.parquet')
    found, _ = readers.read(tmp_path / 'x.parquet')
    assert [p.answer for p in found] == ['0.1', '0.00001', '2.5', '', '']


@pytest.mark.parametrize('answer', [None, '', '  ', 'proof', 'notfound', float('nan')])
def test_a_row_without_an_answer_is_kept(tmp_path, answer):
  row = {'problem': 'q', 'solution': 'a', 'answer': answer}
  (p,), bad = readers.read(jsonl(tmp_path, row))
  assert p.answer == '' and not bad
  # What is not given is looked for in the solution.
  (p,), _ = readers.read(jsonl(tmp_path, row | {'solution': r'\boxed{7}'}))
  assert p.answer == ('' if answer in ('proof', 'notfound') else '7')


@pytest.mark.parametrize('row, key', [
    ('{"problem": "q", "problem": "r", "solution": "a"}', 'problem'),
    ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', 'content'),
])
def test_a_key_that_stands_twice_is_refused(tmp_path, row, key):
  with pytest.raises(
      errors.InputError, match=f"x.jsonl:1: the key '{key}' stands twice"):
    readers.read(jsonl(tmp_path, row))


def test_a_column_that_stands_twice_is_refused(tmp_path):
  table = pyarrow.table([['a'], ['b'], ['c']], names=['problem', 'solution', 'problem'])
  parquet.write_table(table, tmp_path / 'x.parquet')
  with pytest.raises(errors.InputError, match="two columns have the name 'problem'"):
    readers.read(tmp_path / 'x.parquet')


@pytest.mark.parametrize('row, flags', [
    ({'Question': 'q', 'final_solution': 'a'},
     ['columns.problem=Question', 'columns.solution=final_solution']),
    ({'dialog': TURNS}, ['columns.messages=dialog']),
    ({'problem': 'q', 'answer': '3'}, ['columns.solution=answer']),
    ({'text': 'x', 'url': 'y'}, ['columns.problem=NAME', 'columns.messages=NAME']),
    ({'prompt': 'q', 'chosen': 'a', 'rejected': 'b'}, ['columns.problem=prompt']),
])
def test_an_unknown_layout_lists_its_columns_and_the_nearest_option(
    tmp_path, row, flags
):
  parquet.write_table(pyarrow.Table.from_pylist([row] * 3), tmp_path / 'x.parquet')
  for file in (jsonl(tmp_path, row, row), tmp_path / 'x.parquet'):
    with pytest.raises(errors.InputError) as e:
      readers.read(file)
    assert 'in every row: no column' in str(e.value)
    assert f'there are {", ".join(map(repr, sorted(row)))}' in str(e.value)
    for flag in flags:
      assert f'--config.data.{flag}' in str(e.value)


@pytest.mark.parametrize('turn, said', [
    ({'tool_calls': [{'id': 1}]}, 'tool_calls'), ({'images': ['a.png']}, 'images'),
])
def test_parts_of_a_turn_that_cannot_be_read_are_a_fault(tmp_path, turn, said):
  row = {'messages': [TURNS[0], TURNS[1] | turn]}
  with pytest.raises(errors.InputError, match=fr'x.jsonl:1: .*\[1\].{said}'):
    readers.read(jsonl(tmp_path, row))
  row['messages'][1] = TURNS[1] | dict.fromkeys(turn)  # null: not given
  assert readers.read(jsonl(tmp_path, row))[0][0].messages == tuple(TURNS)


def test_a_data_set_of_the_hub(monkeypatch):
  asked = []
  rows = [{'question': f'q{i}', 'level': 1, 'answer': f'x\n#### {i}'}
          for i in range(1500)]
  module = hub.module({'openai/gsm8k': rows}, asked)
  monkeypatch.setitem(sys.modules, 'datasets', module)
  problems, _ = readers.read('openai/gsm8k:main:test')
  readers.read('openai/gsm8k')
  assert asked == [('openai/gsm8k', 'main', 'test'), ('openai/gsm8k', None, 'train')]
  assert len(problems) == 1500 and problems[1234].answer == '1234'
  assert problems[1234].source == 'openai/gsm8k:1235'
  rows = list(readers.stream('openai/gsm8k', whole=True, first=1499))
  assert rows[0].columns['level'] == 1 and rows[0].line == 1500

  with pytest.raises(errors.InputError, match='openai/other.* no such set'):
    readers.read('openai/other')
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(errors.InputError, match='pip install datasets'):
    readers.read('openai/gsm8k')


@pytest.mark.parametrize('path', ['data/mine.csv', '/data/mine', 'a/b/c', 'mine', ''])
def test_only_a_name_is_looked_for_on_the_hub(path):
  with pytest.raises(errors.InputError) as e:
    formats.open_source(path)
  assert 'hub' not in str(e.value)
