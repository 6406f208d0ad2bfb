"""Kills, full disks, flipped bits, second processes; gs:// on a fake store."""
import errno
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import fsspec
from fsspec.registry import _registry
import hypothesis
from hypothesis import strategies as st
import pytest

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.storage import files
from ddt_jax.storage import locks
from tests.support import fake_store

ROOT = pathlib.Path(storage.__file__).parents[2]
FILE = 'gs://bucket/run/metrics.jsonl'


@pytest.fixture
def store():
  with fake_store.installed() as store:
    yield store


@pytest.fixture(params=['local', 'gs'])
def folder(request, tmp_path):
  """A run's folder, of either kind."""
  if request.param == 'gs':
    request.getfixturevalue('store')
    return storage.path('gs://bucket/run')
  return storage.path(tmp_path / 'run')


def start(code: str, *args) -> subprocess.Popen:
  return subprocess.Popen(
      [sys.executable, '-c', code, *map(str, args)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE)


def kill(process: subprocess.Popen) -> None:
  process.kill()
  process.wait()
  process.stdout.close()


# Paths ------------------------------------------------------------------------


def test_path_expands_home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  assert os.fspath(storage.path('~/run')) == '/home/someone/run'


def test_path_rejects_other_schemes():
  with pytest.raises(errors.InputError, match='only local paths and gs://'):
    storage.path('http://host/run')


def test_gs_without_gcsfs_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  monkeypatch.delitem(_registry, 'gcs', raising=False)
  with pytest.raises(ImportError, match=r"pip install -e '\.\[gcs\]'"):
    storage.path('gs://bucket/run')


def test_listings_are_not_cached(store):
  storage.path('gs://bucket')
  assert not fsspec.filesystem('gcs').dircache.use_listings_cache


# publish, append, read_lines --------------------------------------------------


def test_publish_replaces_and_makes_parents(folder):
  file = folder / 'a' / 'b.txt'
  storage.publish(file, 'old')
  storage.publish(str(file), b'n\xc3\xa9w')
  assert file.read_text() == 'néw'
  assert [f.name for f in file.parent.iterdir()] == ['b.txt']


def test_publish_takes_parts_and_keeps_the_old_content_on_an_error(folder):
  def parts(fail):
    yield b'1'
    yield memoryview(b'23')
    if fail:
      raise RuntimeError('no more')
    yield b''

  file = folder / 'parts'
  storage.publish(file, parts(False))
  assert file.read_bytes() == b'123'
  storage.publish(file, 'old')
  with pytest.raises(RuntimeError, match='no more'):
    storage.publish(file, parts(True))
  assert file.read_bytes() == b'old'
  assert [f.name for f in folder.iterdir()] == ['parts']


def test_published_file_has_the_usual_mode(tmp_path):
  storage.publish(tmp_path / 'published', 'x')
  (tmp_path / 'plain').write_text('x')
  modes = [(tmp_path / f).stat().st_mode for f in ('published', 'plain')]
  assert modes[0] == modes[1]


def test_publish_follows_a_link(tmp_path):
  (tmp_path / 'link').symlink_to(tmp_path / 'target')
  storage.publish(tmp_path / 'link', 'x')
  assert (tmp_path / 'link').is_symlink()
  assert (tmp_path / 'target').read_text() == 'x'


LINES = ['{"text": "a\u2028b\x0cc"}', '', 'é\r', *map(str, range(12))]


def test_published_lines_come_back_in_order(folder):
  file = folder / 'metrics.jsonl'
  assert storage.read_lines(file) == []
  storage.publish(file, ''.join(line + '\n' for line in LINES))
  assert storage.read_lines(file) == LINES
  storage.publish(file, '1\n2\ntorn')
  assert storage.read_lines(file) == ['1', '2']
  storage.publish(file, 'torn')
  assert storage.read_lines(file) == []


def test_appended_lines_come_back_in_order(tmp_path):
  file = tmp_path / 'run' / 'metrics.jsonl'
  for line in LINES:
    storage.append(file, line + '\n')
  assert file.exists()
  assert storage.read_lines(file) == LINES


def test_publish_and_append_mix(tmp_path):
  file = tmp_path / 'metrics.jsonl'
  storage.publish(file, '1\n2\n')
  storage.append(file, '3\n4\n')
  storage.append(file, '5\n')
  assert storage.read_lines(file) == ['1', '2', '3', '4', '5']
  storage.publish(file, '1\n')
  assert storage.read_lines(file) == ['1']
  storage.append(file, '2\n')
  assert storage.read_lines(file) == ['1', '2']
  storage.publish(file, 'torn')
  storage.append(file, '6\n')
  assert storage.read_lines(file) == ['6']


def test_an_object_is_not_appended_to(store):
  storage.publish(FILE, '1\n')
  with pytest.raises(ValueError, match='publish the whole'):
    storage.append(FILE, '2\n')
  assert store.find('gs://bucket') == [FILE.removeprefix('gs://')]
  assert storage.read_lines(FILE) == ['1']


def test_append_rejects_half_a_line(folder):
  with pytest.raises(ValueError, match='whole lines'):
    storage.append(folder / 'metrics.jsonl', '{"step": 1')


@hypothesis.example(['\r', 'torn'], 0.7, 1)
@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\n'))),
    st.floats(0, 1), st.sampled_from([1, 3, 1 << 16]))
