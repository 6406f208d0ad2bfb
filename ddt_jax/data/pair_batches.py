"""Pairs of responses -> batches, shuffled and resumable."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import struct
import jax
import numpy as np

from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import lengths


class PairExample(NamedTuple):
  """Two tokenised responses to one prompt.

  Attributes:
    chosen, rejected: the prompt and a response, which is supervised.
    reference: log-probabilities of both responses under the reference, nats,
      summed over their tokens.
  """

  chosen: chat.Example
  rejected: chat.Example
  reference: tuple[float, float]


@struct.dataclass
class PairBatch:
  """A batch of P pairs; index 0 of the second axis is the chosen side.

  Attributes:
    rows: all fields are [P, 2, T]; a pair of padding has an empty mask.
    reference: float32 [P, 2], see `PairExample`; 0 for padding.
  """

  rows: batches.Batch
  reference: Any

  def flat_rows(self) -> batches.Batch:
    """The same rows as [2 P, T]: each pair's chosen row, then its rejected row."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.rows)


def collate(pairs: Sequence[PairExample], count: int, time: int) -> PairBatch:
  """Pads and stacks pairs; missing ones are padding.

  Args:
    pairs: at most `count`, their sides of at most `time` + 1 tokens.
    count, time: P and T of the batch.
  """
  rows = batches.collate(sides(pairs), 2 * count, time)
  reference = np.zeros((count, 2), np.float32)
  for i, p in enumerate(pairs):
    reference[i] = p.reference
  return PairBatch(
      jax.tree.map(lambda x: x.reshape(count, 2, time), rows), reference)


def abstract(count: int, time: int, where: jax.sharding.Sharding) -> PairBatch:
  """Shapes and dtypes of a batch, for compiling; see `collate`."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      collate([], count, time))


def sides(pairs: Sequence[PairExample]) -> list[chat.Example]:
  """The chosen and the rejected side of each pair, in turn."""
  return [side for p in pairs for side in (p.chosen, p.rejected)]


class Stream(batches.Resumable):
  """Shuffled batches of pairs over some epochs; see `batches.Stream`."""

  def __init__(
      self, pairs: Sequence[PairExample], *, batch: int, epochs: int, seed: int):
    """Opens a stream at its beginning.

    Args:
      pairs: all of them, in memory.
      batch: pairs of the global batch.
      epochs: passes over the pairs.
      seed: of the order.
    """
    time = lengths.row_length(sides(pairs))
    super().__init__(batches.shuffled(
        pairs, batch=batch, epochs=epochs, seed=seed,
        batch_fn=lambda some: collate(some, batch, time)))
