"""Repetition: by hand, by official cases, by counting. Splitters: by the text."""

import functools
import json

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tokenizers
import transformers

from ddt_jax import errors
from ddt_jax import stopping
from tests.support import paths

CASES = json.loads((paths.GOLDEN / 'sampling' / 'functions.json').read_text())['repeat']


@pytest.mark.parametrize('case', CASES, ids=lambda c: str(len(c['tokens'])))
def test_official_rule(case):
  assert case['result'] == stopping.repeats(
      case['tokens'], n=case['k'], times=case['m'], official_window=True
  )


@pytest.mark.parametrize('period', [1, 2, 7, 40])
def test_a_loop_counts_once_its_window_occurs_five_times(period):
  # The fifth occurrence of a window starts 4 periods after the first.
  needed = 4 * period + 30
  loop = [i % period for i in range(needed)]
  assert stopping.repeats(loop)
  assert not stopping.repeats(loop[:-1])
  # The official rule leaves the last window out.
  assert not stopping.repeats(loop, official_window=True)
  assert stopping.repeats(loop + loop[:1], official_window=True)


def test_occurrences_need_not_be_next_to_each_other():
  phrase = [1, 2, 3]
  tokens = phrase + [7] + phrase + [8, 9] + phrase
  assert stopping.repeats(tokens, n=3, times=3)
  assert not stopping.repeats(tokens, n=3, times=4)
  assert not stopping.repeats(tokens, n=4, times=2)


def test_short_and_empty_texts_do_not_repeat():
  assert not stopping.repeats([])
  assert not stopping.repeats([5] * 29)


@hypothesis.given(
    st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4),
    st.integers(1, 5),
)
def test_counting_by_comparing_all_pairs(tokens, n, times):
  windows = [tokens[i: i + n] for i in range(len(tokens) - n + 1)]
  most = max((windows.count(w) for w in windows), default=0)
  assert stopping.repeats(tokens, n=n, times=times) == (most >= times)
  array = np.array(tokens, np.int32)
  assert stopping.repeats(array, n=n, times=times) == (most >= times)


@functools.cache
def byte_level():
  return transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')


@functools.cache
def sentencepiece():
  """A tokenizer like Llama 2's: a mark for spaces, bytes for unknown text."""
  pieces = ['<unk>', '<s>', '</s>', *(f'<0x{b:02X}>' for b in range(256)),
            '\u2581', 'a', 'b', '\\', 'box', 'ed', '{', 'abab', '\u2581a', 'ü']
  model = tokenizers.models.BPE(
      {p: i for i, p in enumerate(pieces)}, [], byte_fallback=True,
      unk_token='<unk>',
  )
  backend = tokenizers.Tokenizer(model)
  backend.decoder = tokenizers.decoders.Sequence([
      tokenizers.decoders.Replace('\u2581', ' '),
      tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(),
  ])
  return transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, unk_token='<unk>', bos_token='<s>',
      eos_token='</s>',
  )


TOKENIZERS = {'byte-level': byte_level, 'sentencepiece': sentencepiece}
# The model has more rows than the tokenizer has tokens.
SIZE = 503


def shown_after(tokenizer, splitter, tokens):
  """Tokens after which the decoded text shows the splitter."""
  known = set(tokenizer.get_vocab().values())
  for n in range(len(tokens) + 1):
    text = tokenizer.decode([t for t in tokens[:n] if t in known])
    if splitter in text:
      return n
  return None


@functools.cache
def automaton(name, splitter):
  return stopping.splitter_automaton(TOKENIZERS[name](), splitter, SIZE)


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(
    st.sampled_from(['byte-level', 'sentencepiece']),
    st.sampled_from(['ab', 'aab', 'abab', 'aa', 'boxed{', '\\boxed{', 'ü', ' a']),
    st.lists(st.sampled_from(
        ['a', 'b', 'aa', 'ab', 'ba', '\\', 'box', 'ed', '{', 'ü', ' a', ' ']
    ), max_size=12),
    st.randoms(),
)
def test_a_splitter_is_found_where_the_text_shows_it(
    name, splitter, pieces, rng
):
  tokenizer, tokens = TOKENIZERS[name](), []
  for piece in pieces:
    if rng.random() < 0.3:  # as single bytes, also within a character
      table = stopping.token_bytes(tokenizer, SIZE)
      single = {b: i for i, b in reversed(list(enumerate(table))) if len(b) == 1}
      tokens += [single[bytes([b])] for b in piece.encode()]
    else:
      tokens += tokenizer.encode(piece, add_special_tokens=False)
    if rng.random() < 0.1:
      tokens.append(SIZE - 1)  # an id that the tokenizer lacks adds no text
  found = stopping.found_at(automaton(name, splitter), tokens)
  assert found == shown_after(tokenizer, splitter, tokens)


def test_special_tokens_are_text_too():
  tokenizer = byte_level()
  end = tokenizer.convert_tokens_to_ids('<|im_end|>')
  table = automaton('byte-level', 'x<|im')
  x, = tokenizer.encode('x')
  assert stopping.found_at(table, [x, x, end, x]) == 3
  assert stopping.found_at(table, [end, x]) is None


def test_no_splitter_is_never_found():
  assert stopping.found_at(None, [1, 2, 3]) is None


@pytest.mark.parametrize('splitter, name, message', [
    ('x', None, 'needs a tokenizer'),
    ('', 'byte-level', 'empty'),
])
def test_what_cannot_be_found_is_refused(splitter, name, message):
  tokenizer = name and TOKENIZERS[name]()
  with pytest.raises(errors.InputError, match=message):
    stopping.splitter_automaton(tokenizer, splitter, SIZE)


def test_a_splitter_that_no_tokens_spell_is_refused():
  model = tokenizers.models.WordLevel({'a': 0, 'b': 1}, unk_token='a')
  backend = tokenizers.Tokenizer(model)
  tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
  with pytest.raises(errors.InputError, match='byte-level or SentencePiece'):
    stopping.splitter_automaton(tokenizer, 'ab', 2)
  backend.decoder = tokenizers.decoders.ByteLevel()
  tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
  assert stopping.found_at(
      stopping.splitter_automaton(tokenizer, 'ab', 2), [1, 0, 1]) == 3
  with pytest.raises(errors.InputError, match="no tokens .* produce 'ax'"):
    stopping.splitter_automaton(tokenizer, 'ax', 2)


def test_an_eos_that_the_model_has_not_is_refused():
  stopping.check_eos(byte_level(), 503)
  with pytest.raises(errors.InputError, match="eos_token '<.im_end.>'.*100 tokens"):
    stopping.check_eos(byte_level(), 100)
  claims = transformers.AutoTokenizer.from_pretrained(
      paths.GOLDEN / 'tokenizer', eos_token='<|stop|>')
  with pytest.raises(errors.InputError, match="eos_token '<.stop.>'"):
    stopping.check_eos(claims, 480)
  unknown = transformers.PreTrainedTokenizerFast(
      tokenizer_object=sentencepiece().backend_tokenizer, unk_token='<unk>')
  stopping.check_eos(unknown, 503)  # claims none
