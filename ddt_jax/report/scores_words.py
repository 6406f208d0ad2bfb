"""Scored corpora in words and tables: verdicts, advice and the self-test."""

from collections.abc import Iterator, Sequence

from ddt_jax import objectives
from ddt_jax import significance
from ddt_jax.report import table
from ddt_jax.scoring import calibration
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import diagnosis
from ddt_jax.scoring import response_scores

NOTES = (
    'phi measures fit, not correctness: a wrong answer in the model\'s own words'
    ' scores well, and a text that is more deterministic than the model can score'
    ' above 0. ±: 2 standard errors over responses. tokens: mean of a response.'
    ' phi < -1: share of tokens. rejected: share of responses that the test on the'
    ' probability integral transform (PIT) rejects at 5 % false discoveries; it'
    ' holds for texts of any length. by z: the same by the z-test, which holds only'
    ' where the varentropy of a text sums to'
    f' {response_scores.ENOUGH_VARENTROPY:g} nats^2 or more. AUROC: probability that'
    ' a score ranks an own sample above a response of the corpus; 0.5 is chance.'
    ' lowest 1 %: share of the negative sum of phi that comes from the 1 % of tokens'
    ' with the lowest phi.')

FILTERS = {  # keys of `corpus_summary.filters`
    'all': 'all',
    'accepted': 'responses that the PIT test accepts',
    'phi > -0.1': 'mean phi above -0.1',
    'phi > -0.5': 'mean phi above -0.5',
    'no token below -5': 'no token with phi below -5',
    'without lowest tenth': 'all but the tenth with the lowest phi',
}


def _first_available(*names: str) -> str:
  """The option that selects the first of these objectives that exists."""
  name = next(name for name in names if name in objectives.WEIGHTS)
  return f'--config.loss.name={name}'


_FEW_TOKENS = _first_available('phi_mask', 'idft')
_SOME_TOKENS = _first_available('idft')
_AS_IT_IS = _first_available('sft')

ADVICE = {  # keys are the values of `diagnosis.Diagnosis`
    'on_policy': (
        f'train on it as it is ({_AS_IT_IS}); the model could have written it'),
    'deterministic': (
        f'train on it as it is ({_AS_IT_IS}), but with care: it is likelier than'
        ' the model\'s own samples, as texts sampled at a low temperature are, so'
        ' training narrows the model'),
    'few_tokens': (
        f'train with {_FEW_TOKENS}, or keep only "{FILTERS["no token below -5"]}"'
        ' (see the filters): a few tokens that the model would not write cause the'
        ' difference'),
    'some_tokens': (
        f'train with {_SOME_TOKENS}: a small share of the tokens causes the'
        ' difference, and this objective gives them less weight'),
    'spread': (
        'rewrite it by Hinted Decoding (python -m experiments.curate): the'
        ' difference is spread over most tokens, so re-weighting tokens helps less'
        ' than rewriting the texts'),
}


def verdict(name: str, numbers: corpus_summary.CorpusSummary) -> str:
  """How far off-policy a corpus is, the evidence, and what to do."""
  if not numbers.responses:
    return f'{name}: no response could be scored.'
  found = diagnosis.diagnose(numbers)
  if found == 'on_policy':
    judgement = 'is on-policy for this model'
  elif found == 'deterministic':
    judgement = 'is more deterministic than this model'
  elif diagnosis.is_far(numbers):
    judgement = 'is off-policy for this model'
  else:
    judgement = 'is mildly off-policy for this model'
  split = ''
  if numbers.split:
    added = numbers.responses + numbers.skipped - numbers.rows
    split = (
        f' The chat template is not prefix-stable: {numbers.split:,} conversations'
        f' are split by turns, which adds {added:,} responses'
        ' (--config.data.split_turns=).')
  return (
      f'{name} {judgement}: mean phi {numbers.phi:+.3f} ± {2 * numbers.phi_se:.3f}'
      f' nats per token; the PIT test rejects {numbers.rejected:.1%} of'
      f' {numbers.responses:,} responses. Advice: {ADVICE[found]}.{split}')


def tables(
    summary: corpus_summary.ScoresSummary
) -> list[tuple[str, table.Table]]:
  """Headings and tables of a report, without those that would be empty."""
  found = [('Corpora', corpora_table(summary))]
  if summary.auroc:
    found.append(('AUROC: own samples against each corpus', auroc_table(summary)))
  found.append(('Which tokens cause the difference', lowest_table(summary)))
  for name, corpus in summary.corpora.items():
    if name != summary.own and corpus.responses:
      found.append((f'Filters for {name}', filters_table(corpus)))
  if any(corpus.reasons for corpus in summary.corpora.values()):
    found.append(('Rows left out', skipped_table(summary)))
  return found


