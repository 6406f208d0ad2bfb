"""Hostile templates and rows end in a result or in one error; no row is lost."""

import copy
import json
import random

import pyarrow
from pyarrow import parquet
import pytest

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import readers
from experiments.run import inputs
from tests.support import student

BODIES = [
    '{{m.content}}', '{{m.content|trim}}', "{{m['content']}}", '{{m.content.text}}',
    "{{m.content.split('</think>')[-1]}}", '{{m.content + 1}}', '{{m.content[:5]}}',
    '{{m.content|upper}}', '{{m.content|tojson}}', '{{m.nothing}}', '{{m.a.b}}', '',
    '{% for p in m.content %}{{p.text}}{% endfor %}', '{{m.reasoning_content}}',
    "{{m.content if loop.last else 'x'}}", "{{m.content.replace('2', '3')}}",
    "{{m.content.split('1')[0]}}", '{{m.content}}{{m.content}}', '{{m}}', '{{1//0}}',
    '{{raise_exception(m.content)}}', '{% if m.content %}{{m.content}}',
    '{{m.content ~ "\ud800"}}', '{{messages[9].content}}', '{{self()}}',
]
HEADS = ['<|im_start|>{{m.role}}\n', '', '{{bos_token}}', '{{loop.index0 // (1 - loop.index0)}}',
         "{% if m.role == 'system' %}{{raise_exception('no\nsystem')}}{% endif %}",
         "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
         "{{raise_exception('roles must alternate')}}{% endif %}<|im_start|>"]
ENDS = ['<|im_end|>\n', ' <|im_end|>', '', '\n', '<|im_end|><|im_end|>', 'END',
        "{% if loop.last %}<|im_end|>{% endif %}", "{% if not loop.last %}<|im_end|>"
        "{% endif %}", '<|endoftext|>']
PROMPTS = ["{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", '',
           '<|im_start|>assistant\n', "{% if add_generation_prompt %}<|im_start|>"
           "assistant\n<think>\n{% endif %}", '{% if not add_generation_prompt %}x{% endif %}',
           '{% if add_generation_prompt %}']
TEXTS = ['2 + 5?', 'It is \\boxed{7}.', '<think>\na\n</think>\n\n7', ' 7\n', '<|im_end|>',
         '', ' ', None, 7, ['x'], [{'type': 'text', 'text': 'a'}], {'a': 1}, True, '\ud800',
         'x' * 3000, '</think>', '<|im_start|>user\n', '\x00', '#### 7', 'é中😀', -0.0,
         float('nan'), float('inf'), 10 ** 400, '{problem}', '{% raw %}']
GOOD = {'messages': [{'role': 'user', 'content': 'What is 2 + 5?'},
                     {'role': 'assistant', 'content': 'It is \\boxed{7}.'}]}


def some_turns(rng):
  """Turns, most of them usable."""
  roles = ['system'] * rng.randrange(2) + ['user', 'assistant'] * rng.randint(1, 3)
  if rng.random() < 0.3:
    rng.shuffle(roles)
  turns = []
  for role in roles:
    hostile = rng.random() < 0.15
    turn = {'role': role, 'content': rng.choice(TEXTS if hostile else TEXTS[:4])}
    if rng.random() < 0.3:
      field = rng.choice([
          'weight', 'train', 'reasoning_content', 'thinking', 'name', 'tool_calls'])
      turn[field] = rng.choice([0, 1, 0.5, None, 'a', [], True, False])
    if rng.random() < 0.1:
      turn.pop(rng.choice([*turn]))
    turns.append(turn if rng.random() < 0.97 else rng.choice(TEXTS))
  return turns


def some_row(rng):
  """A row of any layout, and what no layout has."""
  text = lambda: rng.choice(TEXTS if rng.random() < 0.3 else TEXTS[:4])
  row = rng.choice([
      lambda: {'problem': text(), 'solution': text()},
      lambda: {'messages': some_turns(rng)},
      lambda: {'conversations': [
          {'from': rng.choice(['human', 'gpt', 'system', 'tool', 3]), 'value': text()}
          for _ in range(rng.randrange(5))]},
      lambda: {'prompt': rng.choice([text(), some_turns(rng)]),
               'completion': rng.choice([text(), some_turns(rng)])},
      lambda: {'instruction': text(), 'input': text(), 'output': text(),
               'history': rng.choice([None, [], [['a', 'b']], [['a']], 'x', [3]])},
      lambda: {'question': text(), 'answer': text()},
      lambda: {'x': text()},
      lambda: rng.choice([[], 3, None, 'text', {}]),
  ])()
  if isinstance(row, dict):
    for name in ('answer', 'id', 'system', 'messages', 'problem'):
      if rng.random() < 0.1:
        row[name] = text()
  return row


