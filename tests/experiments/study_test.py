"""The study: its order of cells, their configs, and a tiny run that is resumed."""

import json

import pytest

from configs import study as config
from ddt_jax import errors
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import verify
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.report import study
from experiments.cells import corpora
from experiments.cells import outcome
from experiments.cells import plan
from experiments.cells import running
from experiments.run import checks
from tests.support import commands

TINY = {
    'problems': 12, 'rates': '(3e-4,)', 'methods.dpo.rates': '(1e-4,)',
    'run.train.batch': 4, 'run.curate.max_new_tokens': 96,
    'run.evaluation.problems': 2, 'run.evaluation.samples': 2,
    'run.evaluation.max_new_tokens': 16, 'run.validation.problems': 2,
    'run.kl_to_base.problems': 2, 'run.kl_to_base.max_new_tokens': 8,
    'run.report.examples': 4, 'run.log.every': 1,
}


def start(workdir, *more):
  return commands.run(
      'experiments.study', '--config', 'configs/study.py:quick',
      f'--workdir={workdir}', *(f'--config.{k}={v}' for k, v in TINY.items()), *more,
      timeout=1200)


@pytest.fixture(scope='module')
def full():
  return config.get_config()


def test_the_main_methods_come_first_and_no_cell_twice(full):
  order = list(plan.unique(plan.order(full, lambda method: None)))
  first = [cell for cell in order if cell.method in full.main and cell.seed == 0]
  assert order[1:len(first) + 1] == first and order[0].method == plan.UNTOUCHED
  assert len({cell.name for cell in order}) == len(order)
  # Every compared method at each of its rates, with `seeds` seeds; the phase diagram
  # with one. Nothing else before a rate is chosen.
  rates = sum(len(plan.rates(full, m)) for m in plan.compared(full))
  phase = 2 * (len(full.phase) - 1) * len(full.rates)
  assert len(order) == (
      full.seeds * (rates + 1) + full.more_seeds - full.seeds + phase)


def test_further_seeds_are_around_the_chosen_rate(full):
  chosen = {m: plan.rates(full, m)[1] for m in full.methods}
  order = list(plan.unique(plan.order(full, chosen.get)))
  # An ablation has one cell, at the rate of its method.
  assert all(
      [x.rate for x in order if x.method == m] == [chosen[full.methods[m]['at']]]
      for m in plan.ablations(full))
  later = [x for x in order if x.seed >= full.seeds and x.method != plan.UNTOUCHED]
  assert len(later) == 3 * len(full.main) * (full.more_seeds - full.seeds)
  assert {x.method for x in later} == set(full.main)


@pytest.mark.parametrize('method', list(config.get_config().methods))
def test_every_method_has_options_that_a_run_accepts(full, method):
  rate = plan.rates(full, method)[0]
  c = running.config(full, plan.Cell(method, rate, 3))
  checks.check_options(c, sharding.make_mesh(**full.run.mesh))
  assert (c.name, c.seed, c.optim.lr, c.rounds) == (method, 3, rate, 1)
  assert c.evaluation.samples == full.run.evaluation.samples
  assert full.run.name == 'idft' and full.run.seed == 0  # nothing of it changes


def test_models_are_kept_where_the_mechanism_is_measured(full):
  kept = [cell.name for cell in plan.unique(plan.order(full, lambda method: None))
          if running.keeps_model(full, cell)]
  assert 'sft-0.0003-seed0' in kept and 'idft_z-0.001-seed0' in kept
  for name in ('sft-0.0003-seed1', 'rft-0.0003-seed0', 'untouched-seed0'):
    assert name not in kept


@pytest.mark.parametrize('preset', ['quick', 'smollm2'])
def test_a_preset_keeps_what_its_methods_need(preset):
  c = config.get_config(preset)
  plan.check(c)
  for method in c.methods:
    checks.check_options(
        running.config(c, plan.Cell(method, plan.rates(c, method)[0], 0)),
        sharding.make_mesh(**c.run.mesh))
  used = {c.methods[m].corpus for m in c.methods}
  assert set(c.corpora) == used - {''} and not plan.ablations(c)


def test_solutions_are_written_by_the_author_of_a_corpus(full):
  some = list(problems.problems('train', 3))
  own = corpora.solutions(some, full.corpora.hand_own)
  assert [verify.extract(x) for x in own] == [p.answer for p in some]
  assert own[0] != some[0].solution
  false = corpora.solutions(some, full.corpora.false_hints)
  assert all(verify.extract(x) != p.answer for x, p in zip(false, some, strict=True))
  c = config.get_config('smollm2')
  sums = [records.Problem('a', '1 + 2 =', '3', '3')]
  assert corpora.solutions(sums, c.corpora.given) == [
      'Ledger of 1 + 2 =; entry closed, balance carried forward is 3']
  with pytest.raises(errors.InputError, match="'a' is no story"):
    corpora.solutions(sums, full.corpora.hand_own)


