"""A run's progress: the counters that a checkpoint keeps beside the state."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from ddt_jax import errors


@dataclasses.dataclass(frozen=True)
class Progress:
  """Position and totals of a run. The training loop rebuilds it, never mutates it.

  Attributes:
    round: index of the current round, from 0; the number of rounds at the end.
    round_step: steps taken in the current round.
    step: steps taken in all rounds, skipped ones included.
    updates_before: optimizer updates applied in the finished rounds.
    skipped: steps of the run whose gradient was not finite, up to the last line
      of metrics.
    skipped_in_a_row: skipped steps since the last applied update.
    tokens: supervised tokens trained on, up to the last line of metrics.
    seconds: seconds spent on training steps, up to the last line of metrics.
    best_step: step of the best validation so far, or None before one.
    best_by: what it was best by, 'accuracy' or 'nll', or None.
    best_value: its accuracy in [0, 1] or NLL in nats per token, or None.
    stale: validations of the round since the best one, of those that could be it.
    unvalidated: the validation after `step` that a stop ended early: 'nll' or, with
      answers, 'accuracy'; '' if there is none. The resumed run starts with it.
    stream: state of the round's data iterator, or None before its first step.

  Example:
    >>> progress = Progress(step=7, round_step=2)
    >>> progress.steps_before
    5
    >>> Progress.from_json(progress.to_json()) == progress
    True
  """

  round: int = 0
  round_step: int = 0
  step: int = 0
  updates_before: int = 0
  skipped: int = 0
  skipped_in_a_row: int = 0
  tokens: int = 0
  seconds: float = 0.0
  best_step: int | None = None
  best_by: str | None = None
  best_value: float | None = None
  stale: int = 0
  unvalidated: str = ''
  stream: dict[str, Any] | None = None

  @property
  def steps_before(self) -> int:
    """Steps taken in the rounds before the current one."""
    return self.step - self.round_step

  def next_step(self) -> 'Progress':
    """Returns the progress after one more step of the round."""
    return self.replace(round_step=self.round_step + 1, step=self.step + 1)

  def saved_with(
      self, stream: dict[str, Any], *, finished: bool
  ) -> 'Progress':
    """Returns the progress that is saved after a step.

    Args:
      stream: state of the round's data iterator.
      finished: whether the step was the last one of its round.
    """
    progress = self.replace(stream=stream)
    return progress.round_finished() if finished else progress

  def round_finished(self) -> 'Progress':
    """Returns the progress at the start of the next round."""
    return self.replace(
        round=self.round + 1, round_step=0, stale=0,
        # A skipped step is no update: optax's count did not move.
        updates_before=self.step - self.skipped)

  def with_validation(
      self, scalars: Mapping[str, float], *, nll_counts: bool
  ) -> 'Progress':
    """Returns the progress with this validation as the best one, if it is.

    The best has the highest accuracy. Where accuracy is not measured it has the
    lowest NLL, if the objective minimises it. Other objectives raise the NLL of
    references while they learn: without accuracy no validation is their best.

    Args:
      scalars: of the validation after `step` steps: nll, and perhaps accuracy.
      nll_counts: whether the objective is NLL itself.

    Example:
      >>> first = Progress(step=5).with_validation({'nll': 2.0}, nll_counts=True)
      >>> first.with_validation({'nll': 3.0}, nll_counts=True).best_step
      5
    """
    by = 'accuracy' if 'accuracy' in scalars else 'nll' if nll_counts else None
    # One accuracy outweighs all NLLs: they cannot be compared.
    if by is None or by == 'nll' and self.best_by == 'accuracy':
      return self
    new, old = scalars[by], self.best_value
    if by == self.best_by and (new <= old if by == 'accuracy' else new >= old):
      return self.replace(stale=self.stale + 1)
    return self.replace(best_step=self.step, best_by=by, best_value=new, stale=0)

  def replace(self, **changes: Any) -> 'Progress':
    """Returns a copy with these fields changed."""
    return dataclasses.replace(self, **changes)

  def to_json(self) -> dict[str, Any]:
    """Returns every field by name, ready for `json.dumps`."""
    # Not `dataclasses.asdict`, which deep-copies the stream's state.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> 'Progress':
    """Returns the progress that `to_json` gave these fields.

    Raises:
      errors.InputError: a field is unknown or missing.
    """
    names = {f.name for f in dataclasses.fields(cls)}
    for problem, found in (
        ('unknown', fields.keys() - names), ('missing', names - fields.keys())
    ):
      if found:
        raise errors.InputError(
            f"progress.json: {problem} field {', '.join(sorted(found))}. Another"
            ' version of this code wrote the checkpoint: resume with that version,'
            ' or choose another --workdir.'
        )
    return cls(**fields)
