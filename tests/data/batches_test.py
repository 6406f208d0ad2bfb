"""Which tokens are supervised, and that no example is lost or seen twice."""

import json
import pathlib

import jax
import numpy as np
import pytest
import transformers

from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import records

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SFT_MASK = json.loads((GOLDEN / 'loss' / 'sft_mask.json').read_text())
IM_END = 479

SYSTEM = {'role': 'system', 'content': 'Answer briefly.'}
QUESTION = {'role': 'user', 'content': 'What is 12 + 30?'}
ANSWER = {'role': 'assistant', 'content': 'The answer is 42.'}
MORE = {'role': 'user', 'content': 'And then?'}
END = {'role': 'assistant', 'content': 'We are done.'}


def load_tokenizer():
  return transformers.AutoTokenizer.from_pretrained(GOLDEN / 'tokenizer')


@pytest.fixture(scope='module')
def tokenizer():
  return load_tokenizer()


def example(length, prompt=2, first=0):
  """Tokens first, first + 1, ...; all but the prompt supervised."""
  tokens = np.arange(first, first + length, dtype=np.int32)
  return chat.Example(tokens, np.arange(length) >= prompt)


def numbered(n):
  """Examples of three tokens that carry their number."""
  return [example(3, 1, first=10 * i) for i in range(n)]


def seen(batch):
  """Numbers of the examples in a batch, padding rows left out."""
  return [int(row[0]) // 10 for row, positions in
          zip(batch.tokens, batch.positions, strict=True) if positions[0] == 0]


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


def test_turn_end_wants_a_token_that_ends_generation():
  tokenizer = load_tokenizer()
  with pytest.raises(ValueError, match='479.*eos_token_id .*477'):
    chat.turn_end(tokenizer, [477])
  tokenizer.chat_template = (
      "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}"
      '{% endfor %}'
  )
  with pytest.raises(ValueError, match='special token'):
    chat.turn_end(tokenizer)
  tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
  with pytest.raises(ValueError, match='special token'):
    chat.turn_end(tokenizer)
  tokenizer.chat_template = None
  with pytest.raises(ValueError, match='no chat template'):
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
  with pytest.raises(ValueError, match='not prefix-stable at turn 3'):
    chat.encode(tokenizer, [QUESTION, ANSWER, MORE, END], end)
  # The generation prompt holds what the finished turn does not.
  tokenizer.chat_template = THINKS
  with pytest.raises(ValueError, match='not prefix-stable at turn 1'):
    chat.encode(tokenizer, [QUESTION, ANSWER], end)


def test_a_turn_end_in_the_response_s_own_text_does_not_end_it(tokenizer):
  end = chat.turn_end(tokenizer)
  answer = {'role': 'assistant', 'content': 'It is <|im_end|> that ends.'}
  e = chat.encode(tokenizer, [QUESTION, answer], end)
  text = tokenizer.decode(e.tokens[e.supervised])
  assert text == 'It is <|im_end|> that ends.<|im_end|>'


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
  with pytest.raises(ValueError, match='b: 9 tokens.*max_tokens=8'):
    lengths.fit(examples, 8, overlong='error', names=['a', 'b', 'c'])
  with pytest.raises(ValueError, match='example 1: 9 tokens'):
    lengths.fit(examples, 8, overlong='error')
  for rule in lengths.OVERLONG:  # exactly as long as allowed
    assert lengths.fit([example(8)], 8, overlong=rule).truncated == 0
  with pytest.raises(ValueError, match='none of 3 examples'):
    lengths.fit(examples, 4, overlong='drop')
  with pytest.raises(ValueError, match="'skip'.*truncate"):
    lengths.fit(examples, 8, overlong='skip')


def test_problems_and_conversations_are_prepared_alike(tokenizer):
  end = chat.turn_end(tokenizer)
  plain = records.Problem(
      id='1', problem=QUESTION['content'], solution=ANSWER['content'],
      source='data.jsonl:1',
  )
  given = records.Problem(
      id='2', problem=MORE['content'], messages=(SYSTEM, QUESTION, ANSWER),
      source='data.jsonl:2',
  )
  fitted = lengths.prepare(tokenizer, [plain, given], end, 64)
  for e, turns in zip(
      fitted.examples, ([QUESTION, ANSWER], [SYSTEM, QUESTION, ANSWER]),
      strict=True,
  ):
    wanted = chat.encode(tokenizer, turns, end)
    jax.tree.map(np.testing.assert_array_equal, e, wanted)
  with pytest.raises(ValueError, match='data.jsonl:1: .* tokens'):
    lengths.prepare(tokenizer, [plain, given], end, 8, overlong='error')
  assert lengths.prepare(tokenizer, [], end, 64).examples == []


