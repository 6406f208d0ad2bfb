"""Verdicts: each kind once, and no sentence that a number beside it contradicts."""

import dataclasses
import importlib
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from ddt_jax.report import scores_advice
from ddt_jax.report import scores_words
from ddt_jax.scoring import calibration
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import diagnosis
from tests.scoring import diagnosis_test
from tests.support import corpora

ON_POLICY = {'phi': -0.02, 'rejected': 0.01}
BASE = corpora.summary()


def summary(own=None, auroc=None, model='smollm2', **numbers):
  """A summary of `mine`, and of own samples where `own` has numbers."""
  found = {'mine': dataclasses.replace(BASE, **diagnosis_test.OFF_POLICY | numbers)}
  if own is not None:
    found['own'] = dataclasses.replace(BASE, **own)
  return corpus_summary.ScoresSummary(
      model=model, parameters=134_515_008, temperature=1.0,
      own='' if own is None else 'own', corpora=found,
      auroc={'mine': auroc} if auroc else {})


def said_of(name, found):
  return scores_advice.verdict(name, found).text


@pytest.mark.parametrize('numbers, said', [
    (ON_POLICY, 'mine is on-policy for smollm2 (135M parameters)'),
    (ON_POLICY, 'sees neither whether an answer is right'),
    ({'phi': -0.07, 'rejected': 0.04}, 'mine is mildly off-policy for smollm2'),
    ({'lowest': {'1 %': 0.9, '5 %': 1.1}, 'tail_5': 0.005},
     'the 1 % of the tokens with the lowest phi cause 90 % of the gap in phi'),
    ({'lowest': {'1 %': 0.3, '5 %': 0.7}},
     'Or try IDFT, which gives unlikely tokens less weight'),
    ({}, 'mine is off-policy for smollm2'),
    ({}, 'rewrite it by Hinted Decoding'),
    # Not "spread": 60 % of the difference comes from 5 % of the tokens.
    ({'phi': -1.29, 'lowest': {'1 %': 0.3, '5 %': 0.6}},
     'token weights leave little to train on; the 5 % of the tokens with the lowest'
     ' phi cause 60 % of the gap in phi to the model\'s own texts'),
    ({'phi': 0.2, 'lowest': {'1 %': None, '5 %': None}},
     'mine is more deterministic than smollm2'),
    ({'phi': -0.001, 'rejected': 0.3, 'lowest': {'1 %': None, '5 %': None}},
     'mine is on-policy only on average for smollm2'),
    ({'phi': 0.0, 'phi_se': 0.2, 'rejected': 0.0},
     'mine has too few tokens to tell'),
], ids=str)
def test_verdicts(numbers, said):
  text = said_of('mine', summary(**numbers))
  assert said in text and 'the PIT test rejects' in text


def test_the_toy_model_is_called_a_toy():
  found = scores_advice.verdicts(summary(model='embedded'))
  assert 'toy model' in found[0].text
  assert '--config.model.path=DIR' in found[0].text
  assert "embedded (this project's toy model, 135M parameters)" in found[1].text
  assert len(scores_advice.verdicts(summary())) == 1


def test_own_samples_get_no_advice_to_train_on_them():
  found = summary(own={'phi': 0.001, 'phi_se': 0.001, 'rejected': 0.0})
  text = said_of('own', found)
  assert 'own is on-policy, as own samples must be, for smollm2' in text
  assert 'Advice' not in text
  wrong = said_of(
      'own', summary(own={'phi': -0.1, 'phi_se': 0.001, 'rejected': 0.0}))
  assert 'do not trust these scores' in wrong and 'calibrate=True' in wrong


def test_what_phi_does_not_see_is_said_beside_own_samples():
  # From a trial: texts of perplexity 3.7 that the model never writes.
  text = said_of('mine', summary(
      **ON_POLICY, perplexity=3.7, own={'perplexity': 11.8},
      auroc={'phi': 0.52, 'perplexity': 0.135}))
  assert 'its perplexity is 3.700 and that of own samples 11.800' in text
  assert 'perplexity separates it from own samples (AUROC 0.135)' in text
  alike = said_of('mine', summary(
      **ON_POLICY, perplexity=11.0, own={'perplexity': 11.8}, auroc={'phi': 0.52}))
  assert 'But' not in alike