def test_a_torn_tail_is_ignored_and_cut(lines, share, block):
  data = ''.join(line + '\n' for line in lines).encode()
  torn = data[:round(share * len(data))]
  whole = lines[:torn.count(b'\n')]
  with pytest.MonkeyPatch.context() as m, tempfile.TemporaryDirectory() as folder:
    m.setattr(files, '_BLOCK', block)
    file = storage.path(folder) / 'log'
    file.write_bytes(torn)
    assert storage.read_lines(file) == whole
    storage.append(file, 'next\n')
    # Bytes: reading as text would turn '\r' into '\n'.
    assert file.read_bytes().decode().split('\n') == [*whole, 'next', '']


def test_sigkill_while_publishing(tmp_path):
  file = tmp_path / 'state'
  code = '''
import itertools, sys
from ddt_jax import storage
for i in itertools.count():
  storage.publish(sys.argv[1], f'{i} ' * 100_000)
'''
  for _ in range(3):
    process = start(code, file)
    try:
      wait_for(file.exists)
      until = time.monotonic() + random.uniform(0.1, 0.5)
      while time.monotonic() < until:
        assert_one_content(file)
    finally:
      kill(process)
    assert_one_content(file)
    file.unlink()


def assert_one_content(file):
  words = file.read_text().split()
  assert len(words) == 100_000 and len(set(words)) == 1


def test_sigkill_while_appending(tmp_path):
  file = tmp_path / 'log.jsonl'
  code = '''
import itertools, json, sys
from ddt_jax import storage
for i in itertools.count(len(storage.read_lines(sys.argv[1]))):
  row = json.dumps({'i': i, 'pad': 'x' * 50_000})
  storage.append(sys.argv[1], row + '\\n')
'''
  seen = 0
  for _ in range(3):
    process = start(code, file)
    try:
      wait_for(lambda: len(storage.read_lines(file)) > seen)  # noqa: B023
      time.sleep(random.uniform(0, 0.1))
    finally:
      kill(process)
    rows = [json.loads(line) for line in storage.read_lines(file)]
    assert [row['i'] for row in rows] == list(range(len(rows)))
    assert all(len(row['pad']) == 50_000 for row in rows)
    seen = len(rows)


def wait_for(condition, seconds=20):
  until = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.01)


@pytest.mark.parametrize('function', ['publish', 'append'])
def test_full_disk_keeps_the_old_content(tmp_path, function):
  # The limit on a file's size cuts a write short, as a full disk does.
  code = '''
import resource, sys
from ddt_jax import storage
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
  getattr(storage, sys.argv[1])(sys.argv[2], 'new\\n' * 1_000_000)
except OSError as error:
  print(error.errno)
'''
  file = tmp_path / 'file'
  file.write_text('old\n')
  process = start(code, function, file)
  assert process.communicate(timeout=30)[0].strip() == str(errno.EFBIG)
  assert file.read_text() == 'old\n'
  assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('function', [storage.publish, storage.append])
def test_disk_full_at_fsync_keeps_the_old_content(
    tmp_path, monkeypatch, function):
  def full(fd):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  file = tmp_path / 'file'
  file.write_text('old\n')
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    function(file, 'new\n')
  assert file.read_text() == 'old\n'
  assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('new', [[], ['1'], ['1', '2'], ['9']])
def test_publish_over_an_object_is_atomic_at_every_kill(store, new):
  old = ['1', '2', '3', '4']
  for survived in range(20):
    store.store.clear()
    storage.publish(FILE, ''.join(line + '\n' for line in old))
    with fake_store.killed_after(survived) as killed:
      storage.publish(FILE, ''.join(line + '\n' for line in new))
    assert storage.read_lines(FILE) == (new if survived else old)
    # The next run continues from the state that the kill left.
    storage.publish(FILE, 'last\n')
    assert storage.read_lines(FILE) == ['last']
    assert store.find('gs://bucket') == [FILE.removeprefix('gs://')]
    if not killed:
      break
  assert not killed and survived == 1  # one upload


