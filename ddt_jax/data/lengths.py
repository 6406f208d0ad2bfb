"""The rule for conversations that are longer than a row may be."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from ddt_jax.data import chat
from ddt_jax.data import records

OVERLONG = ('truncate', 'drop', 'error')


def cut(
    e: chat.Example, max_tokens: int, overlong: str, name: str
) -> chat.Example | None:
  """Applies the rule for what is longer than `max_tokens`; see `fit`.

  Returns:
    The example, as it is or cut off; None if it is to be left out.
  """
  if len(e.tokens) <= max_tokens:
    return e
  if overlong == 'error':
    raise ValueError(
        f'{name}: {len(e.tokens)} tokens, more than data.max_tokens={max_tokens};'
        ' raise it, or choose --config.data.overlong=truncate or drop'
    )
  e = chat.Example(e.tokens[:max_tokens], e.supervised[:max_tokens])
  return None if overlong == 'drop' or not e.supervised.any() else e


@dataclasses.dataclass(frozen=True)
class Fitted:
  """Examples that fit, and what became of those that did not."""

  examples: list[chat.Example]
  truncated: int
  dropped: int


def fit(
    examples: Sequence[chat.Example],
    max_tokens: int,
    *,
    overlong: str = 'truncate',
    names: Sequence[str] | None = None,
) -> Fitted:
  """Applies the rule for examples longer than `max_tokens`.

  Args:
    examples: tokenised.
    max_tokens: inputs and targets together hold one token more.
    overlong: truncate (the end is cut off; an example left without a
      supervised token is dropped) | drop | error.
    names: for the error, where each example comes from.

  Raises:
    ValueError: overlong='error' and one is too long, or none is left.
  """
  if overlong not in OVERLONG:
    raise ValueError(f'data.overlong {overlong!r}: choose from {OVERLONG}')
  kept, truncated, dropped = [], 0, 0
  for i, e in enumerate(examples):
    fitting = cut(
        e, max_tokens, overlong, names[i] if names else f'example {i}')
    if fitting is None:
      dropped += 1
      continue
    truncated += fitting is not e
    kept.append(fitting)
  if not kept:
    raise ValueError(
        f'none of {len(examples)} examples fits data.max_tokens={max_tokens}'
    )
  return Fitted(kept, truncated, dropped)


def prepare(
    tokenizer: Any,
    problems: Sequence[records.Problem],
    end: chat.TurnEnd,
    max_tokens: int,
    *,
    overlong: str = 'truncate',
) -> Fitted:
  """Tokenises problems and applies the rule for overlong ones; see `fit`."""
  if not problems:
    return Fitted([], 0, 0)
  return fit(
      [chat.encode(tokenizer, p.conversation, end) for p in problems],
      max_tokens, overlong=overlong, names=[p.source or p.id for p in problems],
  )


def row_length(examples: Sequence[chat.Example], multiple: int = 16) -> int:
  """T that holds all examples, rounded up: one compiled shape for all."""
  longest = max(len(e.tokens) for e in examples) - 1
  return -(-longest // multiple) * multiple
