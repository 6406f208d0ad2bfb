"""Token statistics of texts, by the forward pass that training uses."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import itertools
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import vocab_head
from ddt_jax.data import batches
from ddt_jax.data import buckets
from ddt_jax.data import chat
from ddt_jax.data import packing

Item = TypeVar('Item')


@functools.partial(jax.jit, static_argnames=(
    'config', 'mesh', 'temperature', 'tail', 'top_k'))
def batch_stats(
    params: Any, config: model.ModelConfig, mesh: jax.sharding.Mesh,
    batch: batches.Batch, **options: Any
) -> ddt.TokenStats:
  """TokenStats [B, T] of a batch; 0 where a target is not supervised.

  `**options` are those of `vocab_head.supervised_stats`.
  """
  hidden, _ = model.forward(
      params, config, batch.tokens, positions=batch.positions,
      segment_ids=batch.segment_ids, return_hidden=True, mesh=mesh,
  )
  return vocab_head.supervised_stats(
      hidden, model.head(params), batch.targets, batch.mask, mesh=mesh,
      **options)


def memory(
    params: Any, config: model.ModelConfig, mesh: jax.sharding.Mesh, *, rows: int,
    time: int, **options: Any
) -> int:
  """Bytes that `batch_stats` takes on each device beside the parameters.

  The compiler says so; no batch is computed.

  Args:
    params, config, mesh, **options: see `batch_stats`.
    rows, time: shape of the batch.
  """
  where = sharding.batch_sharding(mesh)

  def shaped(x):
    return jax.ShapeDtypeStruct((rows, time), x.dtype, sharding=where)

  batch = jax.tree.map(shaped, batches.collate([], 1, 1))
  found = batch_stats.lower(
      params, config, mesh, batch, **options).compile().memory_analysis()
  return found.temp_size_in_bytes + found.output_size_in_bytes


class Pending(NamedTuple):
  """Examples that the device is scoring.

  Attributes:
    batches: one (examples of each row, owners, TokenStats) a batch. An entry of the
      first is an index, or several of a packed row. owners [B, T] is 0 where a
      target is not supervised, otherwise the place in its row, from 1, of the
      example that it belongs to.
    examples: their number.
  """

  batches: list[tuple[list[int] | list[list[int]], np.ndarray, ddt.TokenStats]]
  examples: int

  def collect(
      self, after: Callable[[], None] = lambda: None
  ) -> tuple[np.ndarray, ddt.TokenStats]:
    """Waits for the device and puts the examples in order again.

    Args:
      after: called after each batch; may raise to end the call.

    Returns:
      lengths: [examples], supervised tokens of each.
      stats: TokenStats of NumPy arrays [sum of lengths], one example after the
        other.
    """
    indices, counts, parts = [], [], []
    for rows, owners, stats in self.batches:
      stats = jax.tree.map(processes.to_host, stats)
      parts.append(stats.map(lambda x, owners=owners: x[owners > 0]))
      for row, own in zip(rows, owners.astype(int), strict=False):  # or padding
        group = row if isinstance(row, list) else [row]
        indices += group
        counts += np.bincount(own, minlength=len(group) + 1)[1:].tolist()
      after()
    lengths = np.zeros(self.examples, np.int64)
    lengths[indices] = counts
    # Position of each token in the batches' order, in the examples' order.
    starts = np.zeros(self.examples, np.int64)
    starts[indices] = np.cumsum(counts) - counts
    ends = np.cumsum(lengths)
    take = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return lengths, jax.tree.map(lambda *x: np.concatenate(x)[take], *parts)


def dispatch(
    params: Any,
    config: model.ModelConfig,
    examples: Sequence[chat.Example],
    *,
    batch: int,
    mesh: jax.sharding.Mesh,
    time: int | None = None,
    tokens: int = 0,
    pack: bool = False,
    temperature: float = 1.0,
    tail: bool = False,
    top_k: int = 0,
) -> Pending:
  """Starts scoring examples and returns without waiting for the device.

  Args:
    params, config: the model.
    examples: at least one.
    batch: rows scored together, at least.
    mesh: the rows are sharded over it.
    time, tokens: size of the batches, see `buckets.by_length`.
    pack: several examples in a row, see `packing`. Pays where rows have one length.
    temperature, tail, top_k: see `ddt.token_stats`.
  """
  if pack:
    window = _packed(examples, batch, time)
  else:
    # A window as large as all examples: they are sorted together.
    (window,) = buckets.by_length(
        examples, batch=batch, ahead=-(-len(examples) // batch), time=time,
        tokens=tokens)
  return Pending([
      (rows, _owners(placed), batch_stats(
          params, config, mesh, batches.place(placed, mesh),
          temperature=temperature, tail=tail, top_k=top_k,
      )) for rows, placed in window
  ], len(examples))


def _packed(examples, batch, time):
  """Yields (indices of the examples of each row, batch of packed rows)."""
  inputs = packing.inputs_of(examples)
  time = time or buckets.padded_length(max(inputs))
  planned = packing.plan(inputs, time)
  for first in range(0, len(planned), batch):
    groups = planned[first:first + batch]
    yield groups, packing.collate(
        [[examples[i] for i in group] for group in groups], batch, time)


def _owners(batch: batches.Batch) -> np.ndarray:
  """See `Pending`."""
  return batch.mask if batch.segment_ids is None else batch.mask * batch.segment_ids


def one_late(items: Iterable[Item]) -> Iterator[Item]:
  """Yields each item after the next one was made.

  So the device computes the next while the host handles this one.

  Example:
    >>> list(one_late([1, 2]))
    [1, 2]
  """
  last = []
  for item in items:
    yield from last
    last = [item]
  yield from last


def split(
    lengths: Sequence[int], stats: ddt.TokenStats
) -> list[ddt.TokenStats]:
  """Statistics of each example, from those of all one after the other.

  Args:
    lengths: [examples], tokens of each.
    stats: TokenStats of [sum of lengths].
  """
  return [
      stats.map(lambda x, n=n, end=end: x[end - n:end])
      for n, end in zip(lengths, np.cumsum(lengths), strict=True)
  ]


def token_stats(
    params: Any,
    config: model.ModelConfig,
    examples: Iterable[chat.Example],
    *,
    batch: int,
    mesh: jax.sharding.Mesh,
    ahead: int = 16,
    after: Callable[[], None] = lambda: None,
    **options: Any,
) -> Iterator[ddt.TokenStats]:
  """Statistics of the supervised tokens of each example, in order.

  Examples of similar length are scored together. Of a stream at most
  2 * ahead * batch examples are held in memory.

  Args:
    params, config: the model.
    examples: tokenised; those without supervised tokens are left out.
    batch: rows scored together, at least.
    mesh: the rows are sharded over it.
    ahead: batches that are sorted by length together.
    after: called after each batch; may raise to end the call.
    **options: time, tokens, pack, temperature, tail, top_k of `dispatch`.

  Yields:
    TokenStats of NumPy arrays [supervised tokens].
  """
  stream = iter(examples)
  # iter(f, []) calls f until it returns an empty list.
  windows = iter(lambda: list(itertools.islice(stream, ahead * batch)), [])
  # JAX dispatches asynchronously: the next window is on the device before this one
  # is waited for.
  for pending in one_late(
      dispatch(params, config, window, batch=batch, mesh=mesh, **options)
      for window in windows
  ):
    lengths, stats = pending.collect(after)
    for n, example in zip(lengths, split(lengths, stats), strict=True):
      if n:
        yield example
