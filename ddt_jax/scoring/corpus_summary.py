"""Scored corpora in numbers, and which of their responses to show."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import re

import numpy as np

from ddt_jax import significance
from ddt_jax.scoring import filters
from ddt_jax.scoring import response_scores
from ddt_jax.scoring import scored_corpus
from ddt_jax.scoring import text_stats
from ddt_jax.scoring import token_sums

COLUMNS = (
    'length', 'phi', 'phi_sum', 'log_p_sum', 'perplexity', 'varentropy_sum',
    'tail_1', 'tail_3', 'tail_5', 'z', 'p_value', 'pit_p_value', 'rejected',
)
# Nats, of the bins of responses by phi; each is a multiple of the one before.
_WIDTHS, _BINS = (0.02, 0.1, 0.2, 1.0, 2.0), 70
_SOURCES = 20  # that get numbers of their own, the largest
_REASONS = 10  # for left-out rows that are listed, the most frequent

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Filter:
  """Part of a corpus that a rule would keep.

  Attributes:
    responses, tokens: shares kept.
    phi: mean of the kept tokens, nats; None without any.
  """

  responses: float
  tokens: float
  phi: float | None


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Responses and their tokens under one model.

  Attributes:
    responses, tokens: how many.
    length: mean tokens of a response.
    phi, phi_se: mean over tokens and its standard error over responses, nats.
    nll: mean over tokens, nats; perplexity is exp(nll).
    tail_1, tail_3, tail_5: share of tokens with phi below -1, -3, -5.
    rejected: share of responses that the PIT test rejects at 5 % false
      discoveries.
    rejected_z: the same by the z-test.
    z_mean, z_variance: over responses; None without any.
    pit: Kolmogorov-Smirnov test of the tokens' PIT.
    lowest: '1 %' and '5 %' -> share of -sum phi from that part of the tokens
      with the lowest phi; None where phi is not clearly below 0.
    tenths: mean phi in each tenth of a response, nats.
    token_phi, response_phi: histograms.
    z_quantiles: quantiles of the standard normal, and of z.
    pit_histogram: tokens in 20 bins of u.
  """

  responses: int
  tokens: int
  length: float
  phi: float
  phi_se: float
  nll: float
  perplexity: float
  tail_1: float
  tail_3: float
  tail_5: float
  rejected: float
  rejected_z: float
  z_mean: float | None
  z_variance: float | None
  pit: significance.KolmogorovSmirnov
  lowest: dict[str, float | None]
  tenths: tuple[float, ...]
  token_phi: text_stats.Histogram
  response_phi: text_stats.Histogram
  z_quantiles: tuple[tuple[float, ...], ...]
  pit_histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class CorpusSummary(Numbers):
  """Numbers of a whole corpus.

  Attributes:
    rows: lines of the input.
    split: conversations split by turns, each of which gives several responses.
    skipped, truncated: responses not scored, and those cut.
    filters: name -> the part that it would keep, see `filters.ABOUT`.
    reasons: why rows were skipped -> how many.
    sources: numbers by source, the largest first; empty for one source.
  """

  rows: int
  split: int
  skipped: int
  truncated: int
  filters: dict[str, Filter]
  reasons: dict[str, int]
  sources: dict[str, Numbers]


@dataclasses.dataclass(frozen=True)
class ScoresSummary:
  """summary.json: all scored corpora.

  Attributes:
    model, temperature: that they were scored by and at.
    parameters: of the model.
    own: name of the corpus of own samples, '' without one.
    corpora: by name.
    auroc: corpus -> score -> AUROC of own samples against it.
    files: corpus -> its file, as the user named it.
    options: by which the files are read, as they are typed.
  """

  model: str
  parameters: int
  temperature: float
  own: str
  corpora: dict[str, CorpusSummary]
  auroc: dict[str, dict[str, float]]
  files: dict[str, str] = dataclasses.field(default_factory=dict)
  options: tuple[str, ...] = ()


