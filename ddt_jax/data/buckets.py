"""Batches for scoring: few shapes to compile, and little padding.

Each shape of a batch is compiled once, so lengths are rounded up to a coarse grid.
Examples of similar lengths share a batch, so that rounding and padding waste
little work.
"""

from collections.abc import Iterable, Iterator
import itertools
import math

from ddt_jax.data import batches
from ddt_jax.data import chat

SHORTEST = 16  # tokens: the shortest row; all lengths are multiples of it


def padded_length(n: int) -> int:
  r"""Rounds n up to one of 16, 32, 48, 64, 96, 128, 192, ...

  .. math:: 16 \lceil 2^{k/2} \rceil, \qquad k = 0, 1, 2, ...

  Two lengths an octave: beyond 32 tokens the result is at most 1.5 n.

  Example:
    >>> [padded_length(n) for n in (1, 17, 33, 100)]
    [16, 32, 48, 128]
  """
  lengths = (
      SHORTEST * math.ceil(2 ** (k / 2)) for k in itertools.count())
  return next(length for length in lengths if length >= n)


def by_length(
    examples: Iterable[chat.Example], *, batch: int, ahead: int = 16,
    time: int | None = None, tokens: int = 0,
) -> Iterator[list[tuple[list[int], batches.Batch]]]:
  """Groups examples of similar length into batches, each example once.

  Takes a window of `ahead * batch` examples at a time and sorts it by length, the
  longest first. A batch that stays partly empty then has the shortest rows.

  Args:
    examples: may be a stream; one window of it is held in memory.
    batch: rows of a batch.
    ahead: batches in a window.
    time: length of all rows; by default each batch has the `padded_length` of its
      longest example.
    tokens: size of a batch, padding included. Where rows are short, a batch gets
      more rows, a multiple of `batch`, up to this size.

  Yields:
    For each window a list of (indices, rows). Row i of the batch `rows` is the
    window's example indices[i]; the rows after the last index are padding.
  """
  stream = iter(examples)
  while window := list(itertools.islice(stream, ahead * batch)):
    order = sorted(
        range(len(window)), key=lambda i: len(window[i].tokens), reverse=True)
    yield [
        (indices, batches.collate([window[i] for i in indices], rows, length))
        for indices, rows, length in _groups(window, order, batch, time, tokens)
    ]


def _groups(window, order, batch, time, tokens):
  """Yields (indices, rows, length) of batches that take examples in `order`."""
  while order:
    # One less: inputs are all tokens but the last.
    length = time or padded_length(len(window[order[0]].tokens) - 1)
    # Multiples of `batch`, so that the rows divide by the devices of the mesh.
    rows = max(tokens // length // batch, 1) * batch
    yield order[:rows], rows, length
    order = order[rows:]
