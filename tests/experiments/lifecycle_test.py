"""How a command ends: mistakes in one line, bugs with their traceback."""

import pytest

from ddt_jax import errors
from ddt_jax import storage
from experiments.run import lifecycle


def test_errors_become_a_message(capsys):
  with pytest.raises(SystemExit) as ended:
    with lifecycle.explained_errors():
      raise FileNotFoundError('mine.jsonl is not there')
  assert ended.value.code == 2
  captured = capsys.readouterr()
  assert captured.err == 'error: mine.jsonl is not there\n'
  assert captured.out == ''


@pytest.mark.parametrize('kind', [
    errors.InputError, OSError, ImportError, storage.Locked, storage.Damaged,
])
def test_what_a_user_can_put_right_is_explained(kind):
  with pytest.raises(SystemExit):
    with lifecycle.explained_errors():
      raise kind('so it is')


def test_a_bug_keeps_its_traceback(capsys):
  for bug in (KeyError('loss'), ValueError('zip() argument 2 is shorter')):
    with pytest.raises(type(bug)):
      with lifecycle.explained_errors():
        raise bug
  with lifecycle.explained_errors():
    pass
  assert capsys.readouterr().err == ''
