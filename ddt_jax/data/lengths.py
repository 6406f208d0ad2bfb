"""Tokenised problems that fit the rows: one rule for overlong examples.

Every stage that limits the length of an example calls `cut`, or `fit` for many.
`prepare` tokenises the reference solutions of a run, once for all its stages.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.data import token_store

OVERLONG = ('truncate', 'drop', 'error')


def cut(
    example: chat.Example, max_tokens: int, overlong: str, name: str
) -> chat.Example | None:
  """Applies the rule for overlong examples to one.

  Args:
    example: tokenised.
    max_tokens: longest allowed, prompt and response together. A row of a batch
      holds one token less, because inputs and targets are shifted by one.
    overlong: truncate (cut off the end; an example without a supervised token
      left is dropped) | drop | error.
    name: where the example comes from, for the error.

  Returns:
    The same object if it fits, a shorter example, or None if it is dropped.

  Raises:
    errors.InputError: an unknown rule, or overlong='error' and it is too long.
  """
  if overlong not in OVERLONG:
    raise errors.no_choice('data.overlong', overlong, OVERLONG)
  if len(example.tokens) <= max_tokens:
    return example
  if overlong == 'error':
    raise errors.InputError(
        f'{name}: {len(example.tokens)} tokens, more than'
        f' data.max_tokens={max_tokens}; raise it, or choose'
        ' --config.data.overlong=truncate or drop'
    )
  # A prompt that fills the row leaves nothing to train on.
  if overlong == 'drop' or not example.supervised[:max_tokens].any():
    return None
  return chat.Example(
      example.tokens[:max_tokens], example.supervised[:max_tokens])


@dataclasses.dataclass(frozen=True)
class Fitted:
  """Examples that fit, and the number of those that did not.

  Attributes:
    examples: those kept, in the order given.
    truncated: how many of them lost their end.
    dropped: how many were left out.
    by_id: from `Problem.id` to its example, where the examples are the
      references of problems (see `prepare`). A dropped one is absent.
  """

  examples: list[chat.Example]
  truncated: int
  dropped: int
  by_id: Mapping[str, chat.Example] = dataclasses.field(default_factory=dict)


def fit(
    examples: Sequence[chat.Example],
    max_tokens: int,
    *,
    overlong: str = 'truncate',
    names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> Fitted:
  """Applies the rule for overlong examples to many; see `cut`.

  Args:
    examples: tokenised, at least one.
    max_tokens, overlong: see `cut`.
    names: where each example comes from, for the error.
    ids: keys for `Fitted.by_id`, one for each example.

  Raises:
    errors.InputError: see `cut`; or no example is left.
  """
  kept, truncated, by_id = [], 0, {}
  for i, example in enumerate(examples):
    fitting = cut(
        example, max_tokens, overlong, names[i] if names else f'example {i}')
    if fitting is None:
      continue
    kept.append(fitting)
    # `cut` returns the same object where nothing was cut.
    truncated += fitting is not example
    if ids:
      by_id[ids[i]] = fitting
  if not kept:
    raise errors.InputError(
        f'none of {len(examples)} examples fits data.max_tokens={max_tokens};'
        ' raise it'
    )
  return Fitted(kept, truncated, len(examples) - len(kept), by_id)


def prepare(
    tokenizer: Any,
    problems: Sequence[records.Problem],
    end: chat.TurnEnd,
    max_tokens: int,
    *,
    overlong: str = 'truncate',
    store: token_store.TokenStore | None = None,
) -> Fitted:
  """Tokenises the references of problems and applies the rule for overlong ones.

  Pass the result on instead of tokenising a reference again:

      references = lengths.prepare(tokenizer, corpus.train, end, max_tokens)
      example = references.by_id.get(problem.id)  # None: too long, dropped
      response_ids = example.tokens[example.supervised]

  Args:
    tokenizer: of transformers, with a chat template.
    problems: each is tokenised as its `conversation`; their ids are unique.
    end: see `chat.turn_end`.
    max_tokens, overlong: see `cut`.
    store: keeps tokens from start to start; None tokenises anew.

  Raises:
    errors.InputError: a conversation cannot be rendered (`chat.pieces`) or is too
      long (`cut`), with the row it comes from; or no example is left.
  """
  if not problems:
    return Fitted([], 0, 0)
  names = [p.source or p.id for p in problems]

  def pieces(i):
    return _pieces(tokenizer, problems[i], end, names[i])

  if store:
    examples = store.examples([p.conversation for p in problems], pieces)
  else:
    examples = []
    for first in range(0, len(problems), token_store.BLOCK):
      block = range(first, min(first + token_store.BLOCK, len(problems)))
      examples += chat.encode_pieces(tokenizer, [pieces(i) for i in block])
  return fit(
      examples, max_tokens, overlong=overlong, names=names,
      ids=[p.id for p in problems],
  )


def _pieces(tokenizer, problem, end, name) -> list[tuple[str, bool]]:
  try:
    return chat.pieces(tokenizer, problem.conversation, end)
  except errors.InputError as e:
    raise errors.InputError(f'{name}: {e}') from e


def row_length(examples: Sequence[chat.Example], multiple: int = 16) -> int:
  """Row length T that holds all examples, rounded up to `multiple`.

  Rounding lets corpora of similar lengths share one compiled step.
  """
  longest = max(len(e.tokens) for e in examples) - 1  # inputs: all but the last
  return -(-longest // multiple) * multiple
