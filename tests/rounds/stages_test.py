"""Stages: what a block has drawn is shown, and its partial files go with it."""

import functools
import json

import jax
import pytest

from ddt_jax.data import prompts
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.engine import journaling
from ddt_jax.rounds import answers
from ddt_jax.rounds import evaluate
from ddt_jax.rounds import select
from ddt_jax.rounds import stages
from tests.support import student


class Stop(Exception):
  pass


def accuracy(**options):
  config, params = student.load()
  return evaluate.by_split(
      params, config, student.tokenizer(), {'some/target': some()}, problems=9,
      samples=1, key=jax.random.key(0), max_new_tokens=48,
      eos_ids=config.eos_ids, verifier=dict(workers=1, timeout_s=5.0), **options)


@functools.cache
def some():
  return list(problems.problems('test', 6))


def test_an_evaluation_that_is_stopped_draws_the_same(tmp_path, monkeypatch):
  monkeypatch.setattr(
      journaling.Journal, 'steps', lambda self, most: min(most, 16))
  expected, stops = accuracy(), 0
  while True:
    left = iter(range(7, 0, -1))

    def check_stop(left=left):
      if next(left, None) == 1:
        raise Stop

    try:
      found = accuracy(folder=tmp_path, check_stop=check_stop)
      break
    except Stop:
      stops += 1
      assert stops < 50
  assert stops >= 2 and found == expected
  assert not list(tmp_path.rglob('partial'))
  rows = [json.loads(x) for x in (tmp_path / 'some_target.jsonl').open()]
  assert [r['id'] for r in rows[::2]] == [p.id for p in some()]
  solved = [r['correct'] is True for r in rows if r['decoding'] == 'greedy']
  assert sum(solved) / 6 == found['some/target'].pass_at_1.value
  assert accuracy(folder=tmp_path) == found
  with pytest.raises(ValueError, match='was made from'):
    accuracy(folder=tmp_path, made_from={'parameters': 'others'})


def test_blocks_move_one_bar_and_are_kept(tmp_path):
  asked = []

  def make(first, items, journal):
    asked.append(first)
    return [records.Response(i, (), i, 'eos') for i in items]

  for _ in range(2):
    work = stages.Stages(tmp_path, {'step': 1})
    found = work.run('sample', make, ['a', 'b', 'c'], size=2)
    assert [r.text for r in found] == ['a', 'b', 'c']
  assert asked == [0, 2]
  assert stages.Stages().run('sample', make, []) == []


def rewritten(*reasons):
  return [
      records.Response(str(i), (), '', 'skipped' if r else 'eos', 'hinted', reason=r)
      for i, r in enumerate(reasons)]


def test_skipped_rewritings_are_counted_with_their_commonest_reason():
  assert select.advice_on_skipped(rewritten('', '')) == ''
  missing = "no '# CoT' in the analysis (length)"
  few = rewritten('', '', '', missing, '900 tokens leave no room for 64', missing, '')
  assert select.advice_on_skipped(few) == (
      f'3 of 7 were not rewritten; the commonest reason, 2 times: {missing}')
  assert select.skipped_for(few) == {missing: 2, 'N tokens leave no room for N': 1}
  most = select.advice_on_skipped(rewritten('', missing, missing))
  assert most.startswith('warning: 2 of 3 were not rewritten')
  for option in ('hint.template', 'hint.prefill', 'hint.analysis=none'):
    assert option in most


def test_the_analysis_of_every_rewriting_is_kept():
  config, params = student.load()
  decoding = dict(eos_ids=config.eos_ids, mesh=student.mesh())
  how = answers.Rewriting(template='short', max_analysis_tokens=96)
  done, = answers.rewrite(
      params, config, student.tokenizer(), some()[:1], rewriting=how,
      key=jax.random.key(0), max_new_tokens=64, decoding=decoding,
      verifier=dict(workers=1, timeout_s=5.0))
  assert done.analysis.startswith(prompts.ANALYZE)
  assert done.analysis.endswith('# CoT\n')
  short = answers.Rewriting(template='short', max_analysis_tokens=5)
  skipped, = answers.rewrite(
      params, config, student.tokenizer(), some()[:1], rewriting=short,
      key=jax.random.key(0), max_new_tokens=64, decoding=decoding,
      verifier=dict(workers=1, timeout_s=5.0))
  assert skipped.finish == 'skipped' and done.analysis.startswith(skipped.analysis)


@pytest.mark.parametrize('options, message', [
    (dict(analysis='long'), "hint.analysis='long': choose from 'model', 'none'"),
    (dict(analysis='none', prefill='# A'), 'writes none'),
])
def test_options_of_the_analysis_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    answers.Rewriting(**options)
