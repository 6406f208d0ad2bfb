"""A run's progress: the counters that a checkpoint keeps beside the state."""

import dataclasses
from typing import Any

from ddt_jax import errors


@dataclasses.dataclass(frozen=True)
class Progress:
  """Position and totals of a run. The training loop rebuilds it, never mutates it.

  Attributes:
    round: index of the current round, from 0; the number of rounds at the end.
    done: steps taken in the current round.
    step: steps taken in all rounds, skipped ones included.
    updates: optimizer updates applied in the finished rounds; the next round's
      schedule starts from it.
    skipped: steps of the run whose gradient was not finite, up to the last line
      of metrics.
    skipped_in_a_row: how many of them came last, without a good one between.
    tokens: supervised tokens trained on, up to the last line of metrics.
    seconds: seconds spent on training steps, up to the last line of metrics.
    best_step: step of the lowest validation NLL, or None before a validation.
    best_nll: that NLL in nats per token, or None before a validation.
    stream: state of the round's data iterator, or None before its first step.

  Example:
    >>> progress = Progress(step=7, done=2)
    >>> progress.steps_before
    5
    >>> Progress.from_json(progress.to_json()) == progress
    True
  """

  round: int = 0
  done: int = 0
  step: int = 0
  updates: int = 0
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
    return self.step - self.done

  def replace(self, **changes: Any) -> 'Progress':
    """Returns a copy with these fields changed."""
    return dataclasses.replace(self, **changes)

  def to_json(self) -> dict[str, Any]:
    """Returns every field by name, ready for `json.dumps`."""
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
