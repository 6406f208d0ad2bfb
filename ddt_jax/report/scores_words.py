"""Scored corpora and the self-test in tables, and what their heads mean."""

from collections.abc import Iterator, Mapping, Sequence

from ddt_jax import significance
from ddt_jax.report import scores_advice
from ddt_jax.report import table
from ddt_jax.scoring import calibration
from ddt_jax.scoring import controls
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import filters
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
    ' a score ranks an own sample above a response of the corpus; 0.5 is chance, and'
    ' 0.1 separates as well as 0.9, the other way round.'
    ' lowest 1 %: share of the negative sum of phi that comes from the 1 % of tokens'
    ' with the lowest phi.')

# Heads of the tables, for those who point at them.
_CORPORA = {
    'responses': 'that were scored',
    'skipped': 'rows that could not be scored; the last table says why',
    'truncated': 'responses cut to the longest allowed (data.max_tokens)',
    'tokens': 'mean length of a response',
    'mean phi': 'over all tokens, nats per token; 0 for the model\'s own text; \u00b1 2'
                ' standard errors over responses',
    'perplexity': 'exp of the mean NLL of a token; it does not know how sure the'
                  ' model was, phi does',
    'phi < -1': 'share of tokens that the model would hardly write',
    '< -3': 'share of tokens with phi below -3 nats',
    '< -5': 'share of tokens with phi below -5 nats',
    'rejected': 'share of responses that the PIT test rejects at 5 % false'
                ' discoveries; holds for texts of any length',
    'by z': 'share that the z-test rejects; holds where the varentropy of a text sums'
            f' to {response_scores.ENOUGH_VARENTROPY:g} nats^2 or more',
}
_AUROC = {
    'phi': 'of the mean phi of a response',
    'log-likelihood': 'of the summed log p of a response',
    'perplexity': 'of a response; the lower ranks higher',
    'z': 'of the sum of phi by its standard deviation under the model',
    'best score': 'the one furthest from 0.5, which is chance',
}
_LOWEST = {
    'mean phi': 'over all tokens, nats per token',
    'lowest 1 %': 'share of the negative sum of phi that the 1 % of the tokens with the'
                  ' lowest phi cause',
    'lowest 5 %': 'the same of the 5 % with the lowest phi',
    'phi: 1st fifth': 'mean phi in the first fifth of each response, nats',
}
_FILTERS = {
    'keep': '--config.write.keep=NAME writes these rows to kept.jsonl',
    'responses': 'share that is kept',
    'tokens': 'share that is kept',
    'mean phi': 'of what is kept, nats per token; empty where nothing is',
}


def tables(
    summary: corpus_summary.ScoresSummary
) -> list[tuple[str, table.Table]]:
  """Headings and tables of a report, without those that would be empty."""
  found = [('Corpora', corpora_table(summary))]
  if summary.auroc:
    found.append(('AUROC: own samples against each corpus', auroc_table(summary)))
  found.append(('Where phi is low', lowest_table(summary)))
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
      f'{n.perplexity:.3f}', table.percent(n.tail_1, 2), table.percent(n.tail_3, 2),
      table.percent(n.tail_5, 2), table.percent(n.rejected),
      table.percent(n.rejected_z),
  ] for name, n in summary.corpora.items()], about=_CORPORA)


def auroc_table(summary: corpus_summary.ScoresSummary) -> table.Table:
  """AUROC of each score for own samples against each corpus."""
  scores = list(next(iter(summary.auroc.values()), {}))
  return table.Table(
      ['corpus', *scores, 'best score'],
      [[name, *(f'{x:.3f}' for x in found.values()), _best(found)]
       for name, found in summary.auroc.items()],
      words=(0, len(scores) + 1), about=_AUROC)


def _best(found: Mapping[str, float]) -> str:
  """The score that separates best, in either direction."""
  name = max(found, key=lambda k: scores_advice.separation(found[k]))
  return name if found[name] >= 0.5 else f'{name}, own samples lower'


def lowest_table(summary: corpus_summary.ScoresSummary) -> table.Table:
  """Share of the tokens with the lowest phi, and phi along the response."""
  rows = []
  for name, n in _with_sources(summary):
    shares = [
        'phi not below 0' if x is None else table.percent(x, 0)
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
  ], rows, about=_LOWEST)


def filters_table(corpus: corpus_summary.CorpusSummary) -> table.Table:
  """Share of a corpus that each filter would keep."""
  return table.Table(
      ['keep', '', 'responses', 'tokens', 'mean phi'],
      [[name, filters.ABOUT[name], table.percent(f.responses),
        table.percent(f.tokens),
        # 0 would read as the ideal mean.
        '' if f.phi is None else f'{f.phi:+.4f}']
       for name, f in corpus.filters.items()], words=(0, 1), about=_FILTERS)


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
    low, high = test.variance_bounds
    rows.append([
        f'variance of z in [{low:.2f}, {high:.2f}], texts cut at'
        f' {response_scores.ENOUGH_VARENTROPY:g} nats^2',
        f'{test.z_variance:.3f}', test.variance_is_one])
  return table.Table(
      ['requirement', 'measured', 'met'],
      [[name, measured, 'yes' if met else 'NO'] for name, measured, met in rows])


def controls_table(found: Mapping[str, controls.Control]) -> table.Table:
  """Whether the self-test tells each control from own samples."""
  return table.Table(
      ['control', 'mean phi', 'PIT p', 'change of the summed phi', 'standard error',
       'told apart'],
      [[name, f'{c.test.phi:+.5f}', f'{c.test.pit.p_value:.3g}', f'{c.change:+.4f}',
        f'{c.change_se:.4f}', 'yes' if c.is_told else 'too weak']
       for name, c in found.items()], words=(0, 5))


def false_positives_table(
    found: Sequence[calibration.FalsePositives]
) -> table.Table:
  """Share of own samples that each test rejects at 5 %, by length."""
  def percent(share: significance.Interval) -> str:
    value, low, high = map(table.percent, share)
    return f'{value} [{low}, {high}]'

  return table.Table(
      ['tokens', 'median summed varentropy', 'variance of z', 'z-test',
       'PIT test'],
      [[str(f.length), f'{f.varentropy:.2f}', f'{f.z_variance:.3f}',
        percent(f.z), percent(f.pit)] for f in found])


def conclusion(test: calibration.SelfTest, told: bool) -> str:
  """What the self-test says about the scores.

  Args:
    test: of own samples.
    told: whether it told a control from own samples, or none was asked for.
  """
  if not test.passed:
    return ('The self-test failed: do not trust the scores. Check the tokenizer, the'
            ' chat template, the dtype and the mask.')
  if not told:
    return ('The self-test passed, but no control could be told from own samples, so'
            ' it proves nothing: raise --config.calibration.samples or'
            ' --config.calibration.noise.')
  return 'The scores can be trusted.'


def _with_sources(
    summary: corpus_summary.ScoresSummary
) -> Iterator[tuple[str, corpus_summary.Numbers]]:
  for name, corpus in summary.corpora.items():
    yield name, corpus
    for source, numbers in corpus.sources.items():
      yield f'{name}: {source}', numbers
