"""Verdicts on corpora; advice names only options and objectives that exist."""

import importlib
import re

import pytest

from ddt_jax import objectives
from ddt_jax import significance
from ddt_jax.report import scores_words
from ddt_jax.report import table
from ddt_jax.scoring import calibration
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import diagnosis
from tests.scoring import diagnosis_test
from tests.support import corpora


@pytest.mark.parametrize('numbers, said', [
    ({'phi': -0.02, 'rejected': 0.01}, 'mine is on-policy for this model'),
    ({'phi': -0.07, 'rejected': 0.04}, 'mine is mildly off-policy'),
    ({'lowest': {'1 %': 0.9, '5 %': 1.1}, 'tail_5': 0.005}, 'a few tokens'),
    ({'lowest': {'1 %': 0.3, '5 %': 0.7}}, '--config.loss.name=idft'),
    ({}, 'mine is off-policy for this model'),
    ({}, 'rewrite it by Hinted Decoding'),
    ({'phi': 0.2, 'lowest': {'1 %': None, '5 %': None}},
     'mine is more deterministic than this model'),
], ids=str)
def test_verdicts(numbers, said):
  found = corpora.summary(**diagnosis_test.OFF_POLICY | numbers)
  text = scores_words.verdict('mine', found)
  assert said in text and 'the PIT test rejects' in text


def test_an_empty_corpus_has_a_verdict():
  text = scores_words.verdict('x', corpora.summary(responses=0))
  assert text == 'x: no response could be scored.'


def test_every_diagnosis_has_advice_and_every_filter_a_name():
  assert set(scores_words.ADVICE) == set(diagnosis.Diagnosis.__args__)
  assert set(scores_words.FILTERS) == set(corpora.summary().filters)


def has(config, name):
  for part in name.split('.'):
    if part not in config:
      return False
    config = config[part]
  return True


@pytest.mark.parametrize('advice', scores_words.ADVICE.values())
def test_advice_names_only_what_exists(advice):
  config = importlib.import_module('configs.idft').get_config()
  for name in re.findall(r'--config\.([\w.]+\w)', advice):
    assert has(config, name), name
  for name in re.findall(r'loss\.name=(\w+)', advice):
    assert name in objectives.WEIGHTS, name
  for command in re.findall(r'python -m ([\w.]+\w)', advice):
    assert importlib.util.find_spec(command), command


def test_the_test_of_advice_finds_what_is_missing():
  config = importlib.import_module('configs.idft').get_config()
  assert has(config, 'loss.name') and not has(config, 'loss.nom')
  with pytest.raises(StopIteration):
    scores_words._first_available('no such objective')


def summary():
  return corpus_summary.ScoresSummary(
      model='m', temperature=1.0, own='own',
      corpora={
          'own': corpora.summary(),
          'mine': corpora.summary(seed=1, sources={'web': corpora.summary(n=9)})},
      auroc={'mine': {'phi': 0.75, 'z': 0.5}})


def test_tables_have_a_cell_for_each_column():
  found = dict(scores_words.tables(summary()))
  assert list(found) == [
      'Corpora', 'AUROC: own samples against each corpus',
      'Which tokens cause the difference', 'Filters for mine', 'Rows left out']
  for content in found.values():
    assert content.rows
    assert {len(row) for row in content.rows} == {len(content.header)}
    assert max(content.words) < len(content.header)
  assert found['AUROC: own samples against each corpus'].rows == [
      ['mine', '0.750', '0.500', 'phi']]
  assert [row[0] for row in found['Which tokens cause the difference'].rows] == [
      'own', 'mine', 'mine: web']


def test_the_self_test_in_a_table():
  pit = significance.KolmogorovSmirnov(0.01, 0.3)
  test = calibration.SelfTest(0.001, 0.001, pit, 1.3)
  rows = scores_words.self_test_table(test).rows
  assert [row[-1] for row in rows] == ['yes', 'yes', 'NO']
  assert rows[1][1] == 'D = 0.01000, p = 0.3'
  assert len(scores_words.self_test_table(
      calibration.SelfTest(0.001, 0.001, pit)).rows) == 2
  share = significance.Interval(0.05, 0.04, 0.0625)
  found = scores_words.false_positives_table([
      calibration.FalsePositives(16, 2.5, 1.0, share, share)])
  assert '5.0% [4.0%, 6.2%]' in table.aligned(found)
