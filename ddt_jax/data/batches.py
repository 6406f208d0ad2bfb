"""Tokenised conversations -> shuffled, resumable global batches."""

from collections.abc import Iterator, Sequence
from typing import Any

from flax import struct
import grain
import jax
import numpy as np

from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import chat
from ddt_jax.data import lengths

MASK_MODES = ('correct', 'official')


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


def collate(
    examples: Sequence[chat.Example],
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
      examples: Sequence[chat.Example],
      *,
      batch: int,
      epochs: int,
      seed: int,
      mask_mode: str = 'correct',
      time: int | None = None,
  ):
    time = time or lengths.row_length(examples)
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
    examples: Sequence[chat.Example], *, batch: int, mask_mode: str = 'correct',
    time: int | None = None,
) -> Iterator[Batch]:
  """The examples once, in their order: for validation."""
  time = time or lengths.row_length(examples)
  for i in range(0, len(examples), batch):
    yield collate(examples[i: i + batch], batch, time, mask_mode=mask_mode)
