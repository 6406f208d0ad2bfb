"""A user's file becomes problems, or an error that says what to do."""

import json
import re

import pyarrow
from pyarrow import parquet
import pytest

from ddt_jax import errors
from ddt_jax.data import readers
from ddt_jax.data import records

ROW = {'problem': 'What is 1 + 1?', 'solution': r'It is \boxed{2}.'}
TURNS = [{'role': 'system', 'content': 'Be brief.'},
         {'role': 'user', 'content': '1 + 1?'},
         {'role': 'assistant', 'content': '2'},
         {'role': 'user', 'content': 'And 2 + 2?'},
         {'role': 'assistant', 'content': r'\boxed{4}'}]


def _jsonl(folder, *rows, name='data.jsonl'):
  """Writes rows: bytes as they are, anything else as JSON."""
  file = folder / name
  file.write_bytes(b''.join(
      (row if isinstance(row, bytes) else json.dumps(row).encode()) + b'\n'
      for row in rows))
  return file


def _parquet(folder, table):
  file = folder / 'data.parquet'
  parquet.write_table(pyarrow.table(table), file)
  return file


def _reason(folder, row, **options):
  """Why a row is bad, the row being the second of three."""
  file = _jsonl(folder, ROW, row, ROW)
  problems, bad = readers.read(file, bad_rows='skip', **options)
  assert [p.source for p in problems] == ['data.jsonl:1', 'data.jsonl:3']
  assert [(b.file, b.line) for b in bad] == [(str(file), 2)]
  return bad[0].reason


def test_problem_and_solution(tmp_path):
  problems, bad = readers.read(_jsonl(tmp_path, ROW, b'', ROW | {'extra': 1}))
  assert not bad
  assert problems[0] == records.Problem(
      id='data.jsonl:1', problem=ROW['problem'], solution=ROW['solution'],
      answer='2', kind='math', source='data.jsonl:1')
  assert problems[1].id == 'data.jsonl:3'  # empty lines count, as in editors


def test_conversation(tmp_path):
  row = {'messages': TURNS, 'answer': 'four', 'id': 7}
  (problem,), _ = readers.read(_jsonl(tmp_path, row), kind='text')
  assert problem == records.Problem(
      id='7', problem='And 2 + 2?', solution=r'\boxed{4}', answer='four',
      kind='text', source='data.jsonl:1', messages=tuple(TURNS))
  assert problem.conversation == TURNS


def test_columns_are_renamed(tmp_path):
  row = {'question': 'a', 'response': 'b', 'final': 3, 'messages': TURNS}
  columns = {'problem': 'question', 'solution': 'response', 'answer': 'final'}
  (problem,), _ = readers.read(_jsonl(tmp_path, row), columns=columns)
  assert (problem.problem, problem.solution, problem.answer) == ('a', 'b', '3')
  assert not problem.messages  # the columns that were named are those read
  with pytest.raises(errors.InputError, match="'prompt': choose from 'problem'"):
    readers.read(_jsonl(tmp_path, row), columns={'prompt': 'question'})


def test_named_column_is_not_optional(tmp_path):
  for name in 'answer', 'id', 'messages':
    with pytest.raises(errors.InputError, match=f'columns.{name}=NAME'):
      readers.read(_jsonl(tmp_path, ROW), columns={name: 'typo'})


def test_parquet_reads_like_json(tmp_path):
  rows = [ROW | {'id': 'a', 'answer': 'x', 'messages': None},
          {'problem': None, 'solution': None, 'id': None, 'answer': '4',
           'messages': TURNS}]
  of_json, _ = readers.read(_jsonl(tmp_path, *rows))
  table = {name: [row[name] for row in rows] for name in rows[0]}
  of_parquet, _ = readers.read(_parquet(tmp_path, table))
  assert len(of_json) == 2
  rename = {'data.jsonl:1': 'data.parquet:1', 'data.jsonl:2': 'data.parquet:2'}
  assert of_parquet == [
      records.Problem(**vars(p) | {'id': rename.get(p.id, p.id),
                                   'source': rename[p.source]})
      for p in of_json]


def test_parquet_bad_rows(tmp_path):
  # Arrow does not check what a writer declares to be UTF-8.
  raw = pyarrow.array([b'fine', b'\xff', b'fine', b'fine'])
  table = {
      'problem': pyarrow.Array.from_buffers(pyarrow.string(), 4, raw.buffers()),
      'solution': ['a', 'b', None, 'd'], 'answer': [1.5, 2., 3., float('nan')]}
  problems, bad = readers.read(_parquet(tmp_path, table), bad_rows='skip')
  # Data frames write a missing number as NaN.
  assert [p.answer for p in problems] == ['1.5', '']
  assert [b.line for b in bad] == [2, 3]
  assert "can't decode byte 0xff" in bad[0].reason
  assert bad[1].reason == "'solution' is null, not text"


