"""A scored corpus in numbers and in words: how far off-policy, and what to do.

Numbers are JSON-able; tables are `run_words.Table`s, for the terminal, for
Markdown and for the page.
"""

import collections
from collections.abc import Mapping, Sequence
import re
from typing import Any

import numpy as np

from ddt_jax.report import run_words
from ddt_jax.scoring import corpus_stats
from ddt_jax.scoring import store

Table = run_words.Table

# Mean phi of a model's rewriting of its data: by the paper's authors below the
# one for plain self-distillation, about the other for Hinted Decoding.
DISTILLED, HINTED = -0.1, -0.05
COLUMNS = (
    'length', 'phi', 'phi_sum', 'log_p_sum', 'perplexity', 'varentropy_sum',
    'tail_1', 'tail_3', 'tail_5', 'z', 'p_value', 'pit_p_value', 'rejected',
)
_SOURCES = 20  # told apart, the largest; the others are taken together

NOTES = (
    'phi measures fit, not correctness: a wrong answer in the model\'s own words'
    ' scores well. A text that is more deterministic than the model can score above'
    ' 0. z is nearly normal only where the varentropy of a text sums to'
    f' {corpus_stats.ENOUGH_VARENTROPY:g} nats^2 or more; rejections are by the test'
    ' on the probability integral transform (PIT), which holds for short texts too.'
)
REMEDIES = {
    'none': 'train on it as it is (SFT): the model could have written it',
    'deterministic': (
        'train on it as it is, with care: it is likelier than the model\'s own'
        ' samples, as texts drawn at a low temperature are; training narrows the'
        ' model'),
    'mask': (
        'a mask first (loss.name=phi_mask, or the filter below): a few tokens that'
        ' the model would not write carry the difference'),
    'idft': (
        'IDFT first: the difference sits in few tokens, which it weighs down'),
    'hinted': (
        'Hinted Decoding first: the difference is spread over the texts, which are'
        ' better rewritten than re-weighted'),
}


def describe(shards: store.Shards, source: str = '') -> dict[str, Any]:
  """A corpus in numbers.

  Args:
    shards: all there and ranked.
    source: the rows' own column to tell apart by, '' for none.

  Returns:
    JSON-able: of rows, tokens and responses; `sources` likewise, by name.
  """
  columns = shards.columns(*COLUMNS)
  own = [source] if source and source in shards.source.types else []
  labels, sums = [], {}
  for table in shards.tables(('length', 'token_phi', 'token_pit'), own):
    names = [''] * len(table)
    if own:
      names = [str(x) for x in table[source].to_pylist()]
    labels += names
    _add(sums, table, names, shards.prefix)
  labels = np.array(labels, object)
  total = sum(sums.values(), corpus_stats.TokenSums.of([], [], []))
  result = numbers(columns, total) | {
      'rows': shards.source.count, 'skipped': sum(1 for _ in shards.skipped()),
      'truncated': shards.truncated(), 'filters': filters(columns),
      'reasons': _reasons(shards),
  }
  by_size = sorted(sums, key=lambda name: -sums[name].tokens)
  result['sources'] = {
      name: numbers(
          {k: x[labels == name] for k, x in columns.items()}, sums[name])
      for name in by_size[:_SOURCES] if len(sums) > 1
  }
  return result


def compare(
    corpora: Mapping[str, store.Shards], own: str
) -> dict[str, dict[str, float]]:
  """AUROCs of each score at telling the samples `own` from each other corpus."""
  columns = {
      name: s.columns('phi', 'log_p_sum', 'perplexity', 'z')
      for name, s in corpora.items()
  }
  return {
      name: corpus_stats.separation(x, columns[own])
      for name, x in columns.items() if name != own and len(x['phi'])
  }


def remedy(numbers: Mapping[str, Any]) -> str:
  """Which of `REMEDIES` to try first.

  On-policy if no more is rejected than the test may reject wrongly, and phi is
  above what Hinted Decoding reaches. Else by where the difference sits.
  """
  worst_1, worst_5 = numbers['carried']['1 %'], numbers['carried']['5 %']
  if numbers['rejected'] <= corpus_stats.LEVEL and numbers['phi'] > HINTED:
    return 'none'
  if worst_1 is None:  # phi is not below 0
    return 'deterministic'
  if worst_1 >= 0.8 and numbers['tail_5'] <= 0.01:
    return 'mask'
  return 'idft' if worst_5 >= 0.5 and numbers['phi'] > -1 else 'hinted'


