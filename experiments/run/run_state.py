"""The train state of a run: created, saved and restored."""

import functools
from typing import Any

from etils import epath
import jax
import optax

from ddt_jax import sharding
from ddt_jax.training import checkpoint
from ddt_jax.training import optimizer
from ddt_jax.training import reference
from ddt_jax.training import train_step
from ddt_jax.training.progress import Progress
from experiments.run import adapters
from experiments.run import inputs
from experiments.run import steps
from experiments.run import workdir


class RunState:
  """Creates, saves and restores the train state of a run.

  With adapters the state holds these alone; the base is read again on resuming.

  Attributes:
    shardings: of the state: one table for parameters and moments.
    create: what is trained, which is donated, and the reference of the round before
      or None -> a new state.
  """

  def __init__(self, c, folder: epath.Path, s: inputs.Inputs):
    self._export, self._trained = c.checkpoint.export, s.trained
    if s.adapters is not None:
      adapters.check_base(
          workdir.Workdir(folder), inputs.fingerprint((s.base, s.adapters)))
    self._nll_counts = c.loss.name == 'sft'
    _, tx = optimizer.make(total_steps=1, **c.optim)
    # Total steps are unknown before the first corpus; they do not change the
    # state's shapes.
    create = functools.partial(new_state, c, tx)
    abstract = jax.eval_shape(create, s.trained, None)
    self.shardings = sharding.tree_shardings(abstract, s.mesh)
    self.create = jax.jit(create, donate_argnums=0, out_shardings=self.shardings)
    self._abstract = checkpoint.abstract(abstract, self.shardings)
    self._latest = checkpoint.Checkpoints(
        folder, keep=c.checkpoint.keep, keep_every=c.checkpoint.keep_every)
    self._best = checkpoint.Checkpoints(folder, 'best', keep=1)

  def restore(self) -> tuple[train_step.TrainState | None, Any, Progress]:
    """(state, what is trained, progress) of the newest checkpoint, or of a new run."""
    restored = self._latest.restore(self._abstract)
    if restored is None:
      return None, self._trained, Progress()
    # Free the initial parameters: two copies may not fit in memory.
    jax.tree.map(lambda x: x.delete(), self._trained)
    state, progress = restored
    return state, state.params, Progress.from_json(progress)

  def __enter__(self) -> 'RunState':
    return self

  def __exit__(self, *error) -> None:
    # Also after a stop. Then the run's folder is given up, and another process may
    # write to it.
    checkpoint.finish_here()

  def save(
      self, state: train_step.TrainState, progress: Progress, *, last: bool = False
  ) -> None:
    """Saves a checkpoint, from which the same command resumes.

    Args:
      state: may be donated on return.
      progress: of the state.
      last: of the round: wait until the checkpoint counts.
    """
    self._latest.save(
        progress.step, state, progress.to_json(), background=not last)

  def keep_best(
      self, state: train_step.TrainState, progress: Progress,
      scalars: dict[str, float]
  ) -> Progress:
    """Notes the best validation; saves its parameters for export='best'."""
    found = progress.with_validation(scalars, nll_counts=self._nll_counts)
    if found.best_step != progress.best_step and self._export == 'best':
      self._best.save(
          found.step, {'params': state.params}, found.to_json(), background=True)
    return found

  def to_export(self, trained: Any) -> tuple[Any, str]:
    """(trained, 'best'), or the last ones where there is no best checkpoint."""
    if self._export == 'last':
      return trained, 'last'
    best = self._best.restore_part({'params': self._abstract.params})
    return (trained, 'last') if best is None else (best[0]['params'], 'best')


def new_state(
    c, tx: optax.GradientTransformation, trained: Any, kept: Any
) -> train_step.TrainState:
  """The state at the beginning of a round, with the reference that the loss reads.

  Args:
    c, tx: the config and the optimizer.
    trained: parameters of the model, or its adapters.
    kept: see `reference.Reference.start`.
  """
  rule = reference.Reference(**c.reference)
  compared = rule.start(trained, kept) if steps.reads_reference(c) else None
  return train_step.TrainState.create(trained, tx, compared)
