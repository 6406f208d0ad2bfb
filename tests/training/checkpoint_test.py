"""Round trips over meshes, damage in every file, and a kill while saving."""

import errno
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.training import checkpoint
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from tests.support import commands
from tests.support import paths

MODEL = paths.GOLDEN / 'models' / 'qwen2-loop'


def abstract(state):
  """The argument of `restore` for the same state on one device."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return checkpoint.abstract(state, jax.tree.map(lambda _: here, state))


@functools.cache
def train_state():
  """A state whose leaves all differ, with NaN, inf and -0.0 in them."""
  _, params = weights.load(MODEL)
  _, tx = optimizer.make(total_steps=10, lr=1e-3)
  rng = np.random.default_rng(0)

  def fill(x):
    if x.dtype == jnp.int32:
      return np.int32(rng.integers(1, 1000, x.shape))
    x = rng.normal(size=x.shape).astype(x.dtype)
    x.flat[:3] = np.nan, np.inf, -0.0
    return x

  state = train_step.TrainState.create(params, tx)
  return jax.tree.map(fill, state)


def bits(state):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def make_mesh(devices, **axes):
  return sharding.make_mesh(devices=jax.devices()[:devices], **axes)


@pytest.mark.parametrize('saved, restored', [
    ((1, {}), (1, {})),
    ((8, {'data': 2, 'fsdp': 4}), (8, {'data': 2, 'fsdp': 4})),
    ((8, {'data': 2, 'fsdp': 4}), (4, {'fsdp': 2, 'tensor': 2})),
    ((1, {}), (8, {'data': 2, 'fsdp': 2, 'tensor': 2})),
], ids=['one device', 'eight', 'eight to four', 'one to eight'])
def test_a_state_comes_back_bit_for_bit_on_any_mesh(tmp_path, saved, restored):
  state = train_state()
  places = sharding.tree_shardings(state, make_mesh(saved[0], **saved[1]))
  checkpoint.Checkpoints(tmp_path).save(
      10, jax.device_put(state, places), {'tokens': 12, 'best_nll': None}
  )
  places = sharding.tree_shardings(state, make_mesh(restored[0], **restored[1]))
  found, progress = checkpoint.Checkpoints(tmp_path).restore(
      checkpoint.abstract(state, places)
  )
  assert isinstance(found, train_step.TrainState)
  assert bits(found) == bits(state)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  assert jax.tree.map(lambda x: x.sharding, found) == places
  assert progress == {'tokens': 12, 'best_nll': None}


def small(value):
  return {'w': jnp.full((64, 64), value, jnp.float32), 'step': jnp.int32(value)}


def value_of(restored):
  """The number that `small` was given; all parts must agree on it."""
  state, progress = restored
  value = int(state['step'])
  assert (np.asarray(state['w']) == value).all()
  assert progress == {'value': value}
  return value


def save(checkpoints, *values):
  for value in values:
    checkpoints.save(value, small(value), {'value': value})


def test_the_best_parameters_are_restored_without_the_optimizer(tmp_path):
  # The export knows the model's config and its own mesh, and nothing of the run's.
  config, params = weights.load(MODEL)
  saved = train_state()
  mesh = make_mesh(8, data=2, fsdp=4)
  saved = jax.device_put(saved, sharding.tree_shardings(saved, mesh))
  best = checkpoint.Checkpoints(tmp_path, 'best', keep=1)
  best.save(3, {'params': params}, {'best_step': 3})
  best.save(7, {'params': saved.params}, {'best_step': 7})

  shapes = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  places = sharding.tree_shardings(shapes, make_mesh(2, tensor=2))
  restored, progress = checkpoint.Checkpoints(tmp_path, 'best').restore(
      {'params': checkpoint.abstract(shapes, places)})
  assert progress == {'best_step': 7}
  assert bits(restored['params']) == bits(saved.params)
  assert jax.tree.map(lambda x: x.sharding, restored['params']) == places
  weights.save(tmp_path / 'model', config, restored['params'])
  assert bits(weights.load(tmp_path / 'model')[1]) == bits(saved.params)


def test_a_run_without_a_checkpoint_restores_none(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'run')
  assert checkpoints.steps() == []
  assert checkpoints.restore(abstract(small(0))) is None
  assert not list(tmp_path.iterdir())  # reading creates nothing


@pytest.mark.parametrize('devices, axes', [
    (1, {}), (8, {'data': 2, 'fsdp': 2, 'tensor': 2})])
def test_an_opened_part_has_the_bits_that_were_saved(tmp_path, devices, axes):
  state = train_state()
  places = sharding.tree_shardings(state, make_mesh(devices, **axes))
  checkpoints = checkpoint.Checkpoints(tmp_path / 'a run')
  assert checkpoints.open('params') is None
  checkpoints.save(4, jax.device_put(state, places), {'step': 4})
  checkpoints.save(5, small(0), {'step': 5})
  flip(tmp_path / 'a run' / 'checkpoints' / '00000005' / 'progress.json')

  opened, progress = checkpoints.open('params')
  assert progress == {'step': 4}
  assert bits(opened) == bits(state.params)


def test_a_layer_is_stored_apart_from_the_others(tmp_path):
  x = np.arange(3 * 4 * 6, dtype=np.float32).reshape(3, 4, 6)
  state = {'params': {'layers': {'w': jnp.array(x)}, 'w': jnp.array(x)}}
  checkpoint.Checkpoints(tmp_path).save(1, state, {})
  opened, _ = checkpoint.Checkpoints(tmp_path).open('params')
  layers, other = opened['layers']['w'], opened['w']
  np.testing.assert_array_equal(np.asarray(layers[1]), x[1])
  assert layers.chunk_layout.read_chunk.shape == (1, 4, 6)
  assert other.chunk_layout.read_chunk.shape == (3, 4, 6)


def test_the_newest_are_kept(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  best = checkpoint.Checkpoints(tmp_path, 'best', keep=1)
  save(checkpoints, 5, 9, 10, 100)
  save(best, 5, 9)
  assert checkpoints.steps() == [10, 100]
  assert best.steps() == [9]
  assert len(list((tmp_path / 'checkpoints').iterdir())) == 2
  assert value_of(checkpoints.restore(abstract(small(0)))) == 100
  assert value_of(best.restore(abstract(small(0)))) == 9


def test_a_step_saved_again_replaces_the_first(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, small(1), {'value': 1})
  checkpoints.save(1, small(2), {'value': 2})
  assert checkpoints.steps() == [1]
  assert value_of(checkpoints.restore(abstract(small(0)))) == 2


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A folder with the checkpoints 1 and 2, to be copied."""
  folder = tmp_path_factory.mktemp('two')
  save(checkpoint.Checkpoints(folder), 1, 2)
  return folder