def verdict(name: str, numbers: Mapping[str, Any]) -> str:
  """How far off-policy a corpus is, in a sentence or two."""
  phi, share = numbers['phi'], numbers['rejected']
  if not numbers['responses']:
    return f'{name}: nothing to score.'
  measured = (
      f'mean phi {phi:+.3f} ± {2 * numbers["phi_se"]:.3f} nats per token,'
      f' {share:.1%} of {numbers["responses"]:,} responses rejected (PIT test, 5 %'
      ' false discoveries)')
  choice = remedy(numbers)
  far = {
      'none': 'is on-policy for this model',
      'deterministic': 'is more deterministic than this model',
  }.get(choice, 'is off-policy for this model' if phi < DISTILLED or share > 0.5
        else 'is mildly off-policy for this model')
  return f'{name} {far}: {measured}. Advice: {REMEDIES[choice]}.'


def corpora_table(summary: Mapping[str, Any]) -> Table:
  rows = []
  for name, n in summary['corpora'].items():
    rows.append([
        name, f'{n["responses"]:,}', f'{n["skipped"]:,}', f'{n["truncated"]:,}',
        f'{n["length"]:.1f}',
        f'{n["phi"]:+.4f} ± {2 * n["phi_se"]:.4f}', f'{n["perplexity"]:.3f}',
        f'{n["tail_1"]:.2%}', f'{n["tail_3"]:.2%}', f'{n["tail_5"]:.2%}',
        f'{n["rejected"]:.1%}', f'{n["rejected_z"]:.1%}',
    ])
  return Table([
      'corpus', 'responses', 'skipped', 'cut', 'tokens', 'mean phi',
      'perplexity', 'phi < -1', '< -3', '< -5', 'rejected', 'by z',
  ], rows)


def auroc_table(summary: Mapping[str, Any]) -> Table:
  """Own samples against each corpus; the winner is said."""
  rows = []
  for name, found in summary['auroc'].items():
    best = max(found, key=found.get)
    rows.append([name, *(f'{x:.3f}' for x in found.values()), best])
  scores = next(iter(summary['auroc'].values()), {})
  return Table(['own samples against', *scores, 'tells best'], rows)


def carried_table(summary: Mapping[str, Any]) -> Table:
  """Who carries the difference: the worst tokens, and where they stand."""
  rows = []
  for name, n in _with_sources(summary):
    worst = [
        'not below 0' if x is None else f'{x:.0%}'
        for x in n['carried'].values()
    ]
    places = n['places']
    rows.append([
        name, f'{n["phi"]:+.4f}', *worst,
        *(f'{np.mean(places[i:i + 2]):+.3f}' for i in range(0, len(places), 2)),
    ])
  return Table([
      'of -sum phi', 'mean phi', 'worst 1 %', 'worst 5 %', 'phi: first fifth',
      'second', 'third', 'fourth', 'last',
  ], rows)


def filters_table(numbers: Mapping[str, Any]) -> Table:
  return Table(
      ['keep', 'responses', 'tokens', 'mean phi of these'],
      [[name, f'{f["responses"]:.1%}', f'{f["tokens"]:.1%}', f'{f["phi"]:+.4f}']
       for name, f in numbers['filters'].items()])


def skipped_table(summary: Mapping[str, Any]) -> Table:
  return Table(['not scored', 'rows', 'why'], [
      [name, f'{count:,}', reason]
      for name, n in summary['corpora'].items()
      for reason, count in n['reasons'].items()
  ])


def tables(summary: Mapping[str, Any]) -> list[tuple[str, Table]]:
  """All that have something to say, with their headings."""
  found = [('Corpora', corpora_table(summary))]
  if summary['auroc']:
    found.append(('AUROC: telling own samples apart', auroc_table(summary)))
  found.append(('Where the difference sits', carried_table(summary)))
  for name, numbers in summary['corpora'].items():
    if name != summary['own'] and numbers['responses']:
      found.append((f'Filters for {name}', filters_table(numbers)))
  if any(n['reasons'] for n in summary['corpora'].values()):
    found.append(('Rows left out', skipped_table(summary)))
  return found


