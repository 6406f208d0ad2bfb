"""Kept tokens equal new ones, row by row, and a change of the data is seen."""

import copy
import json

import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import token_store
from ddt_jax.embedded import problems
from experiments.run import inputs
from tests.support import student

OPTIONS = dict(
    evaluation_problems=5, name='', max_tokens=64, overlong='truncate',
    validation=0.2, evaluation=0.1)
ANSWER = {'role': 'assistant', 'content': '4'}


def rows():
  """Rows of every kind: pairs, dialogues, untrained turns, two that are equal."""
  made = [{'problem': p.problem, 'solution': p.solution}
          for p in problems.problems('train', 12)]
  made += [made[0]]
  for p in problems.problems('retained', 6):
    turns = [
        {'role': 'user', 'content': 'é ☃ 2 + 2?'}, ANSWER,
        {'role': 'user', 'content': p.problem},
        {'role': 'assistant', 'content': p.solution}]
    made += [{'messages': turns},
             {'messages': [turns[0], ANSWER | {'weight': 0}, *turns[2:]]}]
  return made


def write(file, made):
  file.write_text(''.join(json.dumps(row) + '\n' for row in made))
  return str(file)


def load(path, *, tokenizer=None, **options):
  tokenizer = tokenizer or student.tokenizer()
  return inputs.load_data(
      tokenizer, chat.turn_end(tokenizer), path=path, **OPTIONS | options)


def equal(found, wanted):
  assert found[0] == wanted[0]  # problems, and what is said about them
  for a, b in zip(found[1:], wanted[1:], strict=True):
    assert (a.truncated, a.dropped, [*a.by_id]) == (b.truncated, b.dropped, [*b.by_id])
    jax.tree.map(np.testing.assert_array_equal, a.examples, b.examples)
    assert all([x.dtype for x in e] == [np.int32, bool] for e in a.examples)


@pytest.fixture
def path(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  # A block of 4 conversations, so that these few rows are kept.
  monkeypatch.setattr(token_store, 'BLOCK', 4)
  return write(tmp_path / 'rows.jsonl', rows())


@pytest.fixture
def forget(monkeypatch):
  """Makes the next loads do without a store: the old route."""
  def patched(*args, **options):
    with monkeypatch.context() as m:
      m.setattr(inputs.token_store, 'TokenStore', lambda *args: None)
      return load(*args, **options)

  return patched


@pytest.fixture
def calls(monkeypatch):
  """Counts the conversations that are rendered."""
  counted, pieces = [], chat.pieces

  def counting(tokenizer, turns, end):
    counted.append(turns)
    return pieces(tokenizer, turns, end)

  monkeypatch.setattr(chat, 'pieces', counting)
  return counted


@pytest.mark.parametrize('question', ['{problem}', 'Q: {problem} Think.'])
def test_kept_tokens_are_those_of_the_old_route(path, forget, calls, question):
  wanted = forget(path, question=question)
  equal(load(path, question=question), wanted)
  calls.clear()
  equal(load(path, question=question), wanted)
  assert not calls  # the second start renders nothing


def test_a_changed_row_is_tokenised_anew(path, tmp_path, forget, calls):
  load(path)
  made = rows()
  changed = [made[-1] | {'messages': [
      {'role': 'user', 'content': f'{i} + 1?'}, ANSWER]} for i in range(5)]
  write(tmp_path / 'rows.jsonl', [made[3], *changed, *made[:3], *made[4:]])
  wanted = forget(path)
  calls.clear()
  equal(load(path), wanted)
  assert len(calls) == len(changed)
  calls.clear()
  equal(load(path), wanted)
  assert not calls


def test_a_bad_row_is_named_at_every_start(path, tmp_path):
  load(path)
  write(tmp_path / 'rows.jsonl', [*rows(), {'problem': 'x', 'solution': ' '}])
  for _ in range(2):
    with pytest.raises(errors.InputError, match=f"rows.jsonl:{len(rows()) + 1}: 'sol"):
      load(path)


def test_another_template_or_tokenizer_finds_nothing(path, forget, calls):
  load(path)
  other = copy.deepcopy(student.tokenizer())
  other.chat_template = other.chat_template.replace('user', 'asker')
  other.chat_template = '{{ "Hello. " }}' + other.chat_template
  calls.clear()
  wanted = forget(path, tokenizer=other)
  n = len(calls)
  equal(load(path, tokenizer=other), wanted)
  assert len(calls) > n


def flip(data):
  at = len(data) // 2
  return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


@pytest.mark.parametrize('damage', [flip, lambda x: x[:len(x) // 2], lambda x: b''])
def test_a_damaged_file_is_made_again(path, tmp_path, forget, calls, damage):
  wanted = forget(path)
  load(path)
  file, = (tmp_path / 'cache').rglob('*.array_record')
  file.write_bytes(damage(file.read_bytes()))
  equal(load(path), wanted)
  calls.clear()
  equal(load(path), wanted)
  assert not calls


def test_few_rows_leave_no_file(path, tmp_path):
  load(write(tmp_path / 'few.jsonl', rows()[:3]))
  assert not list((tmp_path / 'cache').rglob('*.array_record'))


def test_a_tokenizer_that_does_more_than_its_backend_is_called_itself(path, forget):
  class Shifted(type(student.tokenizer())):

    def __call__(self, texts, **options):
      found = super().__call__(texts, **options)
      return {'input_ids': [[*ids, 7] for ids in found['input_ids']]}

  shifted = copy.deepcopy(student.tokenizer())
  shifted.__class__ = Shifted
  wanted = forget(path, tokenizer=shifted)
  equal(load(path, tokenizer=shifted), wanted)