def summarise(
    corpora: Mapping[str, scored_corpus.ScoredCorpus], *, model: str,
    parameters: int, temperature: float, own: str = '', source: str = '',
    options: Sequence[str] = (),
) -> ScoresSummary:
  """Numbers of all corpora.

  Args:
    corpora: by name, scored and ranked.
    model, parameters, temperature, own, options: see `ScoresSummary`.
    source: column of the rows that names their source, '' for none.
  """
  return ScoresSummary(
      model=model, parameters=parameters, temperature=temperature, own=own,
      corpora={
          name: describe(corpus, source) for name, corpus in corpora.items()},
      auroc=compare(corpora, own) if own else {},
      files={name: corpus.source.name for name, corpus in corpora.items()
             if name != own}, options=tuple(options))


def describe(
    corpus: scored_corpus.ScoredCorpus, source: str = ''
) -> CorpusSummary:
  """Numbers of a corpus; all of it must be scored and ranked.

  Args:
    corpus: read one part after the other.
    source: column of the rows that names their source, '' for none.
  """
  columns = corpus.columns(*COLUMNS)
  own = [source] if source and source in corpus.source.types else []
  # One pass over the token columns, part by part: the tokens of a corpus may not
  # fit in memory.
  labels, sums = [], {}
  for part in corpus.tables(('length', 'token_phi', 'token_pit'), own):
    names = [''] * len(part)
    if own:
      names = [str(x) for x in part[source].to_pylist()]
    labels += names
    _add(sums, part, names, corpus.prefix)
  labels = np.array(labels, object)
  total = sum(sums.values(), token_sums.TokenSums.of([], [], []))
  by_size = sorted(sums, key=lambda name: -sums[name].tokens)
  reasons = [reason for _, reason in corpus.skipped()]
  return CorpusSummary(
      **vars(numbers(columns, total)),
      rows=corpus.source.count, split=corpus.split(), skipped=len(reasons),
      truncated=corpus.truncated(), filters=parts(columns),
      reasons=_counted(reasons),
      sources={
          name: numbers(
              {k: x[labels == name] for k, x in columns.items()}, sums[name])
          for name in by_size[:_SOURCES] if len(sums) > 1
      })


def compare(
    corpora: Mapping[str, scored_corpus.ScoredCorpus], own: str
) -> dict[str, dict[str, float]]:
  """AUROC of each score for the samples `own` against each other corpus."""
  columns = {
      name: corpus.columns('phi', 'log_p_sum', 'perplexity', 'z')
      for name, corpus in corpora.items()
  }
  return {
      name: response_scores.separation(x, columns[own])
      for name, x in columns.items() if name != own and len(x['phi'])
  }


def numbers(columns: Columns, sums: token_sums.TokenSums) -> Numbers:
  """Numbers of some responses and of their tokens.

  Args:
    columns: `COLUMNS`, each [responses].
    sums: over their tokens.
  """
  n, tokens = len(columns['phi']), max(int(columns['length'].sum()), 1)
  phi = float(columns['phi_sum'].sum() / tokens)
  # Tokens of a response depend on each other; responses do not.
  residuals = columns['phi_sum'] - phi * columns['length']
  phi_se = float(np.sqrt(np.sum(residuals**2)) / tokens)
  nll = -float(columns['log_p_sum'].sum() / tokens)
  rejected_z = significance.false_discoveries(columns['p_value'])
  return Numbers(
      responses=n, tokens=int(columns['length'].sum()), length=tokens / max(n, 1),
      phi=phi, phi_se=phi_se, nll=nll,
      perplexity=float(np.exp(min(nll, 700.0))),  # exp(710) overflows float64
      **{f'tail_{k}': float(
          np.sum(columns[f'tail_{k}'] * columns['length']) / tokens)
         for k in response_scores.TAILS},
      rejected=float(np.mean(columns['rejected'])) if n else 0.0,
      rejected_z=float(np.mean(rejected_z)) if n else 0.0,
      z_mean=float(np.mean(columns['z'])) if n else None,
      z_variance=float(np.var(columns['z'])) if n else None,
      pit=sums.pit_test(),
      lowest={
          # A share of a sum near 0 would be noise.
          name: sums.share_from_lowest(share) if phi < -2 * phi_se else None
          for name, share in (('1 %', 0.01), ('5 %', 0.05))
      },
      tenths=tuple(sums.tenths()),
      token_phi=_coarse(sums),
      response_phi=_histogram(columns['phi']),
      z_quantiles=tuple(
          tuple(x.tolist()) for x in significance.normal_quantiles(columns['z'])),
      pit_histogram=tuple(sums.pit.reshape(20, -1).sum(1).tolist()),
  )


