"""Conversations -> token ids and masks -> shuffled, resumable global batches.

The mask is on *targets*: every token of an assistant's turn and the token that
ends the turn is supervised, nothing else is.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import struct
import grain
import jax
import numpy as np

from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import prompts
from ddt_jax.data import records

OVERLONG = ('truncate', 'drop', 'error')
MASK_MODES = ('correct', 'official')


class Example(NamedTuple):
  """A tokenised conversation.

  Attributes:
    tokens: [n] int32, prompt and response.
    supervised: [n] bool, true where the token is to be learnt.
  """

  tokens: np.ndarray
  supervised: np.ndarray


@struct.dataclass
class Batch:
  """Inputs and what to predict from them; all [B, T].

  Attributes:
    tokens: int32.
    targets: int32, the token after each of `tokens`.
    mask: float32, 1 where the target is supervised.
    positions: int32, -1 at padding.
  """

  tokens: Any
  targets: Any
  mask: Any
  positions: Any


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


def cut(
    e: Example, max_tokens: int, overlong: str, name: str
) -> Example | None:
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
  e = Example(e.tokens[:max_tokens], e.supervised[:max_tokens])
  return None if overlong == 'drop' or not e.supervised.any() else e


@dataclasses.dataclass(frozen=True)
class Fitted:
  """Examples that fit, and what became of those that did not."""

  examples: list[Example]
  truncated: int
  dropped: int


def fit(
    examples: Sequence[Example],
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
    end: TurnEnd,
    max_tokens: int,
    *,
    overlong: str = 'truncate',
) -> Fitted:
  """Tokenises problems and applies the rule for overlong ones; see `fit`."""
  if not problems:
    return Fitted([], 0, 0)
  return fit(
      [encode(tokenizer, p.conversation, end) for p in problems],
      max_tokens, overlong=overlong, names=[p.source or p.id for p in problems],
  )


def row_length(examples: Sequence[Example], multiple: int = 16) -> int:
  """T that holds all examples, rounded up: one compiled shape for all."""
  longest = max(len(e.tokens) for e in examples) - 1
  return -(-longest // multiple) * multiple


def collate(
    examples: Sequence[Example],
    rows: int,
    time: int,
    *,
    mask_mode: str = 'correct',
) -> Batch:
  """Right-padded arrays [rows, time]; rows that are left over are all padding.

  Args:
    examples: at most `rows`.
    rows, time: the shape.
    mask_mode: 'official' moves the mask one target to the left, as the
      official trainer does: the prompt's last token is trained and the
      end of the turn never is. For comparison only.
  """
  if mask_mode not in MASK_MODES:
    raise ValueError(f'data.mask_mode {mask_mode!r}: one of {MASK_MODES}')
  tokens = np.zeros((rows, time), np.int32)
  targets = np.zeros((rows, time), np.int32)
  mask = np.zeros((rows, time), np.float32)
  positions = np.full((rows, time), model.PADDING, np.int32)
  for row, e in enumerate(examples):
    n = len(e.tokens) - 1
    tokens[row, :n] = e.tokens[:-1]
    targets[row, :n] = e.tokens[1:]
    positions[row, :n] = np.arange(n)
    if mask_mode == 'correct':
      mask[row, :n] = e.supervised[1:]
    else:
      mask[row, : n - 1] = e.supervised[2:]
  return Batch(tokens, targets, mask, positions)


def place(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
  """Host arrays -> global arrays; each process gives its devices' rows."""
  where = sharding.batch_sharding(mesh)
  return jax.tree.map(
      lambda x: jax.make_array_from_callback(x.shape, where, lambda i: x[i]),
      batch,
  )


def steps(examples: int, batch: int, epochs: int) -> int:
  """Optimizer steps in `epochs` passes; the last one may be part padding."""
  return -(-examples * epochs // batch)


class Stream(Iterator[Batch]):
  """Shuffled batches over some epochs; can be stopped and taken up again.

  Every epoch has an order of its own. A batch may span two epochs; the last is
  filled up with padding rows, so that no example is left out.
  """

  def __init__(
      self,
      examples: Sequence[Example],
      *,
      batch: int,
      epochs: int,
      seed: int,
      mask_mode: str = 'correct',
      time: int | None = None,
  ):
    time = time or row_length(examples)
    dataset = (
        grain.MapDataset.source(examples)
        .shuffle(seed=seed)
        .repeat(epochs)
        .batch(
            batch,
            batch_fn=lambda rows: collate(
                rows, batch, time, mask_mode=mask_mode
            ),
        )
    )
    self._iterator = iter(dataset.to_iter_dataset())

  def __next__(self) -> Batch:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    """JSON-able; belongs in the checkpoint."""
    return self._iterator.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._iterator.set_state(state)


def in_order(
    examples: Sequence[Example], *, batch: int, mask_mode: str = 'correct',
    time: int | None = None,
) -> Iterator[Batch]:
  """The examples once, in their order: for validation."""
  time = time or row_length(examples)
  for i in range(0, len(examples), batch):
    yield collate(examples[i: i + batch], batch, time, mask_mode=mask_mode)