def choose(
    shards: store.Shards, count: int, seed: int
) -> dict[str, list[int]]:
  """Places of the worst, the most typical and some other responses."""
  found = shards.columns('phi')['phi']
  order = np.argsort(found, kind='stable')
  worst = order[:count // 3]
  rest = order[count // 3:]
  middle = np.median(found) if len(found) else 0.0
  near = rest[np.argsort(np.abs(found[rest] - middle), kind='stable')]
  typical, others = near[:count // 3], near[count // 3:]
  drawn = np.random.default_rng(seed).permutation(others)
  drawn = drawn[:count - len(worst) - len(typical)]
  return {
      'worst': worst.tolist(), 'typical': typical.tolist(),
      'drawn': sorted(drawn.tolist()),
  }


def _with_sources(summary):
  for name, numbers in summary['corpora'].items():
    yield name, numbers
    for source, n in numbers['sources'].items():
      yield f'{name}: {source}', n


def _add(sums, table, names, prefix) -> None:
  """Adds a shard's tokens to the sums of their sources."""
  lengths = table[prefix + 'length'].to_numpy()
  phi, pit = (
      table[f'{prefix}token_{x}'].combine_chunks().flatten().to_numpy()
      for x in ('phi', 'pit'))
  for name in set(names):
    mine = np.array([n == name for n in names])
    each = np.repeat(mine, lengths)
    new = corpus_stats.TokenSums.of(phi[each], lengths[mine], pit[each])
    sums[name] = sums[name] + new if name in sums else new


def numbers(columns, sums: corpus_stats.TokenSums) -> dict[str, Any]:
  """Of some responses and their tokens."""
  n, tokens = len(columns['phi']), max(int(columns['length'].sum()), 1)
  phi = float(columns['phi_sum'].sum() / tokens)
  # Tokens of a response are not independent; responses are.
  apart = columns['phi_sum'] - phi * columns['length']
  phi_se = float(np.sqrt(np.sum(apart**2)) / tokens)
  nll = -float(columns['log_p_sum'].sum() / tokens)

  def mean(name):
    return float(np.sum(columns[name] * columns['length']) / tokens)

  return {
      'responses': n, 'tokens': int(columns['length'].sum()),
      'length': tokens / max(n, 1),
      'phi': phi, 'phi_se': phi_se,
      'nll': nll, 'perplexity': float(np.exp(min(nll, 700.0))),
      **{f'tail_{k}': mean(f'tail_{k}') for k in corpus_stats.TAILS},
      'rejected': float(np.mean(columns['rejected'])) if n else 0.0,
      'rejected_z': float(np.mean(corpus_stats.rejected(columns['p_value'])))
                    if n else 0.0,
      'z_mean': float(np.mean(columns['z'])) if n else None,
      'z_variance': float(np.var(columns['z'])) if n else None,
      'pit': sums.pit_test()._asdict(),
      'carried': {
          f'{share:.0%}'.replace('%', ' %'):
              sums.carried(share) if phi < -2 * phi_se else None
          for share in (0.01, 0.05)
      },
      'places': sums.places(),
      'token_phi': _coarse(sums),
      'response_phi': _histogram(columns['phi'], np.linspace(-4, 1, 251)),
      'z_quantiles': [x.tolist() for x in corpus_stats.qq(columns['z'])],
      'pit_histogram': sums.pit.reshape(20, -1).sum(1).tolist(),
  }


def _coarse(sums, width: int = 10) -> dict[str, Sequence[float]]:
  """The histogram of token phi in bins of 0.2 nats."""
  return {
      'edges': sums.edges[::width].tolist(),
      'counts': sums.counts.reshape(-1, width).sum(1).tolist(),
  }


def _histogram(x, edges) -> dict[str, Sequence[float]]:
  inside = np.clip(x, edges[0], edges[-1])
  counts, _ = np.histogram(inside, edges)
  return {'edges': edges.tolist(), 'counts': counts.tolist()}


def filters(columns) -> dict[str, dict[str, float]]:
  """What some rules would keep."""
  n, phi = len(columns['phi']), columns['phi']
  lowest_tenth = np.quantile(phi, 0.1) if n else 0.0
  rules = {
      'all': np.ones(n, bool),
      'what the test does not reject': ~columns['rejected'].astype(bool),
      'mean phi above -0.1': phi > -0.1,
      'mean phi above -0.5': phi > -0.5,
      'no token with phi below -5': columns['tail_5'] == 0,
      'all but the tenth with the lowest phi': phi > lowest_tenth,
  }
  tokens = max(columns['length'].sum(), 1)
  return {
      name: {
          'responses': float(kept.sum() / max(n, 1)),
          'tokens': float(columns['length'][kept].sum() / tokens),
          'phi': float(columns['phi_sum'][kept].sum()
                       / max(columns['length'][kept].sum(), 1)),
      } for name, kept in rules.items()
  }


def _reasons(shards, most: int = 10) -> dict[str, int]:
  """Why rows were left out, numbers in the reasons apart."""
  counts = collections.Counter(
      re.sub(r'\d+', 'N', reason) for _, reason in shards.skipped())
  return dict(counts.most_common(most))
