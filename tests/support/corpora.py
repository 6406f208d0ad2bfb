"""Numbers of scored corpora, made by the library from drawn statistics."""

import dataclasses

import numpy as np

from ddt_jax import ddt
from ddt_jax import significance
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import response_scores
from ddt_jax.scoring import token_sums


def summary(n=400, seed=0, shift=0.0, **changed):
  """A corpus of n responses; fields that are given are replaced.

  Args:
    shift: added to the phi of every token, nats.
  """
  rng = np.random.default_rng(seed)
  lengths = rng.integers(5, 20, n)
  tokens = int(lengths.sum())
  log_p = (shift - rng.exponential(size=tokens)).astype(np.float32)
  stats = ddt.TokenStats(
      log_p=log_p, entropy=rng.random(tokens).astype(np.float32),
      varentropy=rng.random(tokens).astype(np.float32))
  pit = rng.random(tokens)
  columns = response_scores.per_response(stats, lengths, pit)
  columns['rejected'] = significance.false_discoveries(columns['pit_p_value'])
  sums = token_sums.TokenSums.of(stats.phi, lengths, pit)
  found = corpus_summary.CorpusSummary(
      **vars(corpus_summary.numbers(columns, sums)), rows=n + 2, split=0, skipped=2,
      truncated=1, sources={}, filters=corpus_summary.parts(columns),
      reasons={"'solution' is empty": 2})
  return dataclasses.replace(found, **changed)
