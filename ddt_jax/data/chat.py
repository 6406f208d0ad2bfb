"""Conversations -> token ids, and which of them are supervised.

The mask is on *targets*. Supervised are the tokens of every assistant turn and
the token that ends the turn. No prompt token is.

Prompt and response are tokenised separately, because sampling does so: the model
reads a tokenised prompt and draws the response token by token. Tokenising both
as one text could merge characters across the border into one token.
"""

from collections.abc import Sequence
import os
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from ddt_jax import errors
from ddt_jax.data import prompts
from ddt_jax.data import rendering

PROBE = 'probe'  # an answer, to see what a template writes around it


class Example(NamedTuple):
  """A tokenised conversation.

  Attributes:
    tokens: [n] int32, prompts and responses in order.
    supervised: [n] bool, true where the token is trained on.
  """

  tokens: np.ndarray
  supervised: np.ndarray


class TurnEnd(NamedTuple):
  """The token with which the chat template ends an assistant turn."""

  text: str
  id: int


class NotPrefixStable(errors.InputError):
  """The template renders earlier turns differently once later ones follow."""


def turn_end(tokenizer: Any, eos_ids: Sequence[int] = ()) -> TurnEnd:
  """Finds the end-of-turn token: renders a probe and reads the text after it.

  Blanks may precede the token, as in Llama 2's template. They are trained, too.

  Args:
    tokenizer: of transformers, with a chat template.
    eos_ids: the model's stop tokens. A base model's are often others than its
      template's; a warning then says that decoding has to stop at both.

  Raises:
    errors.InputError: there is no template, it does not parse, it wants other
      content than text, it has no generation prompt, or the turn does not end with
      a special token.
  """
  where = rendering.folder(tokenizer)
  if not tokenizer.chat_template:
    raise errors.InputError(f'{where}: the tokenizer has no chat template')
  # The last occurrence: the template's own words may hold the probe, too.
  text = _probe(tokenizer)
  at = text.rindex(PROBE)
  after = text[at + len(PROBE):]
  # Special tokens must not be added here: a BOS would come first and be taken for
  # the end of the turn.
  ids = tokenizer.encode(after.lstrip(), add_special_tokens=False)
  # Ordinary text would be sampled token by token; decoding stops at one id only.
  if not ids or ids[0] not in tokenizer.added_tokens_decoder:
    raise errors.InputError(
        f'{where}: the chat template ends the turn with {after!r}, not with a'
        ' special token: the model could not learn to stop'
    )
  prompt = prompts.student_chat('x')
  before = rendering.render(tokenizer, prompt, generation=True)
  try:
    rendering.check_generation_prompt(
        before, rendering.render(tokenizer, prompt), text[len(before):at])
  except errors.InputError as e:
    raise errors.InputError(f'{where}: {e}') from e
  if eos_ids and ids[0] not in eos_ids:
    logging.warning(
        'the chat template ends a turn with %r (%d), which is not among the'
        " model's eos_token_id %s: decoding stops at both", after.strip(), ids[0],
        list(eos_ids))
  return TurnEnd(tokenizer.convert_ids_to_tokens(ids[0]), ids[0])


def _probe(tokenizer) -> str:
  """A rendered question and answer, the answer being `PROBE`."""
  where = rendering.folder(tokenizer)

  def rendered(answer, question):
    turns = [{'role': 'user', 'content': question},
             {'role': 'assistant', 'content': answer}]
    return rendering.render(tokenizer, turns)

  try:
    text = rendered(PROBE, 'x')
    failure = f'the chat template of {where} leaves out the assistant\'s content'
  except errors.InputError as e:
    text, failure = '', str(e)
  if PROBE in text:
    return text
  try:
    # Templates of vision models take content as a list of parts. Trying that names
    # the cause.
    parts = [[{'type': 'text', 'text': x}] for x in (PROBE, 'x')]
    if PROBE in rendered(*parts):
      failure = (f'the chat template of {where} wants content as a list of parts,'
                 ' not as text: it is made for images, too; use a template for text')
  except errors.InputError:
    pass  # it fails on both, and the failure on text says why
  raise errors.InputError(failure)


def encode_prompt(tokenizer: Any, chat: prompts.Chat) -> list[int]:
  """Token ids of a conversation, up to where the assistant begins to write."""
  return encode_prompts(tokenizer, [chat])[0]


def encode_prompts(
    tokenizer: Any, chats: Sequence[prompts.Chat]
) -> list[list[int]]:
  """`encode_prompt` of each conversation, in one call of the tokenizer."""
  return token_ids(tokenizer, [
      rendering.render(tokenizer, chat, generation=True) for chat in chats
  ])


def answered(prompt: Sequence[int], response: Sequence[int]) -> Example:
  """A prompt and the token ids that were drawn after it, all supervised.

  Sampled ids are kept as they are: decoding and encoding them again can give
  other ids.
  """
  tokens = np.array([*prompt, *response], np.int32)
  return Example(tokens, np.arange(len(tokens)) >= len(prompt))


def encode(tokenizer: Any, chat: prompts.Chat, end: TurnEnd) -> Example:
  """Tokenises one conversation of any number of turns.

  Args:
    tokenizer: of transformers, with a chat template.
    chat: the turns. Those after the last assistant turn are left out.
    end: see `turn_end`.

  Raises:
    errors.InputError: see `pieces`.
  """
  return encode_pieces(tokenizer, [pieces(tokenizer, chat, end)])[0]


