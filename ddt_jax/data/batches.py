"""Examples -> batches: shuffled and resumable for training, in order otherwise."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import struct
import grain
import jax
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import chat
from ddt_jax.data import lengths

MASK_MODES = ('correct', 'official')


@struct.dataclass
class Batch:
  """Inputs and targets of next-token prediction, all [B, T].

  Attributes:
    tokens: int32, the inputs.
    targets: int32; targets[b, t] is the token after tokens[b, t].
    mask: float32, 1 where the target is supervised.
    positions: int32 from 0 in each row; -1 (`model.PADDING`) at padding.
    segment_ids: int32, which example of a packed row a token belongs to; None if
      each row holds one example.
  """

  tokens: Any
  targets: Any
  mask: Any
  positions: Any
  segment_ids: Any = None


def collate(
    examples: Sequence[chat.Example],
    rows: int,
    time: int,
    *,
    mask_mode: str = 'correct',
) -> Batch:
  """Pads examples on the right and stacks them; missing rows are padding.

  Args:
    examples: at most `rows`, each of at most `time` + 1 tokens.
    rows, time: shape of the batch.
    mask_mode: 'correct', or 'official': the mask is one target too early, as in
      the paper's trainer, which trains the prompt's last token and never the end
      of the turn. For comparison only.

  Raises:
    errors.InputError: no such mask_mode.
  """
  # Checked before any row, since `collate([], 1, 1)` is how a config's option is
  # tried.
  if mask_mode not in MASK_MODES:
    raise errors.no_choice('train.mask_mode', mask_mode, MASK_MODES)
  tokens = np.zeros((rows, time), np.int32)
  targets = np.zeros((rows, time), np.int32)
  mask = np.zeros((rows, time), np.float32)
  positions = np.full((rows, time), model.PADDING, np.int32)
  for row, e in enumerate(examples):
    # The first token has no predecessor, so it is never a target.
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
  """Host arrays -> global arrays, their rows sharded over data and fsdp.

  Every process holds the whole batch and passes the rows of its own devices.
  """
  where = sharding.batch_sharding(mesh)
  return jax.tree.map(
      lambda x: jax.make_array_from_callback(x.shape, where, lambda i: x[i]),
      batch,
  )


def steps(examples: int, batch: int, epochs: int) -> int:
  """Optimizer steps in `epochs` passes; the last batch may be partly padding."""
  return -(-examples * epochs // batch)


def padding_share(examples: Sequence[chat.Example]) -> float:
  """Returns the share of padding where each row holds one example, in [0, 1]."""
  filled = sum(len(e.tokens) - 1 for e in examples)
  return 1 - filled / (len(examples) * lengths.row_length(examples))


class Resumable(Iterator[Batch]):
  """Batches of a Grain data set, whose position can be saved and set."""

  def __init__(self, dataset: grain.MapDataset):
    self._iterator = iter(dataset.to_iter_dataset())

  def __next__(self) -> Batch:
    return next(self._iterator)

  def draw_if_due(self, params: Any) -> None:
    """Does nothing: these batches are given. `own_rows.OwnRows` draws its own."""

  def get_state(self) -> dict[str, Any]:
    """Position in the stream, JSON-able; it is saved with every checkpoint."""
    return self._iterator.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues where a stream with the same arguments returned this state."""
    self._iterator.set_state(state)


def shuffled(
    examples: Sequence[Any], *, batch: int, epochs: int, seed: int,
    batch_fn: Callable[[Sequence[Any]], Any],
) -> grain.MapDataset:
  """The data set of `Stream`, for examples of any kind.

  Args:
    examples, batch, epochs, seed: see `Stream`.
    batch_fn: at most `batch` examples -> a batch.
  """
  # Shuffle before repeat: Grain then draws another order for each epoch. Batching
  # after repeat lets a batch span two epochs.
  return (
      grain.MapDataset.source(examples).shuffle(seed=seed).repeat(epochs)
      .batch(batch, batch_fn=batch_fn))


class Stream(Resumable):
  """Shuffled batches over some epochs; resumable in the middle of an epoch.

  Every epoch has another order. A batch may span two epochs. The last batch is
  filled up with padding rows, so that every example is seen `epochs` times.
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
    """Opens a stream at its beginning.

    Args:
      examples: all of them, in memory.
      batch: rows of the global batch.
      epochs: passes over the examples.
      seed: of the order.
      mask_mode: see `collate`.
      time: length of rows; by default that of the longest example, rounded up.
    """
    time = time or lengths.row_length(examples)
    super().__init__(shuffled(
        examples, batch=batch, epochs=epochs, seed=seed,
        batch_fn=lambda rows: collate(rows, batch, time, mask_mode=mask_mode)))


def in_order(
    examples: Sequence[chat.Example], *, batch: int, mask_mode: str = 'correct',
    time: int | None = None,
) -> Iterator[Batch]:
  """Yields the examples once, in the given order, for validation.

  Args:
    examples, batch, mask_mode, time: see `Stream`.
  """
  time = time or lengths.row_length(examples)
  for i in range(0, len(examples), batch):
    yield collate(examples[i: i + batch], batch, time, mask_mode=mask_mode)