def load(words, end, path, rng):
  return inputs.load_data(
      words, end, evaluation_problems=9, name='', path=str(path), max_tokens=256,
      overlong='truncate', bad_rows='skip',
      validation=rng.choice([0.0, 0.2]), evaluation=rng.choice([0.0, 0.2]))


def check_whole(found, train, validation, rows, read):
  """Rows in = rows used + rows named."""
  assert len(read.problems) + len(read.bad) == rows
  assert found.bad_rows >= len(read.bad)
  kept = [
      p for p in (*found.train, *found.validation) if '.turn' not in p.id]
  held_out = int(found.description.split(' validation, ')[1].split()[0])
  assert len(kept) + held_out + found.bad_rows == rows
  assert len(train.examples) + train.dropped == len(found.train)
  assert len(validation.examples) + validation.dropped == len(found.validation)
  named = found.description.count('rows.jsonl:')
  assert named >= min(found.bad_rows, readers.LISTED)
  for e in (*train.examples, *validation.examples):
    assert e.supervised.any() and not e.supervised[0]


@pytest.mark.parametrize('block', range(10))
def test_hostile_templates(block, tmp_path):
  """Twenty templates a block, over the same kinds of rows."""
  used = 0
  for seed in range(20 * block, 20 * block + 20):
    rng = random.Random(seed)
    words = copy.deepcopy(student.tokenizer())
    words.chat_template = (
        '{% for m in messages %}' + rng.choice(HEADS[:1] * 20 + HEADS)
        + rng.choice(BODIES[:2] * 15 + BODIES) + rng.choice(ENDS[:2] * 9 + ENDS)
        + '{% endfor %}' + rng.choice(PROMPTS[:1] * 9 + PROMPTS))
    rows = [GOOD] + [{'messages': some_turns(rng)} for _ in range(8)]
    file = tmp_path / 'rows.jsonl'
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    try:
      end = chat.turn_end(words)
      found = load(words, end, file, rng)
    except errors.InputError as e:
      assert str(e)
      continue
    check_whole(*found, 9, readers.read_file(file, bad_rows='skip'))
    used += 1
  assert used >= 2  # not all of them are refused


@pytest.mark.parametrize('block', range(10))
def test_hostile_rows(block, tmp_path):
  """Twenty files a block, JSON lines and Parquet."""
  words, end, used = student.tokenizer(), student.turn_end(), 0
  for seed in range(20 * block, 20 * block + 20):
    rng = random.Random(seed)
    rows = [GOOD] + [some_row(rng) for _ in range(12)]
    file = tmp_path / 'rows.jsonl'
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    used += not_lost(words, end, file, rng, len(rows))
    columns = {}
    for name in ('problem', 'solution', 'answer', 'question', 'messages'):
      if rng.random() < 0.7:
        try:
          columns[name] = pyarrow.array([
              rng.choice(TEXTS[:12]) for _ in rows], rng.choice([
                  None, pyarrow.string(), pyarrow.float32()]))
        except (pyarrow.ArrowException, UnicodeError, OverflowError):
          columns[name] = pyarrow.array(['x'] * len(rows))
    if columns:
      parquet.write_table(pyarrow.table(columns), tmp_path / 'rows.parquet')
      not_lost(words, end, tmp_path / 'rows.parquet', rng, len(rows))
  assert used >= 15


def not_lost(words, end, file, rng, rows) -> bool:
  """Whether the file was read; an error is one of ours."""
  try:
    found = load(words, end, file, rng)
  except errors.InputError as e:
    assert str(e)
    return False
  read = readers.read_file(file, bad_rows='skip')
  if file.suffix == '.jsonl':
    check_whole(*found, rows, read)
  return True