def pieces(
    tokenizer: Any, chat: prompts.Chat, end: TurnEnd
) -> list[tuple[str, bool]]:
  """Cuts a rendered conversation into (text, whether it is supervised).

  Joined, the texts are the rendered conversation up to the last end of a trained
  turn. An assistant turn with `train` False is part of the prompt.

  Raises:
    NotPrefixStable: the template renders earlier turns differently once later ones
      follow. Training on the whole conversation would then show the model prompts
      that it never sees when sampling.
    errors.InputError: no assistant turn is trained, the first turn is one, the
      template fails, or it renders a turn so that no mask fits.
  """
  cut, rendered, done = [], '', 0  # rendered: the texts in `cut`, joined
  for i, message in enumerate(chat):
    if message['role'] != 'assistant' or not message.get('train', True):
      continue
    if i == 0:
      raise errors.InputError(
          'the conversation begins with an assistant turn, which answers no prompt;'
          ' "weight": 0 in that turn keeps it as context')
    before = rendering.render(tokenizer, chat[:i], generation=True)
    # `rendered` is what the previous answers were trained after. If the prompt of
    # this answer differs, one sequence cannot serve both.
    if not before.startswith(rendered):
      raise NotPrefixStable(
          f'the chat template is not prefix-stable at turn {i}: it renders'
          ' earlier turns differently when a later one is added'
      )
    rendering.check_prompt(chat[done:i], done, before)
    turn = rendering.render(tokenizer, chat[: i + 1])
    stop = _stop(tokenizer, chat[: i + 1], before, turn, end)
    # Text between the last stop token and this answer is prompt: the next user turn
    # and the header of the answer.
    cut += [
        (turn[len(rendered):len(before)], False),
        (turn[len(before):stop], True),
    ]
    rendered, done = turn[:stop], i + 1
  if not cut:
    raise errors.InputError(
        'the conversation has no assistant turn to train on')
  return cut


def _stop(tokenizer, chat, before, turn, end) -> int:
  """Where the last turn's supervised text ends in `turn`, after checks.

  Args:
    tokenizer, chat, end: see `pieces`; the last turn is the assistant's.
    before, turn: the rendered prompt, and the rendered conversation.
  """
  index, answer = len(chat) - 1, chat[-1]
  if not turn.startswith(before):
    _refuse_border(tokenizer, chat, before, turn)
  # The last occurrence: the response itself may contain the text of `end`.
  last = turn.rfind(end.text, len(before))
  if last < 0:
    raise errors.InputError(
        f'the chat template does not end turn {index} with {end.text!r}')
  said, content = turn[len(before):last], answer['content'].strip()
  thoughts = any(answer.get(field) for field in rendering.REASONING)
  if thoughts or content not in said:
    # The generation prompt may hold the answer's first words, e.g. `<think>`.
    first = rendering.border(tokenizer, chat[:-1], before)
    rendering.check_answer(answer, index, turn[first:last])
  # Text that the template writes between the prompt and the answer, e.g. a header.
  lead = said.partition(content)[0] if content else said
  if lead.strip():
    rendering.check_generation_prompt(
        before, rendering.render(tokenizer, chat[:-1]), lead)
  return last + len(end.text)


def _refuse_border(tokenizer, chat, before, turn):
  """Raises: the rendered turn does not continue the prompt."""
  index = len(chat) - 1
  plain = rendering.render(tokenizer, chat[:-1])
  # Two causes look alike: earlier turns changed, or only the generation prompt is
  # not what the rendered answer begins with.
  if not turn.startswith(plain):
    raise NotPrefixStable(
        f'the chat template is not prefix-stable at turn {index}: it renders'
        ' earlier turns differently when a later one is added')
  same = len(os.path.commonprefix([before, turn]))
  raise errors.InputError(
      f'the generation prompt ends with {before[same:]!r}, which the rendered turn'
      f' {index} lacks: it continues with {rendering.quote(turn[same:])}. Sampling'
      ' would begin with other text than training')


def encode_pieces(
    tokenizer: Any, conversations: Sequence[Sequence[tuple[str, bool]]]
) -> list[Example]:
  """Tokenises conversations that `pieces` cut, in one call of the tokenizer.

  One call uses all cores. It returns the ids of all texts as Python lists, so
  callers with many conversations pass a block of them at a time.
  """
  texts = [text for cut in conversations for text, _ in cut]
  ids = iter(token_ids(tokenizer, texts))
  examples = []
  for cut in conversations:
    tokens = [np.asarray(next(ids), np.int32) for _ in cut]
    supervised = [
        np.full(len(piece), flag)
        for piece, (_, flag) in zip(tokens, cut, strict=True)
    ]
    examples.append(Example(np.concatenate(tokens), np.concatenate(supervised)))
  return examples


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
  """Token ids of rendered texts; the tokenizer adds none of its own."""
  if not texts:
    return []  # the tokenizer does not accept an empty list
  # The template has written every special token already: adding them again would
  # double the BOS.
  return tokenizer(
      texts, add_special_tokens=False, return_attention_mask=False,
      return_token_type_ids=False,
  )['input_ids']