def test_short_responses_far_from_0_that_are_accepted_are_explained():
  text = said_of('mine', summary(
      phi=-0.55, phi_se=0.01, rejected=0.0, length=8.25))
  assert 'Responses this short (8.2 tokens on average) can rarely be told' in text
  assert 'keep=accepted keeps nearly all rows: it is no filter' in text
  for numbers in ({'rejected': 0.6}, ON_POLICY):
    assert 'this short' not in said_of('mine', summary(**numbers))


def test_words_are_explained_once_where_they_come_first():
  said = scores_advice.verdicts(summary(own={'phi': 0.0}))
  assert [x.text.count('The PIT test asks of each response') for x in said] == [1, 0]


def test_split_conversations_are_counted():
  text = said_of('mine', summary(
      rows=100, split=3, responses=104, skipped=2))
  assert '3 conversations are split by turns, which adds 6 responses' in text


def test_an_empty_corpus_has_a_verdict():
  text = said_of('mine', summary(responses=0))
  assert text == 'mine: no response could be scored.'


@pytest.mark.parametrize('count, said', [
    (523, '523'), (523_456, '523k'), (1_540_000, '1.54M'), (134_515_008, '135M'),
    (7_615_616_512, '7.62B'), (70_553_706_496, '71B')])
def test_the_size_of_a_model(count, said):
  assert scores_advice._short(count) == said


# Advice and figures -----------------------------------------------------------

shares = st.floats(0, 1)
parts = st.builds(
    corpus_summary.Filter, responses=shares, tokens=shares,
    phi=st.none() | st.floats(-5, 2))


@st.composite
def some_numbers(draw):
  """Numbers that can stand beside each other."""
  phi, error = draw(st.floats(-9, 3)), draw(st.floats(0, 0.5))
  lowest = {'1 %': None, '5 %': None}
  if phi < -2 * error:
    one = draw(st.floats(0.01, 2))
    lowest = {'1 %': one, '5 %': max(one, draw(st.floats(0.05, 4)))}
  return dict(
      phi=phi, phi_se=error, rejected=draw(shares), tail_5=draw(shares) ** 4,
      lowest=lowest, perplexity=draw(st.floats(1, 1e4)), responses=400,
      filters=BASE.filters | {'no_token_below_-5': draw(parts)})


def number(text):
  return float(text.replace('%', '').replace(',', ''))


def numbers_in(text):
  return set(re.findall(r'[-+]?\d+(?:,\d{3})*(?:\.\d+)?', text))


# Of the rules (0, 1 % and 5 % of the tokens, the paper's mean of rewritten data) and
# the size of the model.
CONSTANTS = {'0', '1', '5', '135', f'{diagnosis.HINTED:g}'}


def cells(found):
  """Heading -> first cell of a row -> column -> cell."""
  return {
      heading: {row[0]: dict(zip(content.header, row, strict=True))
                for row in content.rows}
      for heading, content in scores_words.tables(found)}


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(some_numbers(), some_numbers(), st.dictionaries(
    st.sampled_from(['phi', 'z', 'perplexity']), shares, min_size=1))