def test_a_date_that_python_cannot_hold_costs_one_row(tmp_path):
  dates = pyarrow.array([0, 2**31 - 1, 0], pyarrow.date32())
  table = {'problem': ['a', 'b', 'c'], 'solution': ['x', 'y', 'z'], 'id': dates}
  _, bad = readers.read(
      _parquet(tmp_path, table), columns={'id': ''}, bad_rows='skip')
  assert not bad  # the column is not read
  whole = list(readers.stream(_parquet(tmp_path, table), whole=True,
                              columns={'id': ''}))
  assert [row.line for row in whole if row.fault] == [2]
  assert whole[1].fault.startswith("'id' is unreadable: ")


def test_parquet_column_missing_or_broken_file(tmp_path):
  file = _parquet(tmp_path, {'question': ['a'] * 100, 'when': [1] * 100})
  with pytest.raises(errors.InputError) as e:
    readers.read(file)
  assert "there are 'question', 'when'" in str(e.value)
  file.write_bytes(file.read_bytes()[:-20])
  with pytest.raises(errors.InputError, match='broken Parquet'):
    readers.read(file)


@pytest.mark.parametrize('row, reason', [
    (b'{"problem": "x", }', 'broken JSON at column 1[678]: '),
    (b'[' * 100_000, 'unreadable JSON: '),
    (b'{"problem": ' + b'9' * 5000 + b'}', 'unreadable JSON: '),
    (b'{"problem": "\xff"}', 'not UTF-8: byte 14 of the line is 0xff'),
    ([ROW], 'a list, not an object'),
    ('text', 'text, not an object'),
    ({'solution': 'x'}, r"no column 'problem'; there are 'solution'; "
     r'name yours with --config\.data\.columns\.problem=NAME$'),
    ({'text': 'x'}, r"no column 'problem' or 'solution'; there are 'text'; .*"
     r'columns\.problem=NAME .*solution=NAME or, .*columns\.messages=NAME'),
    (ROW | {'problem': 3}, "'problem' is a number, not text"),
    (ROW | {'solution': None}, "'solution' is null, not text"),
    (ROW | {'problem': ' \n'}, "'problem' is empty"),
    (ROW | {'solution': ''}, "'solution' is empty"),
    (ROW | {'solution': '\ud83d'}, "'solution' is not Unicode: a lone"),
    (ROW | {'answer': ['2']}, "'answer' is a list, not text"),
    (ROW | {'answer': True}, "'answer' is a boolean, not text"),
    (ROW | {'id': {}}, "'id' is an object, not text"),
    (ROW | {'id': 'data.jsonl:1'},
     "the id 'data.jsonl:1' is already that of line 1"),
    ({'messages': None}, "'messages' is null, not a list of turns"),
    ({'messages': 'x'}, "'messages' is text, not a list of turns"),
    ({'messages': []}, "'messages' has no user turn"),
    ({'messages': TURNS[:1] + TURNS[2:3]}, "'messages' has no user turn"),
    ({'messages': TURNS[:2]}, "'messages' does not end with an assistant"),
    ({'messages': ['x']}, r"'messages\[0\]' is not an object with 'role' and"),
    ({'messages': [{'from': 'human', 'text': 'x'}]},
     r"'messages\[0\]' is not an object with 'role' and 'content'"),
    ({'messages': [{'from': 'function', 'value': 'x'}]},
     r"'messages\[0\]\.from' is 'function'; it must be one of system, user,"),
    ({'messages': [{'role': 'tool', 'content': 'x'}]},
     r"'messages\[0\]\.role' is 'tool'; it must be one of system, user,"),
    ({'messages': [{'role': 'user', 'content': [{'type': 'text'}]}]},
     r"'messages\[0\]\.content' is a list, not text"),
    ({'messages': TURNS[:-1] + [{'role': 'assistant', 'content': ''}]},
     r"'messages\[4\]\.content' is empty"),
])
def test_bad_row_is_told_and_left_out(tmp_path, row, reason):
  found = _reason(tmp_path, row)
  assert re.match(reason, found), found


