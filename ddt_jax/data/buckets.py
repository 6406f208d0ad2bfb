"""Texts of mixed lengths -> batches of few shapes with little padding."""

from collections.abc import Iterable, Iterator
import itertools
import math

from ddt_jax.data import batches
from ddt_jax.data import chat

SHORTEST = 16  # rows, and the multiple that all lengths are of


def padded_length(n: int) -> int:
  """The next of 16, 32, 48, 64, 96, 128, 192, ...: 16 sqrt(2)^k, rounded up.

  Rows of these lengths are few shapes to compile and carry little padding.
  """
  lengths = (
      SHORTEST * math.ceil(2 ** (k / 2)) for k in itertools.count())
  return next(length for length in lengths if length >= n)


def by_length(
    examples: Iterable[chat.Example], *, batch: int, ahead: int = 16,
    time: int | None = None, tokens: int = 0,
) -> Iterator[list[tuple[list[int], batches.Batch]]]:
  """The examples once, those of like length together: for scoring.

  No more is looked at than `ahead` batches at a time, whose examples are sorted,
  the longest first: what is left over for the last batch is short.

  Args:
    examples: may be a stream.
    batch: rows.
    ahead: batches that are put together.
    time: length of all rows, default each batch's own `padded_length`.
    tokens: of a batch with its padding; more rows than `batch`, a multiple of it,
      where they are short enough.

  Yields:
    For the next ahead * batch examples a list of (places, rows): row i of `rows`
    holds the example at places[i] among them; rows beyond are all padding.
  """
  stream = iter(examples)
  while window := list(itertools.islice(stream, ahead * batch)):
    order = sorted(
        range(len(window)), key=lambda i: len(window[i].tokens), reverse=True)
    yield [
        (places, batches.collate([window[i] for i in places], rows, length))
        for places, rows, length in _cuts(window, order, batch, time, tokens)
    ]


def _cuts(window, order, batch, time, tokens):
  """(places, rows, length) of batches of the examples in `order`."""
  while order:
    length = time or padded_length(len(window[order[0]].tokens) - 1)
    rows = max(tokens // length // batch, 1) * batch
    yield order[:rows], rows, length
    order = order[rows:]
