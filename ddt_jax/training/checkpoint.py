"""Orbax checkpoints: a tree of arrays, and the run's progress beside it.

A checkpoint is complete once its seal exists; an interrupted save leaves none. A
checkpoint that was damaged later is named in a warning, and the one before it is
restored.

A save in the background copies the state to host memory and returns. A thread then
waits until Orbax has committed the files, and seals them. One save runs at a time,
of whatever folder: each holds a copy of the state in host memory.
"""

from concurrent import futures
import errno
import json
import os
import re
import shutil
from typing import Any, NamedTuple

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage

# Stacked layers are stored one by one, so that `open` reads one without the others.
_STACKED = re.compile('(^|/)layers/')
_CHUNK_BYTES = 2**28  # most bytes that are compressed, and so read, at once
_thread = futures.ThreadPoolExecutor(1, 'checkpoint')
_running: list['_Save'] = []  # the save in the background, if there is one


class _Save(NamedTuple):
  """A save that has begun.

  Attributes:
    orbax: writes this process's part of the state.
    sealed: done once the checkpoint counts; None in all processes but the first.
  """

  orbax: ocp.StandardCheckpointer
  sealed: futures.Future | None


def finish() -> None:
  """Waits until the save in the background counts; all processes must call it.

  Raises:
    OSError: it failed, e.g. the disk is full (ENOSPC).
    processes.FirstFailed: it failed in process 0.
  """
  running = bool(_running)
  if not processes.is_first():
    finish_here()
  if running:
    processes.from_first(finish_here)


def finish_here() -> None:
  """`finish` for this process alone, which may be ending for an error."""
  while _running:
    save = _running.pop()
    if save.sealed:
      save.sealed.result()
    else:
      save.orbax.wait_until_finished()


