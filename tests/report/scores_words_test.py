"""Tables of scored corpora and of the self-test."""

import dataclasses

from ddt_jax import significance
from ddt_jax.report import scores_words
from ddt_jax.report import table
from ddt_jax.scoring import calibration
from ddt_jax.scoring import controls
from ddt_jax.scoring import corpus_summary
from tests.support import corpora


def summary():
  return corpus_summary.ScoresSummary(
      model='m', parameters=1, temperature=1.0, own='own',
      corpora={
          'own': corpora.summary(),
          'mine': corpora.summary(seed=1, sources={'web': corpora.summary(n=9)})},
      auroc={'mine': {'phi': 0.75, 'z': 0.5}})


def test_tables_have_a_cell_for_each_column():
  found = dict(scores_words.tables(summary()))
  assert list(found) == [
      'Corpora', 'AUROC: own samples against each corpus',
      'Where phi is low', 'Filters for mine', 'Rows left out']
  for content in found.values():
    assert content.rows
    assert {len(row) for row in content.rows} == {len(content.header)}
    assert max(content.words) < len(content.header)
  assert found['AUROC: own samples against each corpus'].rows == [
      ['mine', '0.750', '0.500', 'phi']]
  assert [row[0] for row in found['Where phi is low'].rows] == [
      'own', 'mine', 'mine: web']


def test_a_score_that_ranks_own_samples_lower_separates_too():
  found = dataclasses.replace(
      summary(), auroc={'mine': {'phi': 0.6, 'perplexity': 0.135}})
  assert scores_words.auroc_table(found).rows == [
      ['mine', '0.600', '0.135', 'perplexity, own samples lower']]


def test_a_filter_that_keeps_nothing_has_no_mean():
  found = corpora.summary()
  nothing = corpus_summary.Filter(0.0, 0.0, None)
  found = dataclasses.replace(
      found, filters=dict.fromkeys(found.filters, nothing))
  assert {row[-1] for row in scores_words.filters_table(found).rows} == {''}


def test_the_self_test_in_a_table():
  pit = significance.KolmogorovSmirnov(0.01, 0.3)
  test = calibration.SelfTest(2000, 0.001, 0.001, pit, 1.3)
  rows = scores_words.self_test_table(test).rows
  assert [row[-1] for row in rows] == ['yes', 'yes', 'NO']
  assert rows[1][1] == 'D = 0.01000, p = 0.3'
  assert 'variance of z in [0.90, 1.10]' in rows[2][0]
  assert len(scores_words.self_test_table(
      calibration.SelfTest(9, 0.001, 0.001, pit)).rows) == 2
  share = significance.Interval(0.05, 0.04, 0.0625)
  found = scores_words.false_positives_table([
      calibration.FalsePositives(16, 2.5, 1.0, share, share)])
  assert '5.0 % [4.0 %, 6.2 %]' in table.aligned(found)


def test_a_control_that_cannot_tell_is_too_weak_and_not_failed():
  pit = significance.KolmogorovSmirnov(0.01, 0.3)
  good = calibration.SelfTest(2000, 0.001, 0.001, pit, 1.0)
  weak = controls.Control(good, 0.1, 0.05)
  found = scores_words.controls_table(
      {'weak': weak, 'strong': dataclasses.replace(weak, change=0.2)})
  assert [row[-1] for row in found.rows] == ['too weak', 'yes']
  assert 'can be trusted' in scores_words.conclusion(good, True)
  assert 'proves nothing' in scores_words.conclusion(good, False)
  bad = dataclasses.replace(good, phi=1.0)
  assert 'do not trust' in scores_words.conclusion(bad, True)