@pytest.mark.parametrize('when', ['before', 'after'])
def test_reader_is_not_torn_by_a_publish_meanwhile(store, monkeypatch, when):
  storage.publish(FILE, '1\n2\n3\n')
  cat_file, requests = fake_store.FakeStore.cat_file, []

  def cat_with_rival(self, *args, **kwargs):
    requests.append(args)
    if when == 'before':
      storage.publish(FILE, 'a\nb\n')
    content = cat_file(self, *args, **kwargs)
    storage.publish(FILE, 'a\nb\n')
    return content

  monkeypatch.setattr(fake_store.FakeStore, 'cat_file', cat_with_rival)
  lines = storage.read_lines(FILE)
  assert lines == (['a', 'b'] if when == 'before' else ['1', '2', '3'])
  assert len(requests) == 1  # a second one could meet another version


def test_a_failing_download_is_not_taken_for_a_missing_file(store, monkeypatch):
  storage.publish(FILE, '1\n')

  def fail(self, path, **kwargs):
    raise ConnectionError('try again')

  monkeypatch.setattr(fake_store.FakeStore, 'cat_file', fail)
  with pytest.raises(ConnectionError):
    storage.read_lines(FILE)


# Seals ------------------------------------------------------------------------


@pytest.fixture
def sealed(folder):
  storage.publish(folder / 'state' / 'weights', bytes(range(256)) * 8000)
  storage.publish(folder / 'config.json', '{}')
  storage.publish(folder / 'backup~', 'x')
  storage.seal(folder)
  return folder


def test_digests_are_sha256_by_sorted_name(sealed):
  found = storage.digests(sealed)
  assert list(found) == ['backup~', 'config.json', 'state/weights']
  assert found['config.json'] == (
      '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a')


def test_an_intact_folder_passes(sealed):
  storage.check_seal(sealed)
  storage.seal(sealed)  # sealing again does not seal the seal
  storage.check_seal(str(sealed))