def test_no_sentence_contradicts_a_number_on_the_page(mine, own, auroc):
  found = summary(own=own, auroc=auroc, **mine)
  text, page = said_of('mine', found), cells(found)
  row, tokens = page['Corpora']['mine'], page['Where phi is low']
  phi, rejected = number(row['mean phi'].split(' ±')[0]), number(row['rejected'])
  # The evidence is the table's.
  assert f'mean phi {row["mean phi"]} nats' in text
  assert f'rejects {row["rejected"]} of {row["responses"]} responses' in text
  for share, cause in re.findall(
      r'the (\d %) of the tokens with the lowest phi cause (\S+ %) of', text):
    assert tokens['mine'][f'lowest {share}'] == cause
  # The judgement.
  if 'mine is on-policy for' in text:
    assert rejected <= 5 and phi >= -0.05
  if 'mine is off-policy' in text:
    assert phi <= -0.1 or rejected >= 50
  if 'mine is mildly off-policy' in text:
    assert phi >= -0.1 and rejected <= 50
    assert phi <= -0.05 or rejected >= 5
  if 'more deterministic' in text:
    assert phi > 0
  if 'only on average' in text:
    assert rejected >= 5 and tokens['mine']['lowest 1 %'] == 'phi not below 0'
  if 'too few tokens' in text:
    low, high = map(float, re.search(
        r'from ([-+.\d]+) to ([-+]\d+\.\d+)', text).groups())
    assert low <= -0.1 and high >= -0.05 and rejected <= 5
  # What follows from the judgement.
  if 're-weighting tokens helps less' in text:
    assert number(tokens['mine']['lowest 5 %']) <= 50
  if 'gives unlikely tokens less weight' in text:
    assert number(tokens['mine']['lowest 5 %']) >= 50
  if 'leave little to train on' in text:
    assert phi <= -1
  if 'offset each other' in text:
    assert 'phi not below 0' in tokens['mine'].values()
  if kept := re.search(
      r'or keep "(.*?)" \((\S+ %) of the responses; --config.write.keep=(\S+)\)', text):
    shown = page['Filters for mine'][kept[3]]
    assert (shown[''], shown['responses']) == (kept[1], kept[2])
    assert mine['filters']['no_token_below_-5'].responses > 0
  if said := re.search(r'perplexity is (\S+) and that of own samples (\S+): ', text):
    assert said[1] == row['perplexity']
    assert said[2] == page['Corpora']['own']['perplexity']
  areas = page['AUROC: own samples against each corpus']['mine']
  if said := re.search(r'But (\S+) separates it .*\(AUROC (\S+)\)', text):
    assert areas[said[1]] == said[2] and abs(number(said[2]) - 0.5) >= 0.249
    assert areas['best score'].startswith(said[1])
  # No figure is of nowhere: it stands in a table or is a constant of the rules.
  in_tables = numbers_in(' '.join(
      f'{head} {cell}' for rows in page.values() for row in rows.values()
      for head, cell in row.items()))
  if 'too few tokens' not in text:  # it gives the ends of an interval
    assert numbers_in(text) - in_tables <= CONSTANTS
  # Own samples are judged by the same figures.
  beside = said_of('own', found)
  assert numbers_in(beside) - in_tables <= CONSTANTS
  if 'as own samples must be' in beside:
    of_own = page['Corpora']['own']
    assert number(of_own['rejected']) <= 5
    mean, spread = map(number, of_own['mean phi'].split(' ± '))  # 2 standard errors
    assert abs(mean) <= calibration.STANDARD_ERRORS / 2 * spread + 2e-4


def has(config, name):
  for part in name.split('.'):
    if part not in config:
      return False
    config = config[part]
  return True


@pytest.mark.parametrize('kind', diagnosis.Diagnosis.__args__)
def test_every_diagnosis_has_advice_that_names_only_what_exists(kind):
  found = summary()
  text = '\n'.join([
      scores_advice.advice(kind, found.corpora['mine']),
      *scores_advice.commands(kind, 'mine', found)])
  configs = [importlib.import_module(f'configs.{name}').get_config()
             for name in ('idft', 'score')]
  for name in re.findall(r'--config\.([\w.]+\w)', text):
    assert any(has(config, name) for config in configs), name
  for name in re.findall(r'configs/(\w+)\.py', text):
    assert importlib.util.find_spec(f'configs.{name}'), name
  for command in re.findall(r'python -m ([\w.]+\w)', text):
    assert importlib.util.find_spec(command), command


def test_the_test_of_advice_finds_what_is_missing():
  config = importlib.import_module('configs.idft').get_config()
  assert has(config, 'loss.name') and not has(config, 'loss.nom')


def test_commands_can_be_typed_as_they_stand():
  found = dataclasses.replace(summary(), files={'mine': 'my data/mine.jsonl'},
                              options=('--config.data.columns.problem=a b',))
  verdict = scores_advice.verdict('mine', found)
  assert verdict.commands[0] == (
      'python -m experiments.curate --config configs/idft.py:real'
      " --config.data.path='my data/mine.jsonl' '--config.data.columns.problem=a b'"
      ' --config.model.path=smollm2')
  text = verdict.in_terminal(60)
  assert f'\n  {verdict.commands[0]}' in text
  # The toy model needs no preset.
  toy = scores_advice.verdict('mine', dataclasses.replace(found, model='embedded'))
  assert 'configs/idft.py --config.data.path' in toy.commands[0]
