"""Orbax checkpoints: the state, and how far the run has come.

A checkpoint is complete when its digests stand beside it; one that was cut off
does not count, and one that was damaged since is named and passed over for the
one before.
"""

import errno
import json
import os
import shutil
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp

from ddt_jax import processes
from ddt_jax import storage


class Checkpoints:
  """The newest checkpoints of a run in `<workdir>/checkpoints`, or the best.

  Saving is synchronous: the digests need the committed files.
  """

  def __init__(self, workdir: Any, name: str = 'checkpoints', *, keep: int = 2):
    """Args: the run's folder, the folder in it, and how many to keep."""
    folder = storage.path(workdir)
    if '://' not in str(folder):
      folder = folder.resolve()  # Orbax insists
    self._folder = folder / name
    self._folder.mkdir(parents=True, exist_ok=True)
    self._keep = keep
    self._orbax = ocp.StandardCheckpointer()

  def _step_folder(self, step: int):
    return self._folder / f'{step:08d}'

  def steps(self) -> list[int]:
    """Steps with a finished checkpoint, oldest first."""
    return sorted(
        int(f.parent.name) for f in self._folder.glob(f'*/{storage.SEAL}')
        if f.parent.name.isdigit()
    )

  def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
    """Writes a checkpoint, then removes those that are too old.

    Args:
      step: its name; one that stands already is replaced.
      state: pytree of (sharded) arrays.
      progress: JSON-able; data-iterator state and what else the run needs.

    Raises:
      OSError: (ENOSPC) the disk has no room for it.
    """
    folder = self._step_folder(step)

    def make_room():
      if folder.exists():
        folder.rmtree()
      # Orbax would find out as well, in several threads and their tracebacks.
      needed = sum(x.nbytes for x in jax.tree.leaves(state))
      if '://' not in str(folder) and shutil.disk_usage(self._folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    def finish():
      storage.publish(folder / 'progress.json', json.dumps(progress))
      storage.seal(folder)
      for old in self.steps()[:-self._keep]:
        self._step_folder(old).rmtree()

    processes.from_first(make_room)
    self._orbax.save(folder / 'state', state)
    self._orbax.wait_until_finished()
    processes.from_first(finish)

  def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest good checkpoint as (state, progress); None if there is none.

    Args:
      abstract_state: ShapeDtypeStructs with the shardings to restore to.
    """
    found = processes.from_first(self._newest)
    if found is None:
      return None
    step, progress = found
    folder = self._step_folder(step)
    return self._orbax.restore(folder / 'state', abstract_state), progress

  def _newest(self) -> tuple[int, dict[str, Any]] | None:
    """Step and progress of the newest checkpoint that is as it was sealed."""
    for step in reversed(self.steps()):
      folder = self._step_folder(step)
      try:
        storage.check_seal(folder)
      except storage.Damaged as e:
        logging.warning('Passing over a damaged checkpoint. %s', e)
        continue
      return step, json.loads((folder / 'progress.json').read_text())
    return None


def abstract(state: Any, shardings: Any) -> Any:
  """Shapes and dtypes of a state together with where it is to lie."""
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state, shardings,
  )
