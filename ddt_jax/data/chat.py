"""Conversations -> token ids and masks.

The mask is on *targets*: every token of an assistant's turn and the token that
ends the turn is supervised, nothing else is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ddt_jax.data import prompts


class Example(NamedTuple):
  """A tokenised conversation.

  Attributes:
    tokens: [n] int32, prompt and response.
    supervised: [n] bool, true where the token is to be learnt.
  """

  tokens: np.ndarray
  supervised: np.ndarray


class TurnEnd(NamedTuple):
  """The token with which the chat template ends an assistant's turn."""

  text: str
  id: int


def turn_end(tokenizer: Any, eos_ids: Sequence[int] = ()) -> TurnEnd:
  """Finds the end-of-turn token by rendering a probe.

  Args:
    tokenizer: of transformers, with a chat template.
    eos_ids: where given, the token must be one of them, or generation would
      not stop where training said it should.

  Raises:
    ValueError: no template, no such token, or not one that ends generation.
  """
  if not tokenizer.chat_template:
    raise ValueError('the tokenizer has no chat template')
  probe = 'probe'
  text = tokenizer.apply_chat_template(
      prompts.student_chat('x') + [{'role': 'assistant', 'content': probe}],
      tokenize=False,
  )
  after = text[text.rindex(probe) + len(probe):]
  ids = tokenizer.encode(after, add_special_tokens=False)
  if not ids or ids[0] not in tokenizer.added_tokens_decoder:
    raise ValueError(
        f'the chat template ends the turn with {after!r}, not with a special'
        ' token: the model could not learn to stop'
    )
  if eos_ids and ids[0] not in eos_ids:
    raise ValueError(
        f'the chat template ends the turn with {ids[0]}, which is not among the'
        f" model's eos_token_id {list(eos_ids)}: sampling would not stop there"
    )
  return TurnEnd(tokenizer.convert_ids_to_tokens(ids[0]), ids[0])


def encode_prompt(tokenizer: Any, chat: prompts.Chat) -> list[int]:
  """Token ids of a conversation up to where the assistant is to speak."""
  text = tokenizer.apply_chat_template(
      chat, tokenize=False, add_generation_prompt=True
  )
  return tokenizer.encode(text, add_special_tokens=False)


def answered(prompt: Sequence[int], response: Sequence[int]) -> Example:
  """A prompt and what was drawn after it; ids are not encoded again."""
  tokens = np.array([*prompt, *response], np.int32)
  return Example(tokens, np.arange(len(tokens)) >= len(prompt))


def encode(tokenizer: Any, chat: prompts.Chat, end: TurnEnd) -> Example:
  """Tokenises a conversation of any number of turns.

  Prompt and response are tokenised apart, so that the border falls where it
  does in sampling.

  Raises:
    ValueError: the template renders earlier turns differently once later ones
      follow, so that no mask would be right.
  """
  return encode_pieces(tokenizer, [pieces(tokenizer, chat, end)])[0]


def pieces(
    tokenizer: Any, chat: prompts.Chat, end: TurnEnd
) -> list[tuple[str, bool]]:
  """A conversation as texts to tokenise, and whether each is supervised.

  Raises:
    ValueError: see `encode`.
  """

  def render(turns, **kwargs):
    return tokenizer.apply_chat_template(turns, tokenize=False, **kwargs)

  found, rendered = [], ''  # what the pieces add up to
  for i, message in enumerate(chat):
    if message['role'] != 'assistant':
      continue
    before = render(chat[:i], add_generation_prompt=True)
    turn = render(chat[: i + 1])
    if not (turn.startswith(before) and before.startswith(rendered)):
      raise ValueError(
          f'the chat template is not prefix-stable at turn {i}: what it renders'
          ' for earlier turns changes when a later one is added'
      )
    stop = turn.rindex(end.text) + len(end.text)
    found += [
        (turn[len(rendered):len(before)], False),
        (turn[len(before):stop], True),
    ]
    rendered = turn[:stop]
  return found


def encode_pieces(
    tokenizer: Any, conversations: Sequence[Sequence[tuple[str, bool]]]
) -> list[Example]:
  """Tokenises conversations in `pieces`, all of them in one call."""
  texts = [text for found in conversations for text, _ in found]
  if not texts:
    return []
  ids = iter(tokenizer(
      texts, add_special_tokens=False, return_attention_mask=False,
      return_token_type_ids=False,
  )['input_ids'])
  examples = []
  for found in conversations:
    tokens = [np.asarray(next(ids), np.int32) for _ in found]
    supervised = [
        np.full(len(piece), flag)
        for piece, (_, flag) in zip(tokens, found, strict=True)
    ]
    examples.append(Example(np.concatenate(tokens), np.concatenate(supervised)))
  return examples
