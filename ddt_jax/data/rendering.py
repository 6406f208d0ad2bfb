"""Conversations as text, by the chat template that a model comes with.

A chat template is a program in the model's folder. It can fail, and it can leave
out parts of a conversation without a word. `render` turns each failure into one
`errors.InputError`. The checks find what the template left out.
"""

from collections.abc import Mapping, Sequence
import os
import re
from typing import Any

from ddt_jax import errors

# Names under which data sets keep an assistant's thoughts beside `content`.
REASONING = ('reasoning_content', 'reasoning', 'thinking', 'thoughts')
# <think>, </answer>: marks within an answer that templates set on lines of their
# own.
_TAG = re.compile(r'(</?\w+>)')
_SHOWN = 60  # characters of a text that a message quotes


def render(
    tokenizer: Any, chat: Sequence[Mapping[str, Any]], *, generation: bool = False
) -> str:
  """The conversation as text, by the tokenizer's chat template.

  Args:
    tokenizer: of transformers, with a chat template.
    chat: the turns. The field `train` is ours, so the template does not get it.
    generation: append the generation prompt, after which the assistant writes.

  Raises:
    errors.InputError: the template does not parse, or it refuses the turns. The
      message has the folder and the template's own words.
  """
  turns = [{k: v for k, v in turn.items() if k != 'train'} for turn in chat]
  try:
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=generation)
    text.encode()  # the tokenizer cannot read a lone surrogate
  # A template is a program, and jinja passes on every exception that it raises:
  # 'a' + 1 is a TypeError, 1 / 0 a ZeroDivisionError.
  except Exception as e:
    reason = ' '.join(str(e).split()) or type(e).__name__
    if line := getattr(e, 'lineno', None):  # only a syntax error has one
      reason = f'line {line} does not parse: {reason}'
    raise errors.InputError(
        f'the chat template of {folder(tokenizer)} fails: {reason}') from e
  return text


def folder(tokenizer: Any) -> str:
  """Where the chat template comes from, for messages."""
  return str(getattr(tokenizer, 'name_or_path', '') or 'the tokenizer')


def left_out(value: str, text: str) -> str:
  """The first part of `value` that `text` lacks; '' if it has all.

  Surrounding whitespace does not count, neither of the whole nor beside a tag:
  templates write `<think>` and `</think>` on lines of their own.

  Example:
    >>> left_out('<think>So</think>7', 'A: <think>\\nSo\\n</think>\\n\\n7')
    ''
    >>> left_out('<think>So</think>7', 'A: 7')
    '<think>'
  """
  # The usual case; the search by parts is for texts with tags.
  if value in text:
    return ''
  at = 0
  for part in map(str.strip, _TAG.split(value)):
    # Each part after the one before: the same word elsewhere does not count.
    at = text.find(part, at)
    if at < 0:
      return part
    at += len(part)
  return ''


def check_answer(turn: Mapping[str, Any], index: int, text: str) -> None:
  """Checks that a rendered assistant turn holds all that the assistant said.

  Args:
    turn: as it was given to the template.
    index: of the turn, for the message.
    text: the rendered turn, from the end of the prompt's last turn on.

  Raises:
    errors.InputError: the template leaves out a part of it.
  """
  for field in ('content', *REASONING):
    if missing := left_out(turn.get(field) or '', text):
      raise errors.InputError(
          f'the chat template leaves out {quote(missing)} of'
          f' messages[{index}].{field}; that text would not be trained on')


def check_prompt(turns: Sequence[Mapping[str, Any]], first: int, text: str) -> None:
  """Checks that rendered system and user turns hold all their text.

  Args:
    turns: those since the last trained turn; untrained answers may be among them.
    first: index of the first one, for the message.
    text: the rendered prompt.

  Raises:
    errors.InputError: the template leaves out a part of one.
  """
  for index, turn in enumerate(turns, first):
    # Thinking templates drop the thoughts of earlier answers, also when sampling.
    if turn['role'] == 'assistant':
      continue
    if missing := left_out(turn['content'], text):
      raise errors.InputError(
          f'the chat template leaves out {quote(missing)} of messages[{index}],'
          f' a {turn["role"]} turn')


def border(tokenizer: Any, chat: Sequence[Mapping[str, Any]], before: str) -> int:
  """Length of `before` without the generation prompt at its end."""
  return len(os.path.commonprefix([render(tokenizer, chat), before]))


def check_generation_prompt(before: str, plain: str, lead: str) -> None:
  """Refuses a template without a generation prompt.

  Args:
    before: the prompt with the generation prompt.
    plain: the prompt without.
    lead: what the template writes between `before` and the answer. A template that
      ends its user turns with the header, as Llama 2's, leaves only blanks here.

  Raises:
    errors.InputError: the two prompts are equal, and the answer has a header.
  """
  if before == plain and lead.strip():
    raise errors.InputError(
        f'the chat template has no generation prompt: it writes {quote(lead)}'
        ' before the answer, but add_generation_prompt changes nothing. The header'
        ' would be trained as part of the answer; add "{% if add_generation_prompt'
        ' %}" with the header at the end of the template')


def quote(text: str) -> str:
  """The beginning of a text, for a message."""
  return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + '...')
