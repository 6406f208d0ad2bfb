"""The phase diagram: differences at equal rate, and at equal gain, by hand."""

import dataclasses

import pytest

from ddt_jax.report import study
from ddt_jax.report.study import phase
from tests.report import study_test

PAIRS = [('sft', 'idft'), ('sft_own', 'idft_own'), ('sft_never', 'idft_never')]


@pytest.fixture
def found():
  some = study_test.results(
      sft=(1.0, 0.5), idft=(0.75, 1.0), sft_own=(0.75, 0.75), idft_own=(0.75, 0.75))
  # The corpora differ in phi; without this all would be at the same height.
  cells = [
      dataclasses.replace(x, data_before=study.Texts(0.3, 0.01, 0.3))
      if 'own' in x.method else x for x in some.cells]
  return study.Results(cells, some.chosen)


def test_rows_are_sorted_by_phi_and_hold_differences_in_points(found):
  own, given = phase.rows(found, PAIRS)
  assert (own.phi, given.phi) == pytest.approx((0.01, -0.119))
  assert own.target == own.retained == [0.0, 0.0]
  assert given.target == pytest.approx([-25.0] * 2)
  assert given.retained == pytest.approx([50.0] * 2)
  assert given.rates == [3e-4, 1e-3]


def test_at_equal_gain_a_curve_is_read_where_it_first_reaches_the_level(found):
  rows = phase.at_equal_gain(found, phase.rows(found, PAIRS)).rows
  # Given: SFT gains 50 and loses 50, IDFT gains 25 and loses nothing; both from (0, 0).
  quarter, half, most = rows[3:]
  assert quarter == ['-0.12', '12.5', '-12.5', '+0.0', '+12.5']
  assert half[1:] == ['25.0', '-25.0', '+0.0', '+25.0']
  assert most[1:] == ['37.5', '-37.5', 'not reached', '']


def test_the_diagram_shows_its_numbers(found):
  fig = phase.diagram(phase.rows(found, PAIRS))
  left, right = fig.axes
  assert [t.get_text() for t in left.texts] == ['+0.0', '+0.0', '-25.0', '-25.0']
  assert [t.get_text() for t in right.texts] == ['+0.0', '+0.0', '+50.0', '+50.0']


def test_ablations_are_compared_with_their_method(tmp_path, found):
  text = study.write(
      tmp_path, found, groups={'given': ['sft', 'idft']}, phi={}, missing=[],
      pairs=PAIRS, changed={'sft_own': 'sft', 'idft_never': 'idft'})
  line = next(x for x in text.splitlines() if x.startswith('| sft_own | sft |'))
  cells = [x.strip() for x in line.split('|')[1:-1]]
  # 30 of 40 against all: less 25 points; retained half against three quarters.
  assert cells[5] == '-25.0' and cells[7] == '+25.0'
  assert (tmp_path / 'plots' / 'phase_dark.png').exists()
  # The main tables have the methods of the groups alone.
  first = text.split('### All rates')[0]
  assert '| sft |' in first and 'own' not in first
