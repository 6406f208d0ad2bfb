"""Ratios within a round, the warm-up round, and what is printed."""

import json

import pytest

from experiments.bench import paired


def test_a_ratio_is_of_the_same_round():
  # A slow second round slows both; the ratio of the medians would be 3.
  taken = {'a': [1.0, 10.0, 3.0], 'b': [1.0, 5.0, 1.0]}
  assert paired.ratio(taken, 'a', 'b') == {
      'median': 2.0, 'low': 1.0, 'high': 3.0, 'rounds': 3}
  with pytest.raises(ValueError):
    paired.ratio({'a': [1.0], 'b': [1.0, 2.0]}, 'a', 'b')


def test_the_warm_up_round_is_dropped_and_every_round_has_every_contender():
  called = []

  def in_parts():
    called.append('parts')
    return {'decode': float(called.count('parts'))}

  contenders = {'whole': lambda: called.append('whole'), 'parts': in_parts}
  taken = paired.seconds(contenders, 6)
  assert len(taken['whole']) == len(taken['parts']) == 6
  assert taken['parts, decode'] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
  rounds = [tuple(called[i:i + 2]) for i in range(0, 14, 2)]
  # Each round has both, and neither is always the first.
  assert {('whole', 'parts'), ('parts', 'whole')} == set(rounds)


def test_a_figure_is_printed_to_read_and_as_json(capsys):
  paired.show_seconds({'ours': [3.0, 1.0, 2.0]})
  paired.show('memory', {'MB': 1234.5}, '<= 2000')
  text, line, other, _ = capsys.readouterr().out.splitlines()
  assert text == 'ours, seconds: 2.000 (1.000 to 3.000)'
  assert json.loads(line) == {
      'figure': 'ours, seconds', 'target': '', 'median': 2.0, 'low': 1.0, 'high': 3.0}
  assert other == 'memory: MB 1,234; target <= 2000'
