"""The page of a run that is stopped."""

import pytest

from ddt_jax import report
from experiments.run import lifecycle
from experiments.run import live


@pytest.mark.parametrize('ended, noted', [
    (SystemExit(lifecycle.RESUME), True), (KeyboardInterrupt(), True),
    (SystemExit(lifecycle.BAD_INPUT), False), (ValueError(), False)])
def test_a_stop_is_noted_and_an_error_is_not(tmp_path, monkeypatch, ended, noted):
  marks = []
  monkeypatch.setattr(report, 'mark_stopped', lambda *args: marks.append(args))
  with pytest.raises(type(ended)), live.says_stopped(tmp_path):
    assert marks == [(tmp_path, None)]  # at work
    raise ended
  assert len(marks) == 1 + noted
  assert not noted or marks[1][1] > 1.7e9


def test_a_run_that_ends_is_not_called_stopped(tmp_path):
  with live.says_stopped(tmp_path):
    pass
  assert not list(tmp_path.iterdir())
