"""Overlong examples, and references that are tokenised once."""

import copy

import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import records
from ddt_jax.data import token_store
from ddt_jax.embedded import problems
from tests.support import student

SYSTEM = {'role': 'system', 'content': 'Answer briefly.'}
QUESTION = {'role': 'user', 'content': 'What is 12 + 30?'}
ANSWER = {'role': 'assistant', 'content': 'The answer is 42.'}
MORE = {'role': 'user', 'content': 'And then?'}


def example(length, prompt=2, first=0):
  """Tokens first, first + 1, ...; all but the prompt supervised."""
  tokens = np.arange(first, first + length, dtype=np.int32)
  return chat.Example(tokens, np.arange(length) >= prompt)


def test_overlong_examples_are_truncated_dropped_or_an_error():
  examples = [example(5), example(9), example(12, prompt=8)]
  cut = lengths.fit(examples, 8)
  assert [len(e.tokens) for e in cut.examples] == [5, 8]
  # The last has nothing supervised left.
  assert (cut.truncated, cut.dropped) == (1, 1)
  np.testing.assert_array_equal(cut.examples[1].tokens, np.arange(8))
  dropped = lengths.fit(examples, 8, overlong='drop')
  assert [len(e.tokens) for e in dropped.examples] == [5]
  assert (dropped.truncated, dropped.dropped) == (0, 2)
  with pytest.raises(errors.InputError, match='b: 9 tokens.*max_tokens=8'):
    lengths.fit(examples, 8, overlong='error', names=['a', 'b', 'c'])
  with pytest.raises(errors.InputError, match='example 1: 9 tokens'):
    lengths.fit(examples, 8, overlong='error')
  for rule in lengths.OVERLONG:  # exactly as long as allowed
    assert lengths.fit([example(8)], 8, overlong=rule).truncated == 0
  with pytest.raises(errors.InputError, match='none of 3 examples'):
    lengths.fit(examples, 4, overlong='drop')
  with pytest.raises(errors.InputError, match="'skip'.*truncate"):
    lengths.fit(examples, 8, overlong='skip')


def conversations():
  """A problem with its solution, and one that was given as a conversation."""
  return [
      records.Problem(
          id='1', problem=QUESTION['content'], solution=ANSWER['content'],
          source='data.jsonl:1'),
      records.Problem(
          id='2', problem=MORE['content'], messages=(SYSTEM, QUESTION, ANSWER),
          source='data.jsonl:2'),
  ]


def prepare(some, max_tokens=256, tokenizer=None, **options):
  return lengths.prepare(
      tokenizer or student.tokenizer(), some, student.turn_end(), max_tokens,
      **options)


def test_problems_and_conversations_are_prepared_alike():
  fitted = prepare(conversations())
  for e, turns in zip(
      fitted.examples, ([QUESTION, ANSWER], [SYSTEM, QUESTION, ANSWER]),
      strict=True,
  ):
    wanted = chat.encode(student.tokenizer(), turns, student.turn_end())
    jax.tree.map(np.testing.assert_array_equal, e, wanted)
  with pytest.raises(errors.InputError, match='data.jsonl:1: .* tokens'):
    prepare(conversations(), 8, overlong='error')
  assert prepare([]).examples == []


@pytest.mark.parametrize('block', [1, 7, 1024])
def test_tokenising_many_at_once_gives_the_same_ids(monkeypatch, block):
  monkeypatch.setattr(token_store, 'BLOCK', block)
  some = [*problems.problems('train', 30), *conversations(),
          *problems.problems('retained', 8)]
  one_by_one = [
      chat.encode(student.tokenizer(), p.conversation, student.turn_end())
      for p in some
  ]
  fitted = prepare(some)
  assert len(fitted.examples) == 40
  for found, wanted in zip(fitted.examples, one_by_one, strict=True):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert [x.dtype for x in found] == [np.int32, bool]


class Counting:
  """A tokenizer that counts how often it is called."""

  def __init__(self):
    self.calls = 0

  def __getattr__(self, name):
    assert name != 'encode'
    return getattr(student.tokenizer(), name)

  def __call__(self, texts, **options):
    self.calls += 1
    return student.tokenizer()(texts, **options)


def test_the_tokenizer_is_called_once_for_a_block():
  counting = Counting()
  assert len(prepare(conversations() * 20, tokenizer=counting).examples) == 40
  assert counting.calls == 1


def test_a_reference_is_looked_up_by_its_problem():
  some = list(problems.problems('train', 50))
  whole = prepare(some)
  assert [*whole.by_id] == [p.id for p in some]
  assert all(
      a is b for a, b in zip(whole.by_id.values(), whole.examples, strict=True))
  sizes = sorted(len(e.tokens) for e in whole.examples)
  limit = sizes[25]
  fewer = prepare(some, limit, overlong='drop')
  assert fewer.dropped == sum(size > limit for size in sizes) > 0
  for p in some:
    e = whole.by_id[p.id]
    assert (p.id in fewer.by_id) == (len(e.tokens) <= limit)
  # By a cut reference, the response is what is trained on, no more.
  cut = prepare(some, limit)
  assert cut.truncated + cut.dropped == fewer.dropped
  for p in some:
    e = whole.by_id[p.id]
    wanted = lengths.cut(e, limit, 'truncate', p.id)
    found = cut.by_id.get(p.id)
    assert (found is None) == (wanted is None)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_conversation_that_cannot_be_rendered_is_named_by_its_row():
  tokenizer = copy.deepcopy(student.tokenizer())
  # Earlier assistant turns are rendered as one word once another turn follows.
  tokenizer.chat_template = (
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
      "{% if m['role'] == 'assistant' and not loop.last %}{{ 'EARLIER' }}"
      "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
  )
  bad = records.Problem(
      id='3', problem='x', source='data.jsonl:3',
      messages=(QUESTION, ANSWER, MORE, ANSWER))
  with pytest.raises(
      errors.InputError, match='^data.jsonl:3: .*not prefix-stable at turn 3'):
    prepare([*conversations(), bad], tokenizer=tokenizer)


def test_rows_hold_the_longest_example_rounded_up():
  assert lengths.row_length([example(17), example(4)]) == 16
  assert lengths.row_length([example(18)]) == 32
  assert lengths.row_length([example(18)], multiple=4) == 20