def test_what_a_method_changes_is_in_its_config(full):
  def of(method):
    return running.config(full, plan.Cell(method, 1e-3, 0))

  assert of('idft_gamma1').loss.gamma_max == 1.0 and of('idft').loss.gamma_max == 2.0
  assert of('idft_curriculum').curriculum.warmup_ratio == 0.2
  assert of('sft_kl').reference.kl_weight == 0.1
  assert of('sdft_frozen').reference.kind == 'frozen'
  assert of('sdft').hint.analysis == 'model' and of('sdft').loss.name == 'distill'
  assert of('dpo').loss.name == 'dpo'


@pytest.mark.parametrize('field, value, said', [
    ('main', ('sft', 'magic'), "main names 'magic'"),
    ('problems', 0, 'problems=0'),
    ('rates', (0.0,), 'learning rates are above 0'),
])
def test_a_config_that_cannot_be_used_is_refused(field, value, said):
  c = config.get_config()
  c[field] = value
  with pytest.raises(errors.InputError, match=said):
    plan.check(c)


def test_an_unknown_corpus_is_refused():
  c = config.get_config()
  c.methods.sft.corpus = 'stolen'
  with pytest.raises(errors.InputError, match=r"methods\.sft\.corpus='stolen'"):
    plan.check(c)


def test_validation_chooses_the_rate_and_ties_go_to_the_lower_one(tmp_path, full):
  nothing = study.Cost(0, 0, 0.0, 0.0)
  for rate, validation in ((1e-4, 0.5), (3e-4, 0.8), (1e-3, 0.8)):
    cell = plan.Cell('sft', rate, 0)
    file = running.folder_of(tmp_path, cell) / running.RECORD
    file.parent.mkdir(parents=True)
    file.write_text(study.CellRecord(
        'sft', rate, 0, validation, {}, None, None, 0, 0, nothing).to_json())
  chosen = outcome.chosen_by(full, tmp_path)
  assert chosen('sft') == 3e-4 and chosen('idft') is None


def test_a_cell_that_diverges_does_not_end_the_study(tmp_path, full, monkeypatch):
  def diverge(self, cell, folder):
    raise FloatingPointError('10 updates in a row were skipped')

  monkeypatch.setattr(running.Cells, '_trained', diverge)
  cell, tmp_path = plan.Cell('sft', 3e-3, 0), storage.path(tmp_path)
  running.Cells(full, tmp_path, None).run(cell)
  assert running.read(tmp_path, cell) is None
  assert running.failed(tmp_path, cell) == '10 updates in a row were skipped'
  text = outcome.write(full, tmp_path)
  assert 'diverged or had no examples: sft-0.003-seed0.' in text


@pytest.mark.long
def test_a_tiny_study_shares_its_corpus_and_resumes(tmp_path):
  """Two methods on one corpus, then one of pairs, with all measures."""
  done = start(tmp_path, '--only=hd_sft,hd_idft', '--cells=2')
  assert 'hd_idft-0.0003-seed0' not in done.stdout.split('###')[0]
  corpus = tmp_path / 'corpora' / 'hinted-seed0'
  made = {f: f.read_bytes() for f in corpus.rglob('*.jsonl')}
  assert made
  done = start(tmp_path, '--only=hd_sft,hd_idft,dpo-0.0001-seed0')
  assert made == {f: f.read_bytes() for f in corpus.rglob('*.jsonl')}
  records = [
      study.CellRecord.from_json(f.read_text(), f)
      for f in sorted(tmp_path.glob('cells/*/cell.json'))]
  assert [x.method for x in records] == ['dpo', 'hd_idft', 'hd_sft', 'untouched']
  base = records[-1].splits
  for found in records[:-1]:
    assert set(found.splits) == set(base) == {'target', 'generalisation', 'retained'}
    assert all(x.kl_to_base > 0 and x.own.entropy > 0 for x in found.splits.values())
    assert found.cost.generated and found.cost.trained and found.cost.flops
    assert found.data_before and 0 <= found.validation <= 1
  # The same corpus under the same model, whatever is trained on it.
  assert records[1].data_before == records[2].data_before
  assert records[1].data_after != records[2].data_after
  assert not list(tmp_path.glob('cells/*/checkpoints'))
  assert not list(tmp_path.glob('cells/*/model'))
  text = (tmp_path / 'study.md').read_text()
  assert text in done.stdout and '| hd_idft |' in text
  assert 'sft-0.0003-seed0' in text.split('cells are missing')[1]
  assert len(list((tmp_path / 'plots').glob('*.png'))) == 8
  # Only a method on the given solutions has a mechanism to measure.
  assert 'by phi' not in text
  text = start(tmp_path, '--only=sft').stdout
  assert (tmp_path / 'cells/sft-0.0003-seed0/model').exists()
  assert '| sft | NLL |' in text and '| sft | entropy |' in text
  assert json.loads((tmp_path / 'cells/hd_sft-0.0003-seed0/config.json').read_text())