def corpora_table(summary: corpus_summary.ScoresSummary) -> table.Table:
  """Each corpus in one row."""
  return table.Table([
      'corpus', 'responses', 'skipped', 'truncated', 'tokens', 'mean phi',
      'perplexity', 'phi < -1', '< -3', '< -5', 'rejected', 'by z',
  ], [[
      name, f'{n.responses:,}', f'{n.skipped:,}', f'{n.truncated:,}',
      f'{n.length:.1f}', f'{n.phi:+.4f} ± {2 * n.phi_se:.4f}',
      f'{n.perplexity:.3f}', f'{n.tail_1:.2%}', f'{n.tail_3:.2%}',
      f'{n.tail_5:.2%}', f'{n.rejected:.1%}', f'{n.rejected_z:.1%}',
  ] for name, n in summary.corpora.items()])


def auroc_table(summary: corpus_summary.ScoresSummary) -> table.Table:
  """AUROC of each score for own samples against each corpus."""
  scores = list(next(iter(summary.auroc.values()), {}))
  return table.Table(
      ['corpus', *scores, 'best score'],
      [[name, *(f'{x:.3f}' for x in found.values()), max(found, key=found.get)]
       for name, found in summary.auroc.items()],
      words=(0, len(scores) + 1))


def lowest_table(summary: corpus_summary.ScoresSummary) -> table.Table:
  """Share of the tokens with the lowest phi, and phi along the response."""
  rows = []
  for name, n in _with_sources(summary):
    shares = [
        'phi \u2265 0' if x is None else f'{x:.0%}'
        for x in n.lowest.values()
    ]
    fifths = [
        (first + second) / 2
        for first, second in zip(n.tenths[::2], n.tenths[1::2], strict=True)]
    rows.append([
        name, f'{n.phi:+.4f}', *shares, *(f'{x:+.3f}' for x in fifths)])
  return table.Table([
      'corpus', 'mean phi', 'lowest 1 %', 'lowest 5 %', 'phi: 1st fifth',
      '2nd', '3rd', '4th', '5th',
  ], rows)


def filters_table(corpus: corpus_summary.CorpusSummary) -> table.Table:
  """Share of a corpus that each filter would keep."""
  return table.Table(
      ['keep', 'responses', 'tokens', 'mean phi'],
      [[FILTERS[name], f'{f.responses:.1%}', f'{f.tokens:.1%}', f'{f.phi:+.4f}']
       for name, f in corpus.filters.items()])


def skipped_table(summary: corpus_summary.ScoresSummary) -> table.Table:
  """Why rows could not be scored."""
  return table.Table(['corpus', 'rows', 'reason'], [
      [name, f'{count:,}', reason]
      for name, corpus in summary.corpora.items()
      for reason, count in corpus.reasons.items()
  ], words=(0, 2))


def self_test_table(test: calibration.SelfTest) -> table.Table:
  """The requirements of the self-test, measured on the model's own samples."""
  rows = [
      [f'mean phi within {calibration.STANDARD_ERRORS:g} standard errors of 0',
       f'{test.phi:+.5f}, standard error {test.phi_se:.5f}',
       test.phi_is_zero],
      [f'uniform PIT: Kolmogorov-Smirnov p > {calibration.MIN_P:g}',
       f'D = {test.pit.distance:.5f}, p = {test.pit.p_value:.3g}',
       test.pit_is_uniform],
  ]
  if test.z_variance is not None:
    low, high = calibration.VARIANCE
    rows.append([
        f'variance of z in [{low:g}, {high:g}], texts cut at'
        f' {response_scores.ENOUGH_VARENTROPY:g} nats^2',
        f'{test.z_variance:.3f}', test.variance_is_one])
  return table.Table(
      ['requirement', 'measured', 'met'],
      [[name, measured, 'yes' if met else 'NO'] for name, measured, met in rows])


def false_positives_table(
    found: Sequence[calibration.FalsePositives]
) -> table.Table:
  """Share of own samples that each test rejects at 5 %, by length."""
  def percent(share: significance.Interval) -> str:
    return f'{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]'

  return table.Table(
      ['tokens', 'median summed varentropy', 'variance of z', 'z-test',
       'PIT test'],
      [[str(f.length), f'{f.varentropy:.2f}', f'{f.z_variance:.3f}',
        percent(f.z), percent(f.pit)] for f in found])


def _with_sources(
    summary: corpus_summary.ScoresSummary
) -> Iterator[tuple[str, corpus_summary.Numbers]]:
  for name, corpus in summary.corpora.items():
    yield name, corpus
    for source, numbers in corpus.sources.items():
      yield f'{name}: {source}', numbers
