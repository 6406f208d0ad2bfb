"""Which tokens are supervised, and which chat templates can be used."""

import json

import numpy as np
import pytest
import transformers

from ddt_jax import errors
from ddt_jax.data import batches
from ddt_jax.data import chat
from tests.support import paths

SFT_MASK = json.loads((paths.GOLDEN / 'loss' / 'sft_mask.json').read_text())
IM_END = 479

SYSTEM = {'role': 'system', 'content': 'Answer briefly.'}
QUESTION = {'role': 'user', 'content': 'What is 12 + 30?'}
ANSWER = {'role': 'assistant', 'content': 'The answer is 42.'}
MORE = {'role': 'user', 'content': 'And then?'}
END = {'role': 'assistant', 'content': 'We are done.'}


def load_tokenizer():
  return transformers.AutoTokenizer.from_pretrained(paths.GOLDEN / 'tokenizer')


@pytest.fixture(scope='module')
def tokenizer():
  return load_tokenizer()


@pytest.mark.parametrize('turns, trained', [
    ([QUESTION, ANSWER], ['The answer is 42.<|im_end|>']),
    ([SYSTEM, QUESTION, ANSWER], ['The answer is 42.<|im_end|>']),
    ([SYSTEM, QUESTION, ANSWER, MORE, END],
     ['The answer is 42.<|im_end|>', 'We are done.<|im_end|>']),
    ([QUESTION, ANSWER, MORE, END, MORE, ANSWER],
     ['The answer is 42.<|im_end|>', 'We are done.<|im_end|>',
      'The answer is 42.<|im_end|>']),
    ([QUESTION, ANSWER, MORE], ['The answer is 42.<|im_end|>']),
])
def test_exactly_responses_and_ends_of_turns_are_supervised(
    turns, trained, tokenizer
):
  end = chat.turn_end(tokenizer, [IM_END])
  assert end == ('<|im_end|>', IM_END)
  e = chat.encode(tokenizer, turns, end)
  edges = np.flatnonzero(np.diff(e.supervised)) + 1
  pieces = [
      tokenizer.decode(tokens) for tokens, mask in zip(
          np.split(e.tokens, edges), np.split(e.supervised, edges), strict=True
      ) if mask[0]
  ]
  assert pieces == trained
  # Together they are the rendered chat up to the last end of a turn.
  text = tokenizer.apply_chat_template(turns, tokenize=False)
  assert text.startswith(tokenizer.decode(e.tokens))
  assert e.supervised[-1] and e.tokens[-1] == IM_END


def test_training_sees_the_prompt_that_sampling_sees(tokenizer):
  prompt = chat.encode_prompt(tokenizer, [SYSTEM, QUESTION])
  e = chat.encode(
      tokenizer, [SYSTEM, QUESTION, ANSWER], chat.turn_end(tokenizer)
  )
  np.testing.assert_array_equal(e.tokens[:len(prompt)], prompt)
  np.testing.assert_array_equal(
      e.supervised, np.arange(len(e.tokens)) >= len(prompt)
  )
  assert tokenizer.decode(prompt).endswith('<|im_start|>assistant\n')


@pytest.mark.parametrize('case', SFT_MASK, ids=range(len(SFT_MASK)))
@pytest.mark.parametrize('mode, golden', [
    ('correct', 'positions_of_the_response_incl_eos'),
    ('official', 'positions_trained_by_the_reference'),
])
def test_the_official_mask_and_the_intended_one(case, mode, golden, tokenizer):
  turns = [{'role': 'user', 'content': case['prompt']},
          {'role': 'assistant', 'content': case['response']}]
  e = chat.encode(tokenizer, turns, chat.turn_end(tokenizer))
  n = len(e.tokens)
  np.testing.assert_array_equal(e.tokens, case['input_ids'][:n])
  batch = batches.collate([e], 1, n - 1, mask_mode=mode)
  # Column t predicts token t + 1.
  assert (np.flatnonzero(batch.mask[0]) + 1).tolist() == case[golden]


def test_turn_end_wants_a_special_token():
  tokenizer = load_tokenizer()
  tokenizer.chat_template = (
      "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}"
      '{% endfor %}'
  )
  with pytest.raises(errors.InputError, match='special token'):
    chat.turn_end(tokenizer)
  tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
  with pytest.raises(errors.InputError, match='special token'):
    chat.turn_end(tokenizer)
  tokenizer.chat_template = None
  with pytest.raises(errors.InputError, match='no chat template'):
    chat.turn_end(tokenizer)


TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ 'EARLIER' }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt"
    " %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def test_templates_that_are_not_prefix_stable_are_refused():
  tokenizer = load_tokenizer()
  end = chat.turn_end(tokenizer)
  # Earlier answers are cut once a later turn follows.
  tokenizer.chat_template = TURNS
  assert chat.encode(tokenizer, [QUESTION, ANSWER], end).supervised.any()
  with pytest.raises(errors.InputError, match='not prefix-stable at turn 3'):
    chat.encode(tokenizer, [QUESTION, ANSWER, MORE, END], end)
  # The generation prompt holds what the finished turn does not.
  tokenizer.chat_template = THINKS
  with pytest.raises(errors.InputError, match=(
      r"generation prompt ends with '<think>\\n', which the rendered turn 1 lacks")):
    chat.encode(tokenizer, [QUESTION, ANSWER], end)


def test_a_turn_end_in_the_response_s_own_text_does_not_end_it(tokenizer):
  end = chat.turn_end(tokenizer)
  answer = {'role': 'assistant', 'content': 'It is <|im_end|> that ends.'}
  e = chat.encode(tokenizer, [QUESTION, answer], end)
  text = tokenizer.decode(e.tokens[e.supervised])
  assert text == 'It is <|im_end|> that ends.<|im_end|>'


def test_a_conversation_without_an_assistant_is_refused(tokenizer):
  end = chat.turn_end(tokenizer)
  with pytest.raises(errors.InputError, match='no assistant turn'):
    chat.encode(tokenizer, [SYSTEM, QUESTION], end)


def test_many_prompts_are_tokenised_as_one_is(tokenizer):
  chats = [[QUESTION], [SYSTEM, QUESTION], [QUESTION, ANSWER, MORE]]
  found = chat.encode_prompts(tokenizer, chats)
  assert found == [chat.encode_prompt(tokenizer, c) for c in chats]
  for ids, turns in zip(found, chats, strict=True):
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
  assert chat.encode_prompts(tokenizer, []) == []
