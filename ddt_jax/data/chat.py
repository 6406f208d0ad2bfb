"""Conversations -> token ids, and which of them are supervised.

The mask is on *targets*. Supervised are the tokens of every assistant turn and
the token that ends the turn. No prompt token is.

Prompt and response are tokenised separately, because sampling does so: the model
reads a tokenised prompt and draws the response token by token. Tokenising both
as one text could merge characters across the border into one token.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ddt_jax import errors
from ddt_jax.data import prompts


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


def turn_end(tokenizer: Any, eos_ids: Sequence[int] = ()) -> TurnEnd:
  """Finds the end-of-turn token: renders a probe and reads the text after it.

  Args:
    tokenizer: of transformers, with a chat template.
    eos_ids: the model's stop tokens. Where given, the end of turn must be one of
      them: sampling would otherwise not stop where training taught it to.

  Raises:
    errors.InputError: there is no template, the turn does not end with a special
      token, or that token is not in `eos_ids`.
  """
  if not tokenizer.chat_template:
    raise errors.InputError('the tokenizer has no chat template')
  probe = 'probe'
  text = _render(tokenizer, [
      *prompts.student_chat('x'), {'role': 'assistant', 'content': probe}
  ])
  after = text[text.rindex(probe) + len(probe):]
  ids = tokenizer.encode(after, add_special_tokens=False)
  if not ids or ids[0] not in tokenizer.added_tokens_decoder:
    raise errors.InputError(
        f'the chat template ends the turn with {after!r}, not with a special'
        ' token: the model could not learn to stop'
    )
  if eos_ids and ids[0] not in eos_ids:
    raise errors.InputError(
        f'the chat template ends the turn with {ids[0]}, which is not among the'
        f" model's eos_token_id {list(eos_ids)}: sampling would not stop there"
    )
  return TurnEnd(tokenizer.convert_ids_to_tokens(ids[0]), ids[0])


def encode_prompt(tokenizer: Any, chat: prompts.Chat) -> list[int]:
  """Token ids of a conversation, up to where the assistant begins to write."""
  return encode_prompts(tokenizer, [chat])[0]


def encode_prompts(
    tokenizer: Any, chats: Sequence[prompts.Chat]
) -> list[list[int]]:
  """`encode_prompt` of each conversation, in one call of the tokenizer."""
  return _token_ids(tokenizer, [
      _render(tokenizer, chat, add_generation_prompt=True) for chat in chats
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

  Joined, the texts are the rendered conversation up to the last end of turn.

  Raises:
    errors.InputError: there is no assistant turn, or the template renders earlier
      turns differently once later ones follow. Training on the whole conversation
      would then show the model prompts that it never sees when sampling.
  """
  cut, rendered = [], ''  # rendered: the texts in `cut`, joined
  for i, message in enumerate(chat):
    if message['role'] != 'assistant':
      continue
    before = _render(tokenizer, chat[:i], add_generation_prompt=True)
    turn = _render(tokenizer, chat[: i + 1])
    if not (turn.startswith(before) and before.startswith(rendered)):
      raise errors.InputError(
          f'the chat template is not prefix-stable at turn {i}: it renders'
          ' earlier turns differently when a later one is added'
      )
    # The last occurrence: the response itself may contain the text of `end`.
    stop = turn.rindex(end.text) + len(end.text)
    cut += [
        (turn[len(rendered):len(before)], False),
        (turn[len(before):stop], True),
    ]
    rendered = turn[:stop]
  if not cut:
    raise errors.InputError(
        'the conversation has no assistant turn to train on')
  return cut


def encode_pieces(
    tokenizer: Any, conversations: Sequence[Sequence[tuple[str, bool]]]
) -> list[Example]:
  """Tokenises conversations that `pieces` cut, in one call of the tokenizer.

  One call uses all cores. It returns the ids of all texts as Python lists, so
  callers with many conversations pass a block of them at a time.
  """
  texts = [text for cut in conversations for text, _ in cut]
  ids = iter(_token_ids(tokenizer, texts))
  examples = []
  for cut in conversations:
    tokens = [np.asarray(next(ids), np.int32) for _ in cut]
    supervised = [
        np.full(len(piece), flag)
        for piece, (_, flag) in zip(tokens, cut, strict=True)
    ]
    examples.append(Example(np.concatenate(tokens), np.concatenate(supervised)))
  return examples


def _render(tokenizer, chat, **options) -> str:
  """The conversation as text, by the tokenizer's chat template."""
  return tokenizer.apply_chat_template(chat, tokenize=False, **options)


def _token_ids(tokenizer, texts) -> list[list[int]]:
  if not texts:
    return []  # the tokenizer does not accept an empty list
  # The template has written every special token already: adding them again would
  # double the BOS.
  return tokenizer(
      texts, add_special_tokens=False, return_attention_mask=False,
      return_token_type_ids=False,
  )['input_ids']
