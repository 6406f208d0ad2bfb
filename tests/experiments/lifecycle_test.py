"""How a command ends: mistakes in one line, bugs with their traceback."""

import subprocess
import sys

import jax
import pytest

from ddt_jax import errors
from ddt_jax import storage
from experiments.run import lifecycle
from tests.support import commands
from tests.support import paths


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


def test_hosts_of_a_tpu_vm_find_each_other_before_anything_else(monkeypatch):
  calls = []

  def initialize(*address, **options):
    calls.append((address, options))
    raise InterruptedError  # what comes later needs the other hosts

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.delenv('JAX_COORDINATOR_ADDRESS', raising=False)
  monkeypatch.setenv('DDT_JAX_HOSTS', '4')
  with pytest.raises(InterruptedError):
    lifecycle.start()
  assert calls == [((), {'initialization_timeout': 1800})]


def test_hosts_that_do_not_find_each_other_do_not_train_alone(monkeypatch):
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **options: None)
  monkeypatch.delenv('JAX_COORDINATOR_ADDRESS', raising=False)
  monkeypatch.setenv('DDT_JAX_HOSTS', '4')
  with pytest.raises(errors.InputError, match=r'is 4, but JAX sees 1 process'):
    lifecycle.start()


def test_commands_do_not_use_jax_when_they_are_imported():
  # jax.distributed.initialize must come before the first use of a device.
  code = (
      'from experiments import curate, evaluate, rewrite, score, train\n'
      'from jax._src import xla_bridge\n'
      'assert not xla_bridge.backends_are_initialized()')
  subprocess.run(
      [sys.executable, '-c', code], cwd=paths.ROOT, env=commands.environment(),
      check=True, timeout=120)
