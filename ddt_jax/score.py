"""Token statistics of a corpus, by the training forward."""

from collections.abc import Iterable, Iterator, Sequence
import functools
from typing import Any

import jax
import numpy as np

from ddt_jax import batches
from ddt_jax import buckets
from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import processes
from ddt_jax import vocab_head


@functools.partial(jax.jit, static_argnames=('config', 'mesh'))
def _stats(params, config, mesh, batch):
  hidden, _ = model.forward(
      params, config, batch.tokens, positions=batch.positions,
      return_hidden=True, mesh=mesh,
  )
  return vocab_head.supervised_stats(
      hidden, model.head(params), batch.targets, batch.mask, mesh=mesh)


def token_stats(
    params: Any,
    config: model.ModelConfig,
    examples: Iterable[batches.Example],
    *,
    batch: int,
    mesh: jax.sharding.Mesh,
    time: int | None = None,
) -> Iterator[ddt.TokenStats]:
  """Statistics of the supervised tokens of each example, in order.

  Examples of like length are scored together, whatever their order, and of a
  stream no more is held than `buckets.by_length` looks ahead.

  Args:
    params, config: the model.
    examples: tokenised.
    batch: rows scored together.
    mesh: the rows are spread over it.
    time: length of the rows, default as long as those of a batch need.

  Yields:
    TokenStats of numpy arrays [supervised tokens].
  """
  for window in buckets.by_length(examples, batch=batch, time=time):
    found = {}
    for places, rows in window:
      stats = _stats(params, config, mesh, batches.place(rows, mesh))
      stats = jax.tree.map(processes.to_host, stats)
      for i, place in enumerate(places):
        if (where := rows.mask[i] > 0).any():
          found[place] = stats.map(lambda x, i=i, where=where: x[i, where])
    for place in sorted(found):
      yield found[place]


def describe(
    stats: Sequence[ddt.TokenStats], *, name: str, **loss: Any
) -> dict[str, Any]:
  """A corpus in numbers: `objectives.summarise`, and the histogram of phi.

  Args:
    stats: of each example.
    name, **loss: the objective, for the mean weight.

  Returns:
    {nll, phi, ..., examples, histogram: {edges, counts}}, JSON-able.
  """
  tokens = jax.tree.map(lambda *x: np.concatenate(x), *stats)
  _, _, sums = objectives.token_loss(
      name, tokens, np.ones_like(tokens.log_p), **loss
  )
  return objectives.summarise(sums) | {
      'examples': len(stats),
      'histogram': {
          'edges': objectives.PHI_EDGES.tolist(),
          'counts': np.asarray(sums['phi_histogram']).tolist(),
      },
  }


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
  """Two `describe`s of one corpus side by side, for the report."""
  pair = {'before': dict(before), 'after': dict(after)}
  histograms = {name: d.pop('histogram') for name, d in pair.items()}
  counts = {name: h['counts'] for name, h in histograms.items()}
  return pair | {
      'histogram': {'edges': histograms['before']['edges'], **counts}
  }


def heat_map(
    tokenizer: Any,
    example: batches.Example,
    phi_before: Sequence[float],
    phi_after: Sequence[float],
) -> dict[str, Any]:
  """An example text with the phi of each supervised token, for the report."""
  prompt, response = (
      example.tokens[example.supervised == flag] for flag in (False, True)
  )
  return {
      'title': 'A reference solution from the training data',
      'prompt': tokenizer.decode(prompt, skip_special_tokens=True),
      'tokens': [tokenizer.decode([t]) for t in response],
      'phi_before': list(phi_before),
      'phi_after': list(phi_after),
  }
