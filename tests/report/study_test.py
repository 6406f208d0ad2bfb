"""The study's tables: hand-made cells, whose differences are known."""

import dataclasses

import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax.report import study
from ddt_jax.report import style
from ddt_jax.report.study import claims
from ddt_jax.report.study import plots
from ddt_jax.report.study import tables

PROBLEMS, SAMPLES = 40, 4


def cell(method, rate, seed, target, retained=0.9):
  """A cell with these shares of right samples, the same for each problem."""
  def split(share, kl):
    right = np.full(PROBLEMS, round(SAMPLES * share))
    right[:seed] -= 1  # seeds differ
    return study.SplitRecord(
        greedy=(1,) * int(share * PROBLEMS) + (0,) * (PROBLEMS - int(share * PROBLEMS)),
        right=tuple(right.tolist()), samples=SAMPLES, tokens=50.0,
        kl_to_base=kl, own=study.Texts(0.3, 0.0, 0.3))

  kl = rate or None
  texts = study.Texts(0.296, -0.119, 0.2) if rate else None
  return study.CellRecord(
      method, rate, seed, 0.7 if rate else None,
      {'target': split(target, kl), 'retained': split(retained, kl)}, texts, texts,
      2000, 63, study.Cost(1000, 2000, 1e12, 30.0))


def results(**methods):
  """Cells of methods (name=(target, retained)) at two rates, with three seeds."""
  some = [cell('untouched', 0.0, seed, 0.5) for seed in range(3)]
  some += [cell(m, rate, seed, *shares) for m, shares in methods.items()
           for rate in (3e-4, 1e-3) for seed in range(3)]
  return study.Results(some, dict.fromkeys(methods, 3e-4))


@pytest.fixture
def found():
  return results(sft=(0.75, 0.5), idft=(0.5, 0.75), rft=(0.75, 0.5))


def test_a_cell_survives_its_file(found):
  first = found.cells[3]
  assert study.CellRecord.from_json(first.to_json()) == first
  with pytest.raises(errors.InputError, match='as many of both'):
    dataclasses.replace(first.splits['target'], greedy=(1,))


def test_gains_are_paired_with_the_untouched_model_of_the_seed(found):
  sft = found.at('sft')
  assert [found.gain(x, 'target') for x in sft] == pytest.approx([25.0] * 3)
  assert [found.gain(x, 'retained') for x in sft] == pytest.approx([-50.0] * 3)
  assert found.gain(sft[0], 'elsewhere') is None


def test_the_table_of_chosen_rates_by_hand(found):
  content = tables.chosen(found, ks=(0, 1, 16))
  # No column for pass@16: there are 4 samples.
  assert content.header[3:] == [
      'target, greedy', 'target, pass@1', 'retained, greedy', 'retained, pass@1']
  assert [row[0] for row in content.rows] == ['untouched', 'sft', 'idft', 'rft']
  # 30 of 40; three quarters, less 0, 1 and 2 of 160 samples.
  assert content.rows[1][:5] == ['sft', '0.0003', '3', '75.0 ± 0.0', '74.4 ± 1.6']


def test_the_verdicts_name_the_best_of_each_split(found):
  # 40 problems, 4 samples; seeds have 0, 1 and 2 right samples less.
  assert tables.verdicts(found) == [
      'target: sft has the highest pass@1, 74.4 %; untouched 49.4 %.',
      'retained: untouched has the highest pass@1, 99.4 %; untouched 99.4 %.']


def test_every_row_has_a_cell_for_each_column(found):
  some = tables.contrasts(found, claims.pairs(found.methods))
  for content in (
      tables.chosen(found), tables.all_rates(found), tables.costs(found),
      tables.comparisons(some), claims.claims(some)):
    assert content.rows
    assert {len(row) for row in content.rows} == {len(content.header)}
  assert sum('*' in row[1] for row in tables.all_rates(found).rows) == 3


