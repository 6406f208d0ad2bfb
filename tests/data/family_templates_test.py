"""The templates of the families that have presets: what is trained, and where it ends."""

import copy

import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import prompts
from ddt_jax.data import records
from ddt_jax.data import turns
from tests.support import student
from tests.support import templates

USER = {'role': 'user', 'content': '2 + 5?'}
MORE = {'role': 'user', 'content': 'And 3 more?'}
WORKED = prompts.load('worked_example')


def says(content, **fields):
  return {'role': 'assistant', 'content': content} | fields


@pytest.fixture(params=templates.FAMILIES)
def family(request):
  """(family, tokenizer, the token that ends a turn)."""
  words = copy.deepcopy(student.tokenizer())
  return request.param, words, templates.give(words, request.param)


def trained(words, messages):
  """The supervised text of a conversation."""
  problem = records.Problem('x', 'x', source='a:1', messages=tuple(messages))
  example, = lengths.prepare(
      words, [problem], chat.turn_end(words), 900).examples
  return words.decode(example.tokens[example.supervised])


def test_an_answer_is_trained_up_to_its_end(family):
  name, words, end = family
  found = chat.turn_end(words)
  assert (found.text, found.id) == (end, words.convert_tokens_to_ids(end))
  # Qwen3 writes a block of thoughts before any last answer: it is trained, too.
  thoughts = '<think>\n\n</think>\n\n' if name == 'qwen3' else ''
  assert trained(words, [USER, says('It is \\boxed{7}.')]) == (
      f'{thoughts}It is \\boxed{{7}}.{end}')


def test_both_turns_of_a_chat_are_trained(family):
  name, words, end = family
  chats = [USER, says('7'), MORE, says('10')]
  check = turns.TemplateCheck(words, chat.turn_end(words), split_turns=True)
  if name != 'qwen3':
    assert trained(words, chats) == f'7{end}10{end}'
    return
  # The first answer is rendered otherwise once a question follows it.
  check(records.Problem('x', 'x', source='a:1', messages=tuple(chats)))
  assert check.unstable


def test_thoughts_are_trained_where_the_template_renders_them(family):
  name, words, end = family
  if name != 'qwen3':
    pytest.skip('a template without thoughts')
  for answer in (says('7', reasoning_content='two and five'),
                 says('<think>\ntwo and five\n</think>\n\n7')):
    assert trained(words, [USER, answer]) == (
        f'<think>\ntwo and five\n</think>\n\n7{end}')


def test_the_prompt_of_training_is_the_prompt_of_decoding(family):
  _, words, _ = family
  prompt = chat.encode_prompt(words, [USER])
  problem = records.Problem('x', 'x', source='a:1', messages=(USER, says('7')))
  example, = lengths.prepare(words, [problem], chat.turn_end(words), 900).examples
  np.testing.assert_array_equal(example.tokens[:len(prompt)], prompt)
  assert not example.supervised[:len(prompt)].any()
  assert example.supervised[len(prompt):-1].all()


def test_the_hinted_prompt_renders_or_is_refused(family):
  name, words, _ = family
  hinted = WORKED.hinted_chat('2 + 5?', 'It is 7.')
  assert [m['role'] for m in hinted] == ['system', 'user']
  if name == 'mistral':
    with pytest.raises(errors.InputError, match='roles must alternate'):
      chat.encode_prompt(words, hinted)
    return
  text = words.decode(chat.encode_prompt(words, hinted))
  assert '2 + 5?' in text and 'It is 7.' in text and hinted[0]['content'][:40] in text
