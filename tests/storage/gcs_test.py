"""A run on gs://: the real clients, against a store that cannot rename.

gcsfs is what `storage` and `epath` use, tensorstore what Orbax uses, and
google-cloud-storage what tensorboardX uses.
"""

import json
import os
import signal
import time

from etils.epath import backend
import fsspec
from fsspec.registry import _registry
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import storage
from ddt_jax.storage import locks
from ddt_jax.training import checkpoint
from ddt_jax.training import metrics
from tests.experiments import pipeline_test
from tests.support import commands
from tests.support import fake_gcs
from tests.support import paths

gcsfs = pytest.importorskip('gcsfs', reason='gs:// needs the extra [gcs]')


@pytest.fixture(scope='module')
def server():
  """The store to which the clients of this process go."""
  core = gcsfs.core.GCSFileSystem  # see Server.environment for the reason
  with fake_gcs.Server() as server, pytest.MonkeyPatch.context() as m:
    for name, value in server.environment().items():
      m.setenv(name, value)
    m.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})
    m.setitem(_registry, 'gcs', core)
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield server
    core.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def folder(server, request):
  """A folder of the test's own, in which nothing was renamed or copied."""
  server.refused.clear()
  yield storage.path(f'gs://bucket/{request.node.name}')
  assert not server.refused


def key(path):
  """The object's name, with its bucket's."""
  return os.fspath(path).removeprefix('gs://')


def names(server, folder):
  """Of the objects in a folder, relative to it."""
  prefix = key(folder) + '/'
  return sorted(
      path.removeprefix(prefix) for path in server.objects
      if path.startswith(prefix))


def test_the_store_refuses_to_rename_and_to_copy(server, folder):
  storage.publish(folder / 'old', 'x')
  with pytest.raises(OSError, match='Forbidden'):
    (folder / 'old').rename(folder / 'new')
  assert names(server, folder) == ['old']
  assert 'rewriteTo' in server.refused[-1]
  server.refused.clear()


def test_published_lines_are_read_back(server, folder):
  file = folder / 'metrics.jsonl'
  assert storage.read_lines(file) == []
  for text in ('a\nb\n', 'e\u2028\n'):
    storage.publish(file, text)
    assert storage.read_lines(file) == text.split('\n')[:-1]
    assert names(server, folder) == ['metrics.jsonl']


def write_steps(folder, first, last, *, start_step=0):
  with metrics.Writer(folder, start_step=start_step, tensorboard=False) as writer:
    for step in range(first, last + 1):
      writer.write(step, 'train', {'loss': 1 / step})
      writer.flush()


def test_metrics_are_one_object_and_continue_after_a_resume(server, folder):
  write_steps(folder, 1, 5)
  assert names(server, folder) == [metrics.FILE]
  write_steps(folder, 4, 6, start_step=3)
  rows = metrics.read(folder)
  assert [(row['step'], row['loss']) for row in rows] == [
      (step, 1 / step) for step in range(1, 7)]
  assert names(server, folder) == [metrics.FILE]


def test_what_another_host_writes_is_seen(server, folder):
  storage.publish(folder / 'lines', 'a\n')
  assert storage.read_lines(folder / 'lines') == ['a']
  assert len(list(folder.iterdir())) == 1
  server.put(f'{key(folder)}/lines', b'a\nb\n')
  server.put(f'{key(folder)}/other', b'')
  assert storage.read_lines(folder / 'lines') == ['a', 'b']
  assert (folder / 'other').exists()
  assert len(list(folder.iterdir())) == 2


def test_a_large_file_goes_up_in_pieces(server, folder):
  data = np.random.default_rng(0).bytes(51 * 2**20)
  server.uploads.clear()
  storage.publish(folder / 'large', data)
  assert len(server.uploads) == 1
  assert server.objects[key(folder / 'large')].data == data
  with (folder / 'large').open('rb') as f:
    f.seek(50 * 2**20)
    assert f.read() == data[50 * 2**20:]


@pytest.mark.parametrize('size', [1, 2**20])  # of a part; sent from 5 MB on
def test_parts_go_up_as_one_object_or_not_at_all(server, folder, size):
  def parts(count, fail):
    for i in range(count):
      yield bytes([i]) * size
    if fail:
      raise RuntimeError('no more')

  name = key(folder / 'parts')
  storage.publish(folder / 'parts', parts(12, fail=False))
  assert server.objects[name].data == b''.join(parts(12, fail=False))
  server.uploads.clear()
  with pytest.raises(RuntimeError, match='no more'):
    storage.publish(folder / 'parts', parts(12, fail=True))
  assert server.objects[name].data == b''.join(parts(12, fail=False))
  assert names(server, folder) == ['parts'] and not server.uploads


def test_a_seal_tells_what_has_changed(server, folder):
  for i in range(12):  # several pages of a listing
    storage.publish(folder / 'deep' / f'{i:02d}.txt', f'{i}')
  storage.publish(folder / 'empty', '')
  storage.seal(folder)
  storage.check_seal(folder)
  changed = key(folder / 'deep' / '11.txt')
  server.put(changed, b'12')
  with pytest.raises(storage.Damaged, match='11.txt has changed'):
    storage.check_seal(folder)
  server.delete(changed)
  with pytest.raises(storage.Damaged, match='11.txt is missing'):
    storage.check_seal(folder)


def test_a_seal_of_objects_is_made_without_reading_them(server, folder, tmp_path):
  for i in range(12):
    storage.publish(folder / f'{i:02d}.txt', f'{i}' * 1000)
  server.read.clear()
  storage.seal(folder)
  storage.check_seal(folder)
  assert set(server.read) == {key(folder / storage.SEAL)}
  # A local copy has the same seal, whose checksums are then computed.
  copy = tmp_path / 'copy'
  for name in names(server, folder):
    storage.publish(copy / name, (folder / name).read_bytes())
  storage.check_seal(copy)
  (copy / '03.txt').write_bytes(b'4' * 1000)
  with pytest.raises(storage.Damaged, match='03.txt has changed'):
    storage.check_seal(copy)


