"""A run's progress: the counters that a checkpoint keeps beside the state."""

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
    best_step: step of the lowest validation NLL, or None before a validation.
    best_nll: that NLL in nats per token, or None before a validation.
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
  best_nll: float | None = None
  stream: dict[str, Any] | None = None

  @property
  def steps_before(self) -> int:
    """Steps taken in the rounds before the current one."""
    return self.step - self.round_step

  def next_step(self) -> 'Progress':
    """Returns the progress after one more step of the round."""
    return self.replace(round_step=self.round_step + 1, step=self.step + 1)

  def round_finished(self) -> 'Progress':
    """Returns the progress at the start of the next round."""
    return self.replace(
        round=self.round + 1, round_step=0,
        # A skipped step is no update: optax's count did not move.
        updates_before=self.step - self.skipped)

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