def test_words_may_be_what_marks_a_missing_number(tmp_path):
  (problem,), _ = readers.read(
      _jsonl(tmp_path, ROW | {'answer': 'proof'}), kind='text')
  assert problem.answer == 'proof'


def test_error_lists_some_rows_and_the_way_out(tmp_path):
  file = _jsonl(tmp_path, ROW, *[b'{'] * 30, ROW)
  with pytest.raises(errors.InputError) as e:
    readers.read(file)
  text = str(e.value).splitlines()
  assert text[0] == f'{file}: 30 of 32 rows cannot be used:'
  assert text[1].startswith(f'  {file}:2: broken JSON at column 2: ')
  assert text[21:] == ['  and 10 more',
                      '--config.data.bad_rows=skip leaves them out']


def test_column_missing_everywhere_is_said_once(tmp_path):
  file = _jsonl(tmp_path, *[{'x': 'x', 'solution': 'y'}] * 50, b'{')
  for bad_rows in 'error', 'skip':
    with pytest.raises(errors.InputError) as e:
      readers.read(file, bad_rows=bad_rows)
    assert str(e.value) == (
        f"{file}: in every row: no column 'problem'; there are 'solution', "
        "'x'; name yours with --config.data.columns.problem=NAME")


def test_files_that_give_nothing(tmp_path):
  def error(file):
    with pytest.raises(errors.InputError) as e:
      readers.read(file, bad_rows='skip')
    return str(e.value)

  assert 'the file is empty' in error(_jsonl(tmp_path, b''))
  text = error(_jsonl(tmp_path, b'[', b'{},', b'{}', b']'))
  assert 'one object a line, not one array' in text
  assert text.endswith('there is no good row')
  assert 'is a folder' in error(tmp_path)
  assert 'no such file' in error(tmp_path / 'x.jsonl')
  assert "files that end with '.csv'; convert it to one of .jsonl, .json, .parquet" in (
      error(_jsonl(tmp_path, ROW, name='data.csv')))


def test_misspelt_choices_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match="data.bad_rows='ignore': choose from"):
    readers.read(_jsonl(tmp_path, ROW), bad_rows='ignore')
  with pytest.raises(errors.InputError, match="kind='maths': choose from"):
    readers.read(_jsonl(tmp_path, ROW), kind='maths')


def test_text_is_kept_as_written(tmp_path):
  # U+2028 ends a line for str.splitlines but not in a file; editors on Windows
  # write a mark at the start and two characters at the end of lines.
  row = {'problem': ' a\u2028b\n√ ', 'solution': '中😀', 'id': 'é'}
  raw = json.dumps(row, ensure_ascii=False).encode()
  file = _jsonl(tmp_path, b'\xef\xbb\xbf' + raw + b'\r', name='DATA.JSON')
  (problem,), _ = readers.read(file)
  assert (problem.problem, problem.solution, problem.id) == tuple(row.values())


@pytest.mark.parametrize('solution, answer', [
    ('It is 2.', ''),
    (r'\boxed{1}, no, \boxed{ 2 }', '2'),
    (r'\boxed{\frac{1}{2}}', r'\frac{1}{2}'),
    (r'\boxed {\{1, 2\}}', r'\{1, 2\}'),
    (r'\boxed{\left\{1\right.}', r'\left\{1\right.'),
    (r'{x \boxed{3}', '3'),
    (r'\boxed{1} and then \boxed{2', '1'),
    (r'} \boxed{1}', '1'),
])
def test_answer_is_the_last_whole_box(tmp_path, solution, answer):
  (problem,), _ = readers.read(_jsonl(tmp_path, ROW | {'solution': solution}))
  assert problem.answer == answer


def test_a_question_and_a_marker_of_one_s_own(tmp_path):
  row = {'problem': 'Capital of Peru?', 'solution': 'Easy.\nAnswer: Lima\nBye.'}
  (problem,), _ = readers.read(
      _jsonl(tmp_path, row), kind='text', marker='Answer:',
      question='{problem}\nEnd with "Answer: ...".',
  )
  assert problem.problem == 'Capital of Peru?\nEnd with "Answer: ...".'
  assert (problem.answer, problem.marker) == ('Lima', 'Answer:')


@pytest.mark.parametrize('options, message', [
    ({'question': 'Do it.'}, 'no place for a {problem}'),
    ({'marker': ''}, 'data.marker.* is empty'),
])
def test_a_useless_question_or_marker_is_refused(tmp_path, options, message):
  with pytest.raises(errors.InputError, match=message):
    readers.read(_jsonl(tmp_path, ROW), **options)
