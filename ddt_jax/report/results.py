"""results.json: the numbers of a finished run, all that its report shows."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from ddt_jax import errors
from ddt_jax.data import chat
from ddt_jax.rounds import counts
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import text_stats
from ddt_jax.storage import typed_json

Evaluation = dict[str, evaluate.SplitAccuracy]  # by the split's name


@dataclasses.dataclass(frozen=True)
class Reference:
  """The reference solutions under the model before and after training."""

  before: text_stats.TextStats
  after: text_stats.TextStats


@dataclasses.dataclass(frozen=True)
class Data:
  """The training data.

  Attributes:
    train, validation: examples of each.
    bad_rows: rows that could not be read.
    truncated, dropped: training examples longer than data.max_tokens that were
      cut or left out.
    turn_end: text of the token that ends a turn.
  """

  train: int
  validation: int
  bad_rows: int
  truncated: int
  dropped: int
  turn_end: str


@dataclasses.dataclass(frozen=True)
class Training:
  """The steps of all rounds.

  Attributes:
    steps: optimizer updates.
    tokens: supervised tokens, repeated ones counted again.
    seconds: time of the steps alone.
    skipped: updates left out because a gradient was not finite.
    best_step, best_nll: step of the best checkpoint and its validation NLL
      (nats per token); None without validation data.
    parameters: numbers in the model.
  """

  steps: int
  tokens: int
  seconds: float
  skipped: int
  best_step: int | None
  best_nll: float | None
  parameters: int


@dataclasses.dataclass(frozen=True)
class ShownText:
  """One text with the phi of its supervised tokens, for a heat map.

  Attributes:
    title, prompt: heading, and the text before the supervised tokens.
    tokens: text of each supervised token.
    phi_before, phi_after: nats, before and after training.
  """

  title: str
  prompt: str
  tokens: tuple[str, ...]
  phi_before: tuple[float, ...]
  phi_after: tuple[float, ...]

  def __post_init__(self):
    if not len(self.tokens) == len(self.phi_before) == len(self.phi_after):
      raise errors.InputError(
          f'example {self.title!r} needs one phi before and one after training'
          ' for each of its tokens')

  @classmethod
  def of(
      cls, tokenizer: Any, example: chat.Example, phi_before: Sequence[float],
      phi_after: Sequence[float],
  ) -> 'ShownText':
    """A reference solution; phi of its supervised tokens, in nats."""
    prompt, response = (
        example.tokens[example.supervised == flag] for flag in (False, True)
    )
    return cls(
        title='A reference solution from the training data',
        prompt=tokenizer.decode(prompt, skip_special_tokens=True),
        # One by one: the heat map needs a text for each token.
        tokens=tuple(tokenizer.decode([t]) for t in response),
        phi_before=tuple(phi_before), phi_after=tuple(phi_after),
    )


@dataclasses.dataclass(frozen=True)
class RunResults:
  """A finished run.

  Attributes:
    name, seed: of the run.
    evaluation: accuracy by split, before training and after each round; None
      without held-out problems.
    rounds: one summary a round.
    corpus: the reference solutions.
    data, training: sizes and counts.
    timings: stage -> seconds, over all rounds.
    examples: texts to show.
  """

  name: str
  seed: int
  evaluation: tuple[Evaluation, ...] | None
  rounds: tuple[counts.RoundSummary, ...]
  corpus: Reference
  data: Data
  training: Training
  timings: dict[str, float]
  examples: tuple[ShownText, ...]

  def __post_init__(self):
    if self.evaluation is None:
      return
    # Checked when read, too: a report of mismatched rounds would be wrong, not
    # broken.
    if len(self.evaluation) != len(self.rounds) + 1:
      raise errors.InputError(
          'needs one evaluation before training and one after each round')
    if len({frozenset(splits) for splits in self.evaluation}) > 1:
      raise errors.InputError('all evaluations must cover the same splits')

  def to_json(self) -> str:
    """The content of results.json."""
    return typed_json.to_json(self)

  @classmethod
  def from_json(cls, text: str, source: Any = 'results.json') -> 'RunResults':
    """The run that `to_json` wrote.

    Raises:
      errors.InputError: a field is missing, unknown or does not fit; names
        `source` and the field.
    """
    return typed_json.from_json(text, cls, source=source)
