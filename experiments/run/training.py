"""A run's train state on its mesh: made, stepped, saved, restored."""

from collections.abc import Callable
from typing import Any

import jax

from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax.training import checkpoint
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.run import inputs

Progress = dict[str, Any]


class Training:
  """What the loop asks of optimizer, mesh and checkpoints.

  Attributes:
    rows, epochs, patience: config.optim's batch, epochs and how many updates in a
      row may be skipped.
  """

  def __init__(self, c, workdir: Any, s: inputs.Setup):
    self._c, self._s, self._optim = c, s, c.optim.to_dict()
    self.rows, self.epochs, self._micro_batches, self.patience, self._across = (
        self._optim.pop(k) for k in inputs.TRAINING
    )

    def create(params):
      _, tx = optimizer.make(total_steps=1, **self._optim)
      return train_step.TrainState.create(params, tx)

    abstract = jax.eval_shape(create, s.params)
    self._shardings = sharding.tree_shardings(abstract, s.mesh)
    self._abstract = checkpoint.abstract(abstract, self._shardings)
    self._create = jax.jit(
        create, donate_argnums=0, out_shardings=self._shardings)
    self._latest = checkpoint.Checkpoints(workdir, keep=c.checkpoint.keep)
    self._best = checkpoint.Checkpoints(workdir, 'best', keep=1)

  def restore(self) -> tuple[train_step.TrainState | None, Progress]:
    """The newest state and how far it has come; (None, the beginning) if none."""
    if restored := self._latest.restore(self._abstract):
      jax.tree.map(lambda x: x.delete(), self._s.params)
      return restored
    return None, {
        'round': 0, 'done': 0, 'step': 0, 'updates': 0, 'skipped': 0,
        'skipped_in_a_row': 0, 'tokens': 0, 'seconds': 0.0,
        'best_step': None, 'best_nll': None,
    }

  def begin(
      self, state: train_step.TrainState | None, params: Any
  ) -> train_step.TrainState:
    """The state with which a round begins; `params` are donated to a new one."""
    if state is None or self._across == 'restart':
      return self._create(params)
    return state

  def step(
      self, r: int, total: int, progress: Progress
  ) -> tuple[Callable, Callable]:
    """The jitted step of round r, and the learning rate by steps of the round.

    What is continued gives each round an equal share of schedule and curriculum.

    Args:
      r, total: the round, and its steps.
      progress: of the run.
    """
    c, s = self._c, self._s
    span, updates, steps = {'total_steps': total}, 0, 0
    if self._across == 'continue':
      span = {'total_steps': c.rounds * total, 'first_step': r * total}
      updates = progress['updates']
      steps = progress['step'] - progress['done']
    schedule, tx = optimizer.make(**span, updates=updates, **self._optim)
    step = jax.jit(
        train_step.make_train_step(
            s.config, tx, mesh=s.mesh, micro_batches=self._micro_batches,
            steps_before=steps, **span, **c.curriculum,
            **objectives.pick(**c.loss),
        ),
        donate_argnums=0,
        in_shardings=(self._shardings, sharding.batch_sharding(s.mesh)),
        out_shardings=(self._shardings, sharding.replicated(s.mesh)),
    )
    return step, lambda done: schedule(updates + done)

  def save(self, state: train_step.TrainState, progress: Progress) -> None:
    self._latest.save(progress['step'], state, progress)

  def keep_best(
      self, state: train_step.TrainState, progress: Progress, nll: float
  ) -> None:
    """Saves the parameters if their validation NLL is the lowest so far."""
    if progress['best_nll'] is None or nll < progress['best_nll']:
      progress |= {'best_step': progress['step'], 'best_nll': nll}
      self._best.save(progress['step'], {'params': state.params}, progress)
