"""Lines of metrics survive kills and resumes, on a disk and on an object store."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.training import metrics
from tests.support import fake_store

_FOREVER = """
import sys
from ddt_jax.training import metrics
writer = metrics.Writer(sys.argv[1], tensorboard=False)
for step in range(1, 4):
  writer.write(step, 'train', {'loss': 1 / step})
writer.flush()
writer.write(4, 'train', {'loss': 0.25})
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=['local', 'gs'])
def folder(request, tmp_path):
  """A folder of runs, of either kind."""
  if request.param == 'local':
    yield storage.path(tmp_path)
    return
  with fake_store.installed():
    yield storage.path('gs://bucket/runs')


def _train(writer, first, last):
  for step in range(first, last + 1):
    writer.write(step, 'train', {'loss': 1 / step, 'tokens_per_s': 100.0 + step})
    if step % 2 == 0:
      writer.write(step, 'validation', {'nll': 2 / step})


def _without_time(workdir):
  return [{k: v for k, v in row.items() if k not in metrics.TIME_FIELDS}
          for row in metrics.read(workdir)]


def test_lines_come_back_by_kind(folder):
  with metrics.Writer(folder, tensorboard=False) as writer:
    _train(writer, 1, 4)
  rows = metrics.read(folder)
  assert [row['step'] for row in rows] == [1, 2, 2, 3, 4, 4]
  assert rows[0]['loss'] == 1.0 and rows[0]['time'] > 0
  assert [row['nll'] for row in metrics.read(folder, 'validation')] == [1.0, 0.5]


def test_non_finite_numbers_stay_valid_json(tmp_path):
  with metrics.Writer(tmp_path, tensorboard=False) as writer:
    writer.write(1, 'train', {'loss': float('nan'), 'phi': float('-inf'), 'lr': 0})

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  text = (tmp_path / metrics.FILE).read_text()
  row = json.loads(text, parse_constant=refuse)
  assert (row['loss'], row['phi'], row['lr']) == (None, None, 0.0)


@pytest.mark.parametrize('saved', [0, 2, 3, 5])
def test_resumed_run_equals_unbroken_run(folder, saved):
  with metrics.Writer(folder / 'unbroken', tensorboard=False) as writer:
    writer.write(0, 'validation', {'nll': 9.0})
    _train(writer, 1, 6)
  with metrics.Writer(folder / 'broken', tensorboard=False) as writer:
    writer.write(0, 'validation', {'nll': 9.0})
    _train(writer, 1, 5)
  if '://' not in str(folder):  # an object is whole or absent
    with (folder / 'broken' / metrics.FILE).open('a') as file:
      file.write('{"step": 6, "kind": "tr')  # killed while it wrote this line
  with metrics.Writer(folder / 'broken', start_step=saved,
                      tensorboard=False) as writer:
    if saved == 0:
      writer.write(0, 'validation', {'nll': 9.0})  # measured again
    _train(writer, saved + 1, 6)
  assert _without_time(folder / 'broken') == _without_time(folder / 'unbroken')


def test_a_run_on_an_object_store_killed_at_any_change_resumes_exactly():
  def run(workdir, start_step):
    """Six steps, each flushed; from `start_step`, as after a resume."""
    with metrics.Writer(
        workdir, start_step=start_step, tensorboard=False) as writer:
      for step in range(start_step + 1, 7):
        writer.write(step, 'train', {'loss': 1 / step})
        writer.flush()
        flushed.append(step)

  for survived in range(20):
    flushed = []
    with fake_store.installed() as store:
      with fake_store.killed_after(survived) as killed:
        run('gs://bucket/run', 0)
      kept = storage.read_lines(f'gs://bucket/run/{metrics.FILE}')
      assert [json.loads(line)['step'] for line in kept] == flushed  # nothing lost
      run('gs://bucket/run', max(len(flushed) - 1, 0))
      assert [(row['step'], row['loss'])
              for row in metrics.read('gs://bucket/run')] == [
                  (step, 1 / step) for step in range(1, 7)]
      assert store.find('gs://bucket') == [f'bucket/run/{metrics.FILE}']
    if not killed:
      break
  assert survived == 6  # one upload a flush