def parts(columns: Columns) -> dict[str, Filter]:
  """The part of a corpus that each filter would keep, by its name."""
  n = len(columns['phi'])
  tokens = max(columns['length'].sum(), 1)

  def part(kept):
    length = columns['length'][kept].sum()
    return Filter(
        responses=float(kept.sum() / max(n, 1)), tokens=float(length / tokens),
        phi=float(columns['phi_sum'][kept].sum() / length) if length else None)

  return {name: part(filters.rule(name, columns)) for name in filters.ABOUT}


def choose(phi: np.ndarray, count: int, seed: int) -> dict[str, list[int]]:
  """Indices of responses to show, a third of each kind.

  Args:
    phi: [responses], mean of each.
    count: number of indices in all.
    seed: of the draw.

  Returns:
    'worst': the lowest phi, in order of phi. 'typical': the closest to the
    median. 'drawn': a random sample of the others.
  """
  count = min(count, len(phi))
  order = np.argsort(phi, kind='stable')
  worst = order[:count // 3]
  rest = order[count // 3:]
  middle = np.median(phi) if len(phi) else 0.0
  near = rest[np.argsort(np.abs(phi[rest] - middle), kind='stable')]
  typical, others = near[:count // 3], near[count // 3:]
  drawn = np.random.default_rng(seed).permutation(others)
  drawn = drawn[:count - len(worst) - len(typical)]
  return {
      'worst': worst.tolist(), 'typical': typical.tolist(),
      'drawn': sorted(drawn.tolist()),
  }


def _add(sums, part, names, prefix) -> None:
  """Adds the tokens of one part of a corpus to the sums of their sources."""
  lengths = part[prefix + 'length'].to_numpy()
  phi, pit = (
      part[f'{prefix}token_{x}'].combine_chunks().flatten().to_numpy()
      for x in ('phi', 'pit'))
  for name in set(names):
    mine = np.array([n == name for n in names])
    each = np.repeat(mine, lengths)
    new = token_sums.TokenSums.of(phi[each], lengths[mine], pit[each])
    sums[name] = sums[name] + new if name in sums else new


def _coarse(sums: token_sums.TokenSums, width: int = 10) -> text_stats.Histogram:
  """Histogram of the tokens' phi in bins of 0.2 nats."""
  return text_stats.Histogram(
      tuple(sums.edges[::width].tolist()),
      tuple(sums.counts.reshape(-1, width).sum(1).tolist()))


def _histogram(x: np.ndarray) -> text_stats.Histogram:
  """Histogram over the whole range of x, in the finest of `_WIDTHS` that fits."""
  low, high = (float(np.min(x)), float(np.max(x))) if len(x) else (0.0, 0.0)
  width = next(
      (w for w in _WIDTHS if high - low <= (_BINS - 2) * w), _WIDTHS[-1])
  # Edges are multiples of the width, so that histograms of several corpora can be
  # drawn in the same bins.
  first, last = int(np.floor(low / width)), int(np.floor(high / width)) + 1
  bins = np.floor(np.asarray(x) / width).astype(np.int64) - first
  # Rounding may put the largest value one bin too far.
  counts = np.bincount(np.clip(bins, 0, last - first - 1), minlength=last - first)
  edges = np.round(width * np.arange(first, last + 1), 2)
  return text_stats.Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _counted(reasons: Sequence[str]) -> dict[str, int]:
  """The most frequent reasons, without the numbers in which they differ."""
  # "300 tokens, more than ..." is one reason, whatever the number.
  counts = collections.Counter(re.sub(r'\d+', 'N', reason) for reason in reasons)
  return dict(counts.most_common(_REASONS))
