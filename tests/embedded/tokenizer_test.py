"""The student's tokenizer, trained on a little of its text."""

import json
import re

import pytest
import transformers

from ddt_jax.data import chat
from ddt_jax.embedded import problems
from ddt_jax.embedded import tokenizer


@pytest.fixture(scope='module')
def chats():
  return [c for kind in ('answers', 'books', 'rewrites')
          for c in problems.pretraining(kind, 200)]


@pytest.fixture(scope='module')
def words(chats):
  blank = tokenizer.train([], max_positions=64)
  texts = [blank.apply_chat_template(c, tokenize=False) for c in chats]
  return tokenizer.train(texts, max_positions=64)


ODD = ('12345 678.90', r'x=\boxed{42}.', ' \n\n  two  spaces\t', 'Übergröße, 東京',
       "it's I'LL", '<|im_start|>user\nhi<|im_end|>\n', '½ ٣ e\u0301', '')


def ids(words, text):
  return words.encode(text, add_special_tokens=False)


def test_the_vocabulary(words):
  assert len(words) == tokenizer.VOCAB_SIZE
  assert sorted(words.get_vocab().values()) == list(range(len(words)))
  end = chat.turn_end(words)
  assert end == (words.eos_token, words.eos_token_id)
  assert words.pad_token_id not in (None, words.eos_token_id)


def test_digits_are_single(words):
  assert len(ids(words, '12345')) == 5
  for token in words.get_vocab():
    assert len(token) == 1 or not re.search(r'\d', token), token
  # The same digit everywhere, so that arithmetic is learnt once.
  seven, = ids(words, '7')
  for text in ('7 apples', 'has 7', '37', '7*7=49', r'\boxed{7}'):
    assert seven in ids(words, text), text


def test_the_splitter_is_more_than_one_token(words):
  assert len(ids(words, r'\boxed{')) > 1
  text = r'Answer: \boxed{42}.'
  assert [words.decode([i]) for i in ids(words, text)][-5:-1] == list(
      '{42}')


@pytest.mark.parametrize('text', ODD[:-2])
def test_text_comes_back(words, text):
  assert words.decode(ids(words, text)) == text


def test_transformers_loads_what_was_saved(words, chats, tmp_path):
  # Beside a config.json of the qwen2 family transformers replaces parts of it.
  words.save_pretrained(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'qwen2'}))
  loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert len(loaded) == len(words)
  assert loaded.eos_token_id == words.eos_token_id
  assert loaded.pad_token_id == words.pad_token_id
  for text in ODD:
    assert ids(loaded, text) == ids(words, text), text
  end = chat.turn_end(loaded)
  for turns in chats[::20]:
    was, found = (chat.encode(t, turns, end) for t in (words, loaded))
    assert found.tokens.tolist() == was.tokens.tolist()
    assert found.supervised.tolist() == was.supervised.tolist()