def test_collate_shifts_and_pads():
  batch = batches.collate([example(5), example(3, first=20)], 3, 6)
  np.testing.assert_array_equal(batch.tokens, [
      [0, 1, 2, 3, 0, 0], [20, 21, 0, 0, 0, 0], [0] * 6])
  np.testing.assert_array_equal(batch.targets, [
      [1, 2, 3, 4, 0, 0], [21, 22, 0, 0, 0, 0], [0] * 6])
  np.testing.assert_array_equal(batch.mask, [
      [0, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6])
  np.testing.assert_array_equal(batch.positions, [
      [0, 1, 2, 3, -1, -1], [0, 1, -1, -1, -1, -1], [-1] * 6])
  with pytest.raises(ValueError, match="mask_mode 'none'"):
    batches.collate([example(5)], 1, 6, mask_mode='none')


def test_rows_hold_the_longest_example_rounded_up():
  assert lengths.row_length([example(17), example(4)]) == 16
  assert lengths.row_length([example(18)]) == 32
  assert lengths.row_length([example(18)], multiple=4) == 20


def test_every_example_once_an_epoch_in_an_order_of_its_own():
  stream = batches.Stream(numbered(12), batch=4, epochs=3, seed=0)
  order = [number for batch in stream for number in seen(batch)]
  epochs = [tuple(order[i: i + 12]) for i in (0, 12, 24)]
  assert len(order) == 36
  assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
  assert len({*epochs, tuple(range(12))}) == 4
  again = batches.Stream(numbered(12), batch=4, epochs=3, seed=0)
  assert [n for batch in again for n in seen(batch)] == order
  other = batches.Stream(numbered(12), batch=4, epochs=3, seed=1)
  assert [n for batch in other for n in seen(batch)] != order


@pytest.mark.parametrize('examples, batch, epochs', [
    (10, 4, 1), (10, 4, 3), (3, 8, 1), (3, 8, 5), (8, 8, 2),
])
def test_the_last_batch_is_filled_up_with_padding(examples, batch, epochs):
  stream = list(batches.Stream(
      numbered(examples), batch=batch, epochs=epochs, seed=0
  ))
  assert len(stream) == batches.steps(examples, batch, epochs)
  assert {b.tokens.shape for b in stream} == {(batch, 16)}
  counts = np.bincount([n for b in stream for n in seen(b)])
  np.testing.assert_array_equal(counts, [epochs] * examples)
  rest = examples * epochs % batch
  if rest:
    assert not stream[-1].mask[rest:].any()
    assert (stream[-1].positions[rest:] == -1).all()


def test_a_resumed_stream_continues_as_if_unbroken():
  def new():
    return batches.Stream(numbered(10), batch=4, epochs=3, seed=5)

  stream = new()
  for _ in range(3):  # stops in the second epoch
    next(stream)
  state = json.loads(json.dumps(stream.get_state()))
  rest = list(stream)
  resumed = new()
  resumed.set_state(state)
  again = list(resumed)
  assert len(rest) == len(again) == batches.steps(10, 4, 3) - 3
  for a, b in zip(rest, again, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_in_order_gives_each_example_once_in_its_order():
  found = list(batches.in_order(numbered(5), batch=2))
  assert [seen(b) for b in found] == [[0, 1], [2, 3], [4]]
  assert {b.tokens.shape for b in found} == {(2, 16)}


def test_place_puts_rows_on_their_devices():
  mesh = sharding.make_mesh(data=2, fsdp=4)
  batch = batches.collate(numbered(8), 8, 16)
  placed = batches.place(batch, mesh)
  jax.tree.map(np.testing.assert_array_equal, placed, batch)
  assert {s.data.shape for s in placed.tokens.addressable_shards} == {(1, 16)}