class Checkpoints:
  """The newest checkpoints in a folder of a run.

  A run keeps two such folders: `checkpoints` with the train state, to resume
  from, and `best` with {'params': ...} of the lowest validation loss, to export.
  All processes must call `save` and `restore`, in the same order.

  Example: the best parameters of a run, on any mesh:

    shapes = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
    target = abstract(shapes, sharding.tree_shardings(shapes, mesh))
    restored = Checkpoints(workdir, 'best').restore({'params': target})
  """

  def __init__(
      self, workdir: str | os.PathLike[str], name: str = 'checkpoints', *,
      keep: int = 2, keep_every: int = 0,
  ):
    """Creates nothing before the first `save`.

    Args:
      workdir: the run's folder, local or gs://.
      name: the folder in it.
      keep: number of newest checkpoints to keep.
      keep_every: also keep those whose step is a multiple of it; 0: none.
    """
    folder = storage.path(workdir)
    if '://' not in str(folder):
      folder = folder.resolve()  # Orbax refuses relative paths
    self._folder = folder / name
    self._keep, self._keep_every = keep, keep_every
    self._orbax = ocp.StandardCheckpointer()

  def steps(self) -> list[int]:
    """Returns the steps with a complete checkpoint, oldest first."""
    return sorted(
        int(f.parent.name) for f in self._folder.glob(f'*/{storage.SEAL}')
        if f.parent.name.isdigit()
    )

  def save(
      self, step: int, state: Any, progress: dict[str, Any], *,
      background: bool = False,
  ) -> None:
    """Writes a checkpoint, then removes the oldest beyond `keep`.

    Args:
      step: its name; an existing checkpoint of that step is replaced.
      state: pytree of arrays, sharded or not.
      progress: JSON-serialisable, e.g. `Progress.to_json()`.
      background: return once the state is in host memory: it may then be donated.
        The checkpoint counts later; `finish` waits for that. So does the next save.

    Raises:
      OSError: the disk is full (ENOSPC), now or in the save before.
    """
    finish()
    folder = self._step_folder(step)
    # Global bytes: the shards of all processes go to this one folder.
    nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
    processes.from_first(self._make_room, folder, nbytes)
    host = None
    if background and jax.default_backend() == 'cpu':
      # Orbax copies from a device to the host. A CPU's memory is the host's: Orbax
      # would read it while the next step writes there.
      if jax.process_count() == 1:
        host = jax.tree.map(np.array, state)
      else:
        state = jax.tree.map(jnp.copy, state)
    if host is None:
      self._write(folder, state)
    sealed = None
    if processes.is_first():
      sealed = _thread.submit(self._finish, folder, progress, host)
    _running.append(_Save(self._orbax, sealed))
    if not background:
      finish()

  def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """Restores the newest undamaged checkpoint.

    Args:
      abstract_state: ShapeDtypeStructs with the shardings to restore to; see
        `abstract`. The mesh may differ from the one at saving.

    Returns:
      (state, progress), or None if there is no undamaged checkpoint.
    """
    newest = self._agreed_newest()
    if newest is None:
      return None
    step, progress = newest
    folder = self._step_folder(step)
    return self._orbax.restore(folder / 'state', abstract_state), progress

  def restore_part(
      self, abstract_part: dict[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """`restore` of some keys or fields of the state; nothing else is read.

    Scoring and export need no optimizer, which takes twice the memory of the
    parameters.

    Args:
      abstract_part: e.g. {'params': ...}, see `abstract`.
    """
    newest = self._agreed_newest()
    if newest is None:
      return None
    step, progress = newest
    with ocp.PyTreeCheckpointer() as reader:
      found = reader.restore(self._step_folder(step) / 'state', ocp.args.PyTreeRestore(
          item=abstract_part, partial_restore=True,
          restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_part)))
    return found, progress

  def open(self, name: str) -> tuple[Any, dict[str, Any]] | None:
    """Opens a part of the newest undamaged checkpoint, and reads no array yet.

    For one process. Of stacked layers, `np.asarray(array[i])` reads one.

    Args:
      name: key or field of the state that was saved, e.g. 'params'.

    Returns:
      (that part, with `tensorstore.TensorStore` arrays, and the progress), or None
      if there is no undamaged checkpoint.
    """
    finish_here()
    newest = self._newest()
    if newest is None:
      return None
    step, progress = newest
    folder = self._step_folder(step) / 'state'
    # Only names and shapes, from a small file.
    found = self._orbax.metadata(folder).item_metadata.tree[name]
    return jax.tree.map(lambda array: _open(folder, array.name), found), progress

  def _step_folder(self, step: int) -> epath.Path:
    return self._folder / f'{step:08d}'

  def _make_room(self, folder: epath.Path, nbytes: int) -> None:
    """Removes an older checkpoint of this name and checks for free space."""
    self._folder.mkdir(parents=True, exist_ok=True)
    # Orbax refuses to overwrite. Such a folder may also be an interrupted save.
    if folder.exists():
      folder.rmtree()
    # Orbax reports a full disk as tracebacks from several threads.
    if '://' not in str(folder) and shutil.disk_usage(self._folder).free < nbytes:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

  def _write(self, folder: epath.Path, state: Any) -> None:
    """Returns once the state is in host memory; Orbax writes it in threads."""
    self._orbax.save(folder / 'state', state, save_args=_chunks(state))

  def _finish(
      self, folder: epath.Path, progress: dict[str, Any], host: Any = None
  ) -> None:
    """Makes the checkpoint count.

    Args:
      folder, progress: of the checkpoint.
      host: the state, if it is not being written yet.
    """
    if host is not None:
      self._write(folder, host)
    # Orbax of process 0 commits when all processes have written their parts.
    self._orbax.wait_until_finished()
    storage.publish(folder / 'progress.json', json.dumps(progress))
    # The seal comes after all content: it marks the checkpoint as complete.
    storage.seal(folder)
    # Last: a kill before this line leaves one checkpoint too many, never too few.
    for old in self.steps()[:-self._keep]:
      if not self._keep_every or old % self._keep_every:
        self._step_folder(old).rmtree()

  def _agreed_newest(self) -> tuple[int, dict[str, Any]] | None:
    finish()
    # Process 0 alone reads the digests: all must restore the same checkpoint.
    return processes.from_first(self._newest)

  def _newest(self) -> tuple[int, dict[str, Any]] | None:
    """Step and progress of the newest checkpoint that matches its seal."""
    for step in reversed(self.steps()):
      folder = self._step_folder(step)
      # Orbax itself restores a flipped bit without an error.
      try:
        storage.check_seal(folder)
      except storage.Damaged as e:
        logging.warning('Passing over a damaged checkpoint. %s', e)
        continue
      return step, json.loads((folder / 'progress.json').read_text())
    return None


def _chunks(state: Any) -> Any:
  """Orbax's options for each array: the units in which it is stored."""
  def of(key_path, x):
    stacked = x.ndim and _STACKED.search(sharding.path_name(key_path))
    return ocp.SaveArgs(
        chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,) if stacked else ())

  return jax.tree_util.tree_map_with_path(of, state)


def _open(folder: epath.Path, name: str) -> tensorstore.TensorStore:
  """An array of a checkpoint, of which nothing is read before it is converted."""
  place = str(folder)
  if place.startswith('gs://'):
    bucket, _, inside = place.removeprefix('gs://').partition('/')
    base = {'driver': 'gcs', 'bucket': bucket, 'path': f'{inside}/'}
  else:
    base = {'driver': 'file', 'path': f'{place}/'}
  # auto: Orbax chooses the version of zarr.
  return tensorstore.open({
      'driver': 'auto',
      'kvstore': {'driver': 'ocdbt', 'base': base, 'path': f'{name}/'},
  }, read=True, open=True).result()


def abstract(state: Any, shardings: Any) -> Any:
  """Returns the shapes and dtypes of a tree together with its shardings.

  Args:
    state: pytree of arrays or ShapeDtypeStructs.
    shardings: a `jax.sharding.Sharding` for each leaf.

  Returns:
    ShapeDtypeStructs, as `Checkpoints.restore` takes them.
  """
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state, shardings,
  )
