"""Several examples in one row, so that little of a batch is padding.

Examples stay whole. In a row each has a segment id, from 1 on, and positions from
0 on; attention does not cross segments. The loss is a sum over supervised tokens
divided by their count, so packing changes it by rounding alone.

Rows are planned before the first step, from lengths alone: the number of steps is
then known, as schedules need, and a row can be built when its turn comes. (Grain's
packers fill rows as examples stream in, and know their number at the end.)
"""

import bisect
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax.data import batches
from ddt_jax.data import chat


def plan(
    lengths: Sequence[int], capacity: int, *, seed: int | None = None
) -> list[list[int]]:
  """Assigns examples to rows: best fit, the longest first.

  Each example goes to the fullest row that has room for it.

  Args:
    lengths: of the examples.
    capacity: of a row.
    seed: shuffles which of equally long examples meet, and the order of the rows;
      None keeps both as given.

  Returns:
    Indices of the examples in each row; every example is in exactly one.

  Raises:
    errors.InputError: an example is longer than a row.

  Example:
    >>> plan([3, 8, 5, 2], 8)
    [[1], [2, 0], [3]]
  """
  lengths = np.asarray(lengths)
  if len(lengths) and (longest := int(lengths.max())) > capacity:
    raise errors.InputError(
        f'an example of {longest + 1} tokens does not fit a row of {capacity}'
        ' inputs; raise data.max_tokens, or cut it (data.overlong)')
  rng = None if seed is None else np.random.default_rng(seed)
  order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
  order = order[np.argsort(-lengths[order], kind='stable')]
  rows: list[list[int]] = []
  # Rows by the room that is left, and the rooms in order for the search.
  by_room: dict[int, list[int]] = {}
  rooms: list[int] = []
  for i in order.tolist():
    length = int(lengths[i])
    at = bisect.bisect_left(rooms, length)
    if at == len(rooms):
      row, room = len(rows), capacity
      rows.append([])
    else:
      room = rooms[at]
      row = by_room[room].pop()
      if not by_room[room]:
        del by_room[room], rooms[at]
    rows[row].append(i)
    room -= length
    if room not in by_room:
      by_room[room] = []
      bisect.insort(rooms, room)
    by_room[room].append(row)
  if rng is not None:
    # Rows of long examples come first otherwise.
    rows = [rows[i] for i in rng.permutation(len(rows))]
  return rows


def padding_share(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], capacity: int
) -> float:
  """Returns the share of the rows' places that no example fills, in [0, 1]."""
  filled = sum(lengths[i] for row in rows for i in row)
  return 1 - filled / (capacity * len(rows)) if rows else 0.0


def inputs_of(examples: Sequence[chat.Example]) -> list[int]:
  """Returns how many places of a row each example takes."""
  # The last token is a target alone.
  return [len(e.tokens) - 1 for e in examples]


def collate(
    groups: Sequence[Sequence[chat.Example]],
    rows: int,
    time: int,
    *,
    mask_mode: str = 'correct',
) -> batches.Batch:
  """Puts groups of examples side by side into rows; missing rows are padding.

  Args:
    groups: at most `rows`, each of at most `time` inputs together.
    rows, time: shape of the batch; `time` counts inputs.
    mask_mode: see `batches.collate`.
  """
  batch = batches.collate([], rows, time)
  positions = np.full((rows, time), model.PADDING, np.int32)
  segments = np.zeros((rows, time), np.int32)
  for row, group in enumerate(groups):
    start = 0
    for segment, example in enumerate(group, 1):
      n = len(example.tokens) - 1
      alone = batches.collate([example], 1, n, mask_mode=mask_mode)
      place = slice(start, start + n)
      for field in ('tokens', 'targets', 'mask'):
        getattr(batch, field)[row, place] = getattr(alone, field)[0]
      positions[row, place] = alone.positions[0]
      segments[row, place] = segment
      start += n
  return batch.replace(positions=positions, segment_ids=segments)


def pack(
    examples: Sequence[chat.Example], *, rows: int, time: int,
    seed: int | None = None, mask_mode: str = 'correct',
) -> Iterator[batches.Batch]:
  """Yields all examples once, in packed batches.

  Args:
    examples: each of at most `time` + 1 tokens.
    rows, time: shape of a batch; `time` counts inputs. The last batch is filled
      up with padding.
    seed: see `plan`.
    mask_mode: see `batches.collate`.

  Raises:
    errors.InputError: an example is longer than a row.
  """
  planned = plan(inputs_of(examples), time, seed=seed)
  for first in range(0, len(planned), rows):
    yield collate(
        [[examples[i] for i in row] for row in planned[first: first + rows]],
        rows, time, mask_mode=mask_mode)


class Stream(batches.Resumable):
  """Shuffled packed batches over some epochs; resumable like `batches.Stream`.

  Every epoch packs anew. A batch may span two epochs, a row may not.

  Attributes:
    steps: batches of the whole stream.
    padding: share of the places of its rows that no example fills.
  """

  def __init__(
      self,
      examples: Sequence[chat.Example],
      *,
      batch: int,
      epochs: int,
      seed: int,
      time: int,
      mask_mode: str = 'correct',
  ):
    """Plans all rows, and opens the stream at its beginning.

    Args:
      examples: all of them, in memory.
      batch: rows of the global batch.
      epochs: passes over the examples.
      seed: of the order and of the packing.
      time: inputs of a row.
      mask_mode: see `batches.collate`.

    Raises:
      errors.InputError: an example is longer than a row.
    """
    lengths = inputs_of(examples)
    seeds = np.random.SeedSequence(seed).generate_state(epochs)
    planned = [
        row for one in seeds for row in plan(lengths, time, seed=int(one))]
    self.padding = padding_share(planned, lengths, time)
    self.steps = -(-len(planned) // batch)

    def build(rows):
      return collate(
          [[examples[i] for i in row] for row in rows], batch, time,
          mask_mode=mask_mode)

    super().__init__(
        grain.MapDataset.source(planned).batch(batch, batch_fn=build))