def test_a_folder_that_was_sealed_elsewhere_is_read(server, folder, tmp_path):
  local = tmp_path / 'local'
  storage.publish(local / 'file', 'x')
  storage.seal(local)
  for name in ('file', storage.SEAL):
    storage.publish(folder / name, (local / name).read_bytes())
  storage.check_seal(folder)
  storage.publish(folder / 'file', 'y')
  with pytest.raises(storage.Damaged, match='file has changed'):
    storage.check_seal(folder)


def age(server, folder):
  """As if the owner had died five minutes ago."""
  name, = names(server, folder / locks.LOCK)
  path = f'{key(folder / locks.LOCK)}/{name}'
  holder = json.loads(server.objects[path].data)
  holder['time'] -= locks._STALE_S
  server.put(path, json.dumps(holder).encode())


def test_a_folder_has_one_owner(server, folder, monkeypatch):
  with storage.lock(folder):
    with pytest.raises(storage.Locked, match=f'process {os.getpid()} '):
      with storage.lock(folder):
        pytest.fail('two owners')
    with monkeypatch.context() as m:  # a rival that looked a moment too early
      m.setattr(locks, '_find', lambda *args: [])
      with pytest.raises(storage.Locked, match=f'process {os.getpid()} '):
        with storage.lock(folder):
          pytest.fail('two owners')
    age(server, folder)
    with storage.lock(folder):
      assert names(server, folder) == [f'{locks.LOCK}/00000001']
  assert names(server, folder) == []


def test_checkpoints_are_kept_and_a_damaged_one_is_passed_over(server, folder):
  checkpoints = checkpoint.Checkpoints(folder, keep=2)
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def state(step):
    return {'w': jnp.arange(600.).reshape(20, 30) + step, 'n': jnp.array(step)}

  abstract = checkpoint.abstract(state(0), {'w': where, 'n': where})

  def check(step):
    found, progress = checkpoints.restore(abstract)
    assert progress == {'step': step}
    jax.tree.map(np.testing.assert_array_equal, found, state(step))

  assert checkpoints.steps() == [] and checkpoints.restore(abstract) is None
  for step in (1, 2, 3):
    checkpoints.save(step, state(step), {'step': step})
  assert checkpoints.steps() == [2, 3]
  assert {n.split('/')[1] for n in names(server, folder)} == {
      '00000002', '00000003'}
  check(3)
  newest = key(folder / 'checkpoints' / '00000003')
  path = max(
      (p for p in server.objects if p.startswith(newest)),
      key=lambda p: len(server.objects[p].data))
  server.put(path, server.objects[path].data[:-1] + b'?')
  check(2)
  server.delete(f'{newest}/{storage.SEAL}')  # as if the save was cut off
  assert checkpoints.steps() == [2]
  checkpoints.save(3, state(3), {'step': 3})
  check(3)


# The whole run ----------------------------------------------------------------


def start(server, workdir):
  return commands.start(
      *pipeline_test.command(workdir, **pipeline_test.TWO_ROUNDS),
      start_new_session=True, **server.environment())


def untimed(tree):
  """Results without the seconds that things took."""
  if isinstance(tree, list):
    return [untimed(x) for x in tree]
  if isinstance(tree, dict):
    return {k: untimed(v) for k, v in tree.items()
            if k not in ('seconds', 'timings')}
  return tree


@pytest.mark.slow
def test_a_killed_run_ends_as_one_on_a_local_disk(server, folder, tmp_path):
  whole = pipeline_test.call(tmp_path, **pipeline_test.TWO_ROUNDS)
  assert whole.returncode == 0, whole.stderr[-2000:]

  process = start(server, folder)
  after_one_round = key(folder / 'checkpoints' / '00000003' / storage.SEAL)
  while after_one_round not in server.objects:
    assert process.poll() is None, process.stderr.read()[-2000:]
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()

  _, said = (process := start(server, folder)).communicate(timeout=300)
  assert process.returncode == 2 and 'its lock expires in' in said, said[-2000:]
  age(server, folder)  # or else the test would wait for five minutes
  _, said = (process := start(server, folder)).communicate(timeout=300)
  assert process.returncode == 0, said[-2000:]

  found, expected = map(pipeline_test.produced, (folder, tmp_path))
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name] == value, name
  results = [
      json.loads((f / 'results.json').read_text()) for f in (folder, tmp_path)]
  assert untimed(results[0]) == untimed(results[1])
  for file in sorted((tmp_path / 'model').iterdir()):
    stored = server.objects[key(folder / 'model' / file.name)]
    # The model card has the command, and so the run's folder.
    found, expected = (
        data.replace(os.fspath(f).encode(), b'DIR') for data, f in (
            (stored.data, folder), (file.read_bytes(), tmp_path)))
    assert found == expected, file.name
  files = [f for f in tmp_path.rglob('*') if f.is_file()]
  made = {str(f.relative_to(tmp_path)) for f in files}
  named_alike = {n for n in made if n.split('/')[0] not in (
      locks.LOCK, 'best', 'checkpoints', 'tensorboard')}
  assert {'results.json', 'report.html', 'plots/loss.png'} <= named_alike
  in_store = set(names(server, folder))
  assert named_alike <= in_store
  assert any(n.startswith('tensorboard/events.') for n in in_store)
  assert not any(n.startswith(locks.LOCK) for n in in_store)
  assert not (paths.ROOT / 'gs:').exists()