def flip(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


def truncate(file):
  data = file.read_bytes()
  file.write_bytes(data[:len(data) // 2])


def empty(file):
  file.write_bytes(b'')


def add(file):
  (file.parent / 'more').touch()


@pytest.mark.parametrize(
    'damage', [flip, truncate, empty, pathlib.Path.unlink, add],
    ids=lambda f: f.__name__,
)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    two, tmp_path, damage, monkeypatch
):
  said = []
  monkeypatch.setattr(
      checkpoint.logging, 'warning', lambda text, *args: said.append(text % args)
  )
  newest = pathlib.Path('checkpoints/00000002')
  # Every file, because Orbax may rename its own.
  files = [
      str(f.relative_to(two / newest)) for f in (two / newest).rglob('*')
      if f.is_file() and f.stat().st_size
  ]
  assert {'progress.json', storage.SEAL} < set(files) and len(files) > 4
  if damage is pathlib.Path.unlink:
    files.remove(storage.SEAL)  # never finished: see below
  for i, file in enumerate(files):
    folder = tmp_path / str(i)
    shutil.copytree(two, folder)
    damage(folder / newest / file)
    restored = checkpoint.Checkpoints(folder).restore(abstract(small(0)))
    assert value_of(restored) == 1, file
    warning, = said
    assert str(folder / newest) in warning, file
    said.clear()


def test_where_all_are_damaged_there_is_none(two, tmp_path):
  shutil.copytree(two, tmp_path, dirs_exist_ok=True)
  for file in tmp_path.rglob('progress.json'):
    flip(file)
  assert checkpoint.Checkpoints(tmp_path).restore(abstract(small(0))) is None


def test_an_unfinished_checkpoint_is_none(two, tmp_path):
  shutil.copytree(two, tmp_path, dirs_exist_ok=True)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  newest = tmp_path / 'checkpoints' / '00000002'
  (newest / storage.SEAL).unlink()
  assert checkpoints.steps() == [1]
  assert value_of(checkpoints.restore(abstract(small(0)))) == 1
  # Orbax's temporary folder of an interrupted save must not block the next one.
  (newest / 'state').rename(newest / 'state.orbax-checkpoint-tmp-0')
  save(checkpoints, 2)
  assert checkpoints.steps() == [1, 2]
  assert value_of(checkpoints.restore(abstract(small(0)))) == 2


SAVING = """
import sys
from ddt_jax.training import checkpoint
from tests.training import checkpoint_test as t

checkpoints = checkpoint.Checkpoints(sys.argv[1])
restored = checkpoints.restore(t.abstract(t.small(0)))
value = t.value_of(restored) if restored else 0
while True:
  value += 1
  t.save(checkpoints, value)
  print(value, flush=True)
"""


def test_a_process_killed_while_saving_leaves_what_it_had_saved(tmp_path):
  rng, saved = random.Random(0), 0
  for _ in range(2):
    process = subprocess.Popen(
        [sys.executable, '-c', SAVING, tmp_path], env=commands.environment(),
        cwd=paths.ROOT,
        stdout=subprocess.PIPE, text=True,
    )
    try:
      # It continues from the last checkpoint before the kill.
      assert [int(process.stdout.readline()) for _ in range(3)] == [
          saved + 1, saved + 2, saved + 3
      ]
      time.sleep(rng.uniform(0, 0.2))
    finally:
      os.kill(process.pid, signal.SIGKILL)
      rest, _ = process.communicate()
    told = [saved + 3, *map(int, rest.split())][-1]
    saved = value_of(
        checkpoint.Checkpoints(tmp_path).restore(abstract(small(0)))
    )
    assert saved in (told, told + 1)  # killed between the seal and the print


# In the background ------------------------------------------------------------


@functools.partial(jax.jit, donate_argnums=0)
def next_small(state):
  return {'w': state['w'] + 1, 'step': state['step'] + 1}


@pytest.mark.parametrize('devices', [1, 8])
def test_steps_that_follow_do_not_change_what_is_saved(tmp_path, devices):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=5)
  state = small(0)
  if devices > 1:
    mesh = make_mesh(devices, fsdp=devices)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put(state, {'w': rows, 'step': everywhere})
  for value in range(1, 13):
    state = next_small(state)  # takes the memory of the state before
    if value % 3 == 0:
      checkpoints.save(value, state, {'value': value}, background=True)
  checkpoint.finish()
  assert checkpoints.steps() == [3, 6, 9, 12]
  while steps := checkpoints.steps():
    assert value_of(checkpoints.restore(abstract(small(0)))) == steps[-1]
    shutil.rmtree(tmp_path / 'checkpoints' / f'{steps[-1]:08d}')


def test_a_checkpoint_counts_once_it_is_sealed(tmp_path, monkeypatch):
  go, seal = threading.Event(), storage.seal
  monkeypatch.setattr(
      checkpoint.storage, 'seal', lambda folder: go.wait() and seal(folder))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, small(1), {'value': 1}, background=True)
  assert checkpoints.steps() == []
  go.set()
  # Whoever reads waits first.
  assert value_of(checkpoints.restore(abstract(small(0)))) == 1


