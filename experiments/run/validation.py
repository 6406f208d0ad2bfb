"""Validations of a run, which a stop may end early and a resumed run repeats."""

import tqdm

from ddt_jax import processes
from ddt_jax.training import metrics
from ddt_jax.training import train_step
from ddt_jax.training.progress import Progress
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import measure
from experiments.run import run_state


class Validations:
  """Validates the model between two steps, and notes the best one.

  A validation with answers may take minutes, and a stop is heeded within seconds:
  it is then given up, and `Progress.unvalidated` says so in the checkpoint.
  """

  def __init__(
      self, c, s: inputs.Inputs, measurements: measure.Measurements,
      states: run_state.RunState, writer: metrics.Writer):
    self._patience = c.validation.patience
    self._s, self._measurements = s, measurements
    self._states, self._writer = states, writer

  def validate(
      self, state: train_step.TrainState, progress: Progress, *, accuracy: bool
  ) -> Progress:
    """Returns the progress with this validation, or with a note that it is due.

    Args:
      state, progress: after a step.
      accuracy: see `Measurements.validation`.
    """
    try:
      scalars = self._measurements.validation(
          self._s.applied(state.params), accuracy=accuracy)
    except lifecycle.Stopped:
      return progress.replace(unvalidated='accuracy' if accuracy else 'nll')
    self._writer.write(progress.step, 'validation', scalars)
    progress = self._states.keep_best(
        state, progress.replace(unvalidated=''), scalars)
    if self.enough(progress) and processes.is_first():
      tqdm.tqdm.write(
          f'round {progress.round + 1} ends after step {progress.step}:'
          f' {progress.stale} validations without a better one than that after step'
          f' {progress.best_step} ({progress.best_by} {progress.best_value:.3f})')
    return progress

  def enough(self, progress: Progress) -> bool:
    """Whether so many validations were not the best that the round ends."""
    return 0 < self._patience <= progress.stale

  def catch_up(
      self, state: train_step.TrainState | None, progress: Progress
  ) -> Progress:
    """Repeats the validation that a stop ended; call when a run resumes."""
    if not progress.unvalidated:
      return progress
    progress = self.validate(
        state, progress, accuracy=progress.unvalidated == 'accuracy')
    if progress.unvalidated:
      lifecycle.check_stop()  # stopped again: the checkpoint is still the right one
    return progress.round_finished() if self.enough(progress) else progress