def test_a_flush_that_fails_is_repeated_by_the_next(folder, monkeypatch):
  def refuse(*args):
    raise ConnectionError('try again')

  with metrics.Writer(folder, tensorboard=False) as writer:
    writer.write(1, 'train', {'loss': 1.0})
    writer.flush()
    writer.write(2, 'train', {'loss': 0.5})
    with monkeypatch.context() as m:
      m.setattr(storage, 'append', refuse)
      m.setattr(storage, 'publish', refuse)
      with pytest.raises(ConnectionError):
        writer.flush()
    writer.write(3, 'train', {'loss': 0.25})
  assert [row['step'] for row in metrics.read(folder)] == [1, 2, 3]


def test_killed_process_keeps_what_was_flushed(tmp_path):
  root = pathlib.Path(metrics.__file__).parents[2]
  process = subprocess.Popen(
      [sys.executable, '-c', _FOREVER, str(tmp_path)], cwd=root,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == 'ready\n'
  finally:
    process.kill()
    process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert [row['step'] for row in metrics.read(tmp_path)][:3] == [1, 2, 3]
  with metrics.Writer(tmp_path, start_step=2, tensorboard=False) as writer:
    writer.write(3, 'train', {'loss': 0.5})
  assert [row['step'] for row in metrics.read(tmp_path)] == [1, 2, 3]
  assert metrics.read(tmp_path)[-1]['loss'] == 0.5


def test_lines_reach_the_file_without_a_close(tmp_path, monkeypatch):
  monkeypatch.setattr(metrics, '_FLUSH_SECONDS', 0.0)
  writer = metrics.Writer(tmp_path, tensorboard=False)
  writer.write(1, 'train', {'loss': 0.5})
  assert metrics.read(tmp_path)[0]['loss'] == 0.5


def test_tensorboard_has_the_tags_of_both_parts_of_a_resumed_run(tmp_path):
  for start in (0, 2):
    with metrics.Writer(tmp_path, start_step=start) as writer:
      _train(writer, start + 1, start + 2)
  files = sorted((tmp_path / 'tensorboard').iterdir())
  assert len(files) == 2  # Within one second, and still two files.
  for file in files:
    assert b'train/loss' in file.read_bytes()
    assert b'validation/nll' in file.read_bytes()


def test_missing_wandb_is_explained(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ImportError, match=r'ddt_jax\[wandb\]'):
    metrics.Writer(tmp_path, tensorboard=False, wandb='project')


def test_wandb_resumes_the_same_run(tmp_path, monkeypatch):
  class Wandb:
    opened, logged = [], []

    def init(self, **kwargs):
      self.opened.append(kwargs)
      return self

    def log(self, scalars, step):
      self.logged.append((step, scalars))

    def finish(self):
      pass

  monkeypatch.setitem(sys.modules, 'wandb', Wandb())
  for start in (0, 1):
    with metrics.Writer(tmp_path, start_step=start, tensorboard=False,
                        wandb='project', config={'seed': 0}) as writer:
      writer.write(start + 1, 'train', {'loss': 0.5})
  first, second = Wandb.opened
  assert first['project'] == 'project' and first['id'] == second['id']
  assert first['config'] == {'seed': 0}
  assert Wandb.logged == [(1, {'train/loss': 0.5}), (2, {'train/loss': 0.5})]


def test_reserved_name_is_refused(tmp_path):
  with metrics.Writer(tmp_path, tensorboard=False) as writer:
    with pytest.raises(ValueError, match="'step'"):
      writer.write(1, 'train', {'step': 3.0})


def test_folder_without_metrics_is_named(tmp_path):
  with pytest.raises(errors.InputError, match='metrics.jsonl') as e:
    metrics.read(tmp_path)
  assert str(tmp_path) in str(e.value)


@pytest.mark.parametrize('line', ['{"step": 2,', '[]', '3', '{"step": 2}'])
def test_a_damaged_line_is_named(tmp_path, line):
  with metrics.Writer(tmp_path, tensorboard=False) as writer:
    writer.write(1, 'train', {'loss': 0.5})
  file = tmp_path / metrics.FILE
  file.write_text(f'{file.read_text()}{line}\n')
  for use in (metrics.read, metrics.Writer):
    with pytest.raises(errors.InputError, match='metrics.jsonl:2: '):
      use(tmp_path)