def test_one_save_runs_at_a_time(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  best = checkpoint.Checkpoints(tmp_path, 'best', keep=1)
  for value in (1, 2, 3):
    best.save(value, small(value), {'value': value}, background=True)
    checkpoints.save(value, small(value), {'value': value}, background=True)
    assert best.steps() == [value]  # the other folder's save waited for it
  checkpoint.finish()
  assert checkpoints.steps() == [2, 3]


def test_a_failure_in_the_background_is_raised_by_the_next_call(tmp_path, monkeypatch):
  def full(folder):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

  checkpoints = checkpoint.Checkpoints(tmp_path)
  with monkeypatch.context() as m:
    m.setattr(checkpoint.storage, 'seal', full)
    checkpoints.save(1, small(1), {'value': 1}, background=True)
    with pytest.raises(OSError, match='No space left'):
      checkpoint.finish()
    checkpoints.save(2, small(2), {'value': 2}, background=True)
    with pytest.raises(OSError, match='No space left'):
      checkpoints.save(3, small(3), {'value': 3}, background=True)
  assert checkpoints.steps() == []
  save(checkpoints, 3)
  assert checkpoints.steps() == [3]


def test_some_steps_are_kept_for_good(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, keep_every=4)
  save(checkpoints, *range(1, 11))
  assert checkpoints.steps() == [4, 8, 10]


@pytest.mark.parametrize('devices, axes', [(1, {}), (8, {'fsdp': 4, 'tensor': 2})])
def test_parameters_are_restored_without_the_rest(tmp_path, devices, axes):
  state = train_state()
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.restore_part({'params': abstract(state.params)}) is None
  checkpoints.save(4, state, {'step': 4})
  places = sharding.tree_shardings(state.params, make_mesh(devices, **axes))
  found, progress = checkpoints.restore_part(
      {'params': checkpoint.abstract(state.params, places)})
  assert progress == {'step': 4} and list(found) == ['params']
  assert bits(found['params']) == bits(state.params)
  assert jax.tree.map(lambda x: x.sharding, found['params']) == places


SAVING_BEHIND = """
import sys
from ddt_jax.training import checkpoint
from tests.training import checkpoint_test as t

checkpoints = checkpoint.Checkpoints(sys.argv[1])
restored = checkpoints.restore(t.abstract(t.small(0)))
value = t.value_of(restored) if restored else 0
state = t.small(value)
while True:
  state, value = t.next_small(state), value + 1
  checkpoints.save(value, state, {'value': value}, background=True)
  print(value, flush=True)
"""


@pytest.mark.slow
def test_kills_during_saves_in_the_background_leave_no_wrong_checkpoint(tmp_path):
  rng, saved = random.Random(0), 0
  for _ in range(20):
    process = subprocess.Popen(
        [sys.executable, '-c', SAVING_BEHIND, tmp_path],
        env=commands.environment(), cwd=paths.ROOT, stdout=subprocess.PIPE, text=True)
    try:
      assert [int(process.stdout.readline()) for _ in range(2)] == [
          saved + 1, saved + 2]
      time.sleep(rng.uniform(0, 0.3))
    finally:
      os.kill(process.pid, signal.SIGKILL)
      rest, _ = process.communicate()
    told = [saved + 2, *map(int, rest.split())][-1]
    saved = value_of(checkpoint.Checkpoints(tmp_path).restore(abstract(small(0))))
    # The save before the one that was told is sealed; that one may be, too.
    assert saved in (told - 1, told, told + 1)


def test_progress_is_kept_as_json(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(3, small(3), {'value': 3, 'stream': {'next_index': 7}})
  file = tmp_path / 'checkpoints' / '00000003' / 'progress.json'
  assert json.loads(file.read_text())['stream'] == {'next_index': 7}


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  state = {'x': jnp.arange(3.0)}
  checkpoint.Checkpoints('run').save(1, state, {'step': 1})
  where = jax.tree.map(lambda x: x.sharding, state)
  restored, progress = checkpoint.Checkpoints('run').restore(
      checkpoint.abstract(state, where)
  )
  assert progress == {'step': 1}
  assert restored['x'].tolist() == [0, 1, 2]