def test_contrasts_say_who_is_higher_and_what_is_equal(found):
  some = {(x.a, x.b, x.split): x for x in tables.contrasts(
      found, [('sft', 'idft'), ('sft', 'rft'), ('sft', 'never run')])}
  assert len(some) == 4
  assert some['sft', 'idft', 'target'].verdict == 'idft is lower'
  assert some['sft', 'idft', 'retained'].verdict == 'idft is higher'
  assert some['sft', 'rft', 'target'].verdict == 'not told apart'


def test_claims_hold_or_fail_or_are_not_run(found):
  said = {row[0]: row[-1] for row in claims.claims(
      tables.contrasts(found, claims.pairs(found.methods))).rows}
  assert said['IDFT (gamma_max 2) learns more than SFT on given solutions'] == claims.FAILS
  assert said['IDFT (gamma_max 2) forgets less than SFT on given solutions'] == claims.HOLDS
  assert said['DFT learns more than SFT on given solutions'] == claims.NOT_RUN


def test_a_claim_of_two_equal_methods_stays_open():
  equal = results(sft=(0.75,), dft=(0.75,))
  said = {row[0]: row[-1] for row in claims.claims(
      tables.contrasts(equal, claims.pairs(equal.methods))).rows}
  assert said['DFT learns more than SFT on given solutions'] == claims.OPEN


def test_as_good_needs_the_whole_interval_above_the_margin():
  near = results(hd_sft=(0.75,), hd_idft=(0.75,))
  said = {row[0]: row[-1] for row in claims.claims(
      tables.contrasts(near, claims.pairs(near.methods))).rows}
  assert said['IDFT (gamma_max 2) learns as much as SFT on hinted data'] == claims.HOLDS


def test_curves_carry_their_names_and_stand_apart_without_colour(found):
  methods = ['sft', 'idft', 'rft']
  looks = [plots.look(methods, m)['marker'] for m in methods]
  assert len(set(looks)) == 3
  fig = plots.frontier(found, {'given': ['sft', 'idft', 'absent'], 'own': ['rft']})
  named = {t.get_text(): t for axes in fig.axes for t in axes.texts}
  assert list(named) == ['idft', 'sft', 'rft']  # from below
  # A loss on retained tasks is to the right, a gain on the target above.
  assert named['sft'].xy == pytest.approx((50.0, 25.0))


def test_names_that_would_overlap_are_pushed_apart():
  axes = style.make_figure('', 3).subplots()
  axes.set_ylim(0, 1)
  points = {'a': (0.5, 0.98), 'b': (0.5, 0.99), 'c': (0.5, 1.0), 'd': (0.5, 0.1)}
  plots.name_beside(axes, points, dict.fromkeys(points, 'C0'))
  at = [t.get_position()[1] for t in axes.texts]
  assert at[0] == pytest.approx(0.1) and max(at) == pytest.approx(1.0)
  assert min(np.diff(at)) > 0.05


def test_the_page_and_its_files(tmp_path, found):
  text = study.write(
      tmp_path, found, groups={'given': ['sft', 'idft'], 'own': ['rft']},
      phi={'sft': ([1, 2], [-0.1, 0.0])}, missing=['dft-0.001-seed0'],
      failed=['sft-1-seed0'])
  assert (tmp_path / 'study.md').read_text() == text
  assert '1 cell is missing: dft-0.001-seed0.' in text
  assert 'diverged or had no examples: sft-1-seed0.' in text
  names = {f'{n}_{t}.png' for n in ('frontier', 'drift', 'cost', 'phi')
           for t in ('light', 'dark')}
  assert {f.name for f in (tmp_path / 'plots').iterdir()} == names
  assert 'Claims of the paper' in (tmp_path / 'study.html').read_text()


def test_without_cells_everything_is_missing(tmp_path):
  text = study.write(
      tmp_path, study.Results([], {}), groups={}, phi={}, missing=['a', 'b'])
  assert '2 cells are missing: a, b.' in text
