"""Token statistics of a corpus, by the training forward."""

from collections.abc import Iterable, Iterator, Sequence
import functools
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import vocab_head
from ddt_jax.data import batches
from ddt_jax.data import buckets
from ddt_jax.data import chat


@functools.partial(jax.jit, static_argnames=(
    'config', 'mesh', 'temperature', 'tail', 'top_k'))
def batch_stats(params, config, mesh, batch, **how):
  hidden, _ = model.forward(
      params, config, batch.tokens, positions=batch.positions,
      return_hidden=True, mesh=mesh,
  )
  return vocab_head.supervised_stats(
      hidden, model.head(params), batch.targets, batch.mask, mesh=mesh, **how)


class Pending(NamedTuple):
  """Examples whose statistics the device is working at.

  Attributes:
    batches: (places of its rows among the examples, mask, TokenStats) of each.
    examples: how many they are.
  """

  batches: list[tuple[list[int], np.ndarray, ddt.TokenStats]]
  examples: int

  def collect(self) -> tuple[np.ndarray, ddt.TokenStats]:
    """Waits for it: supervised tokens of each example, and their statistics.

    Returns:
      [examples] numbers of tokens, and TokenStats of numpy arrays [their sum], in
      the order of the examples.
    """
    places, counts, parts = [], [], []
    for where, mask, stats in self.batches:
      stats = jax.tree.map(processes.to_host, stats)
      parts.append(stats.map(lambda x, mask=mask: x[mask > 0]))
      places += where
      counts += (mask > 0).sum(1)[:len(where)].tolist()
    lengths = np.zeros(self.examples, np.int64)
    lengths[places] = counts
    # From the batches' order to the examples': which token comes from where.
    starts = np.zeros(self.examples, np.int64)
    starts[places] = np.cumsum(counts) - counts
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
    temperature: float = 1.0,
    tail: bool = False,
    top_k: int = 0,
) -> Pending:
  """Sets the device to work; at least one example. See `token_stats`."""
  (window,) = buckets.by_length(
      examples, batch=batch, ahead=-(-len(examples) // batch), time=time,
      tokens=tokens)
  return Pending([
      (places, rows.mask, batch_stats(
          params, config, mesh, batches.place(rows, mesh),
          temperature=temperature, tail=tail, top_k=top_k,
      )) for places, rows in window
  ], len(examples))


def one_behind(made: Iterable[Any]) -> Iterator[Any]:
  """Each item once the next is made: the device works while the host does."""
  last = []
  for item in made:
    yield from last
    last = [item]
  yield from last


def token_stats(
    params: Any,
    config: model.ModelConfig,
    examples: Iterable[chat.Example],
    *,
    batch: int,
    mesh: jax.sharding.Mesh,
    ahead: int = 16,
    **how: Any,
) -> Iterator[ddt.TokenStats]:
  """Statistics of the supervised tokens of each example, in order.

  Examples of like length are scored together, whatever their order; of a stream
  no more is held than twice ahead * batch.

  Args:
    params, config: the model.
    examples: tokenised; those without supervised tokens are left out.
    batch: rows scored together.
    mesh: the rows are spread over it.
    ahead: batches that are put together.
    **how: time, tokens: of the batches, see `buckets.by_length`; temperature,
      tail, top_k: see `ddt.token_stats`.

  Yields:
    TokenStats of numpy arrays [supervised tokens].
  """
  stream = iter(examples)
  windows = iter(lambda: list(itertools.islice(stream, ahead * batch)), [])
  for pending in one_behind(
      dispatch(params, config, window, batch=batch, mesh=mesh, **how)
      for window in windows
  ):
    lengths, stats = pending.collect()
    for n, end in zip(lengths, np.cumsum(lengths), strict=True):
      if n:
        yield stats.map(lambda x, n=n, end=end: x[end - n:end])