def flip_bit(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(bytes(data))


def truncate(file):
  file.write_bytes(file.read_bytes()[:-1])


def empty(file):
  file.write_bytes(b'')


@pytest.mark.parametrize('name,damage,message', [
    ('state/weights', flip_bit, 'weights has changed.*Delete'),
    ('state/weights', truncate, 'weights has changed'),
    ('config.json', lambda file: file.unlink(), 'config.json is missing'),
    ('state/extra', empty, 'state/extra was added'),
    (storage.SEAL, lambda file: file.unlink(), 'not finished')])
def test_a_damaged_folder_is_named(sealed, name, damage, message):
  damage(sealed / name)
  with pytest.raises(storage.Damaged, match=message):
    storage.check_seal(sealed)


@pytest.mark.parametrize('damage', [flip_bit, truncate, empty])
def test_a_damaged_seal_does_not_pass(sealed, damage):
  seal = sealed / storage.SEAL
  intact = seal.read_bytes().rstrip()  # its last newline says nothing
  seal.write_bytes(intact)
  damage(seal)
  with pytest.raises(storage.Damaged):
    storage.check_seal(sealed)


def test_the_lock_is_no_content(folder):
  storage.publish(folder / 'file', 'x')
  storage.seal(folder)
  with storage.lock(folder):
    storage.check_seal(folder)


def test_digests_of_a_missing_folder_fail(tmp_path):
  with pytest.raises(FileNotFoundError):
    storage.digests(tmp_path / 'nowhere')


# Locks ------------------------------------------------------------------------


def test_one_owner_at_a_time(folder):
  with storage.lock(folder):
    with pytest.raises(storage.Locked, match=f'by process {os.getpid()}'):
      with storage.lock(folder):
        pytest.fail('two owners')
  with storage.lock(folder):
    pass


@pytest.mark.parametrize('error', [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_frees_the_lock(folder, error):
  with pytest.raises(error):
    with storage.lock(folder):
      raise error
  with storage.lock(folder):
    pass


def test_sigkill_frees_the_lock_though_workers_live(tmp_path):
  code = '''
import os, subprocess, sys, time
from ddt_jax import storage
with storage.lock(sys.argv[1]):
  sleep = [sys.executable, '-c', 'import time; time.sleep(60)']
  spawned = subprocess.Popen(sleep, close_fds=False).pid
  print(spawned, flush=True)
  if not os.fork():
    print(os.getpid(), flush=True)
  time.sleep(60)
'''
  owner = start(code, tmp_path)
  # A forked worker releases the lock as its first act: wait until it has begun.
  workers = [int(owner.stdout.readline()) for _ in range(2)]
  try:
    with pytest.raises(storage.Locked) as error:
      with storage.lock(tmp_path):
        pass
    who = f'process {owner.pid} on host {os.uname().nodename}'
    assert who in str(error.value)
    kill(owner)
    with storage.lock(tmp_path):
      for pid in workers:
        os.kill(pid, 0)  # raises if the worker is gone
  finally:
    kill(owner)
    for pid in workers:
      os.kill(pid, signal.SIGKILL)


def test_many_processes_never_own_the_folder_together(tmp_path):
  # Each owner reads, waits and writes a counter; two at once would lose counts.
  code = '''
import sys, time
from ddt_jax import storage
folder, done = storage.path(sys.argv[1]), 0
while done < 20:
  try:
    with storage.lock(folder):
      count = int((folder / 'count').read_text())
      time.sleep(0.002)
      (folder / 'count').write_text(str(count + 1))
      done += 1
  except storage.Locked:
    time.sleep(0.001)
'''
  (tmp_path / 'count').write_text('0')
  processes = [start(code, tmp_path) for _ in range(2)]
  for process in processes:
    process.communicate(timeout=30)
    assert process.returncode == 0
  assert (tmp_path / 'count').read_text() == '40'


def holder(token='rival', age=0.0) -> bytes:
  return json.dumps({'host': 'tpu-7', 'pid': 42, 'time': time.time() - age,
                     'token': token}).encode()


LOCK = 'gs://bucket/run/.lock/00000004'


def lock_objects(store):
  return [json.loads(store.cat_file(name)) for name in store.find('bucket/run')]


def test_object_lock_names_its_holder_and_expiry(store):
  store.pipe_file(LOCK, holder(age=100))
  with pytest.raises(storage.Locked, match='42 on host tpu-7.* (199|200) sec'):
    with storage.lock('gs://bucket/run'):
      pass
  assert [lock['token'] for lock in lock_objects(store)] == ['rival']


def test_expired_object_lock_is_taken_over(store):
  store.pipe_file(LOCK, holder(age=301))
  with storage.lock('gs://bucket/run'):
    assert [lock['pid'] for lock in lock_objects(store)] == [os.getpid()]
  assert not lock_objects(store)


def test_of_two_rivals_for_an_expired_lock_one_wins(store, monkeypatch):
  store.pipe_file(LOCK, holder('dead', age=301))
  taken = []

  def rival_is_faster():
    if not taken:
      taken.append(True)
      store.pipe_file(LOCK.replace('4', '5'), holder('rival'))

  monkeypatch.setattr(fake_store.FakeStore, 'before_change', staticmethod(rival_is_faster))
  with pytest.raises(storage.Locked, match='tpu-7'):
    with storage.lock('gs://bucket/run'):
      pytest.fail('two owners')
  assert lock_objects(store)[-1]['token'] == 'rival'


def test_an_upload_that_the_client_repeats_is_no_rival(store, monkeypatch):
  pipe_file = fake_store.FakeStore.pipe_file

  def twice(self, *args, **kwargs):
    pipe_file(self, *args, **kwargs)
    pipe_file(self, *args, **kwargs)

  monkeypatch.setattr(fake_store.FakeStore, 'pipe_file', twice)
  with storage.lock('gs://bucket/run'):
    assert len(lock_objects(store)) == 1


def test_object_lock_is_renewed_and_survives_a_network_error(
    store, monkeypatch, caplog):
  monkeypatch.setattr(locks, '_RENEW_S', 0.01)
  with storage.lock('gs://bucket/run'):
    first = lock_objects(store)[0]['time']
    with monkeypatch.context() as m:
      m.setattr(locks, '_write', unreachable)
      wait_for(lambda: 'Could not renew' in caplog.text)
    wait_for(lambda: lock_objects(store)[0]['time'] > first)
  assert not lock_objects(store)


def unreachable(*args, **kwargs):
  raise ConnectionError('unreachable')


@pytest.mark.filterwarnings(  # os._exit does not end the thread of a test
    'ignore::pytest.PytestUnhandledThreadExceptionWarning')
@pytest.mark.parametrize('lost', ['superseded', 'successor has finished'])
def test_an_owner_that_was_superseded_ends_itself(store, monkeypatch, lost):
  monkeypatch.setattr(locks, '_RENEW_S', 0.01)
  ended = []

  def end(status):
    ended.append(status)
    raise SystemExit  # of the renewing thread

  monkeypatch.setattr(os, '_exit', end)
  with storage.lock('gs://bucket/run'):
    store.rm(store.find('bucket/run'))
    if lost == 'superseded':
      store.pipe_file(LOCK, holder())
    wait_for(lambda: ended)
  assert ended == [1]
  assert [lock['token'] for lock in lock_objects(store)] == (
      ['rival'] if lost == 'superseded' else [])
