"""results.json: the numbers of a finished run, all that its report shows."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

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
    best_step, best_by, best_value: step of the best validation, 'accuracy' or
      'nll', and its accuracy in [0, 1] or NLL in nats per token; None where
      nothing tells, see `Progress.with_validation`.
    parameters: numbers in the model.
    weight, ess: mean token weight and effective sample size as a share of the
      tokens, over the logged steps; None before the first.
  """

  steps: int
  tokens: int
  seconds: float
  skipped: int
  best_step: int | None
  best_by: str | None
  best_value: float | None
  parameters: int
  weight: float | None
  ess: float | None


@dataclasses.dataclass(frozen=True)
class ShownTurn:
  """A stretch of trained tokens and the text before it.

  Attributes:
    context: text that is not trained: a question, or what stands between two
      answers.
    tokens: text of each trained token.
    phi_before, phi_after: nats, before and after training.
  """

  context: str
  tokens: tuple[str, ...]
  phi_before: tuple[float, ...]
  phi_after: tuple[float, ...]

  def __post_init__(self):
    if not len(self.tokens) == len(self.phi_before) == len(self.phi_after):
      raise errors.InputError(
          f'the example {self.context[:30]!r} needs one phi before and one after'
          ' training for each of its tokens')


@dataclasses.dataclass(frozen=True)
class ShownText:
  """One text with the phi of its trained tokens, for a heat map.

  Attributes:
    title: heading.
    turns: in the order of the text.
  """

  title: str
  turns: tuple[ShownTurn, ...]

  @classmethod
  def of(
      cls, tokenizer: Any, example: chat.Example, phi_before: Sequence[float],
      phi_after: Sequence[float],
  ) -> 'ShownText':
    """A reference solution; phi of its supervised tokens, in nats."""
    supervised = np.asarray(example.supervised)
    # Where a context begins, behind the first one.
    edges = np.flatnonzero(supervised[:-1] & ~supervised[1:]) + 1
    turns, first = [], 0
    for part in np.split(np.arange(len(supervised)), edges):
      trained = supervised[part]
      n = int(trained.sum())
      turns.append(ShownTurn(
          context=tokenizer.decode(
              example.tokens[part][~trained], skip_special_tokens=True).strip(),
          # One by one: the heat map needs a text for each token.
          tokens=tuple(
              tokenizer.decode([t]) for t in example.tokens[part][trained]),
          phi_before=tuple(phi_before[first: first + n]),
          phi_after=tuple(phi_after[first: first + n])))
      first += n
    return cls('A reference solution from the training data', tuple(
        # A chat template may write a line end behind the last answer.
        turn for turn in turns if turn.context or turn.tokens))


@dataclasses.dataclass(frozen=True)
class ShownAnswer:
  """One solution of a problem, by tokens.

  Attributes:
    kind: 'reference', 'wrong' (an own answer) or 'rewritten'.
    tokens: text of each.
    phi: of each under the model that the round began with, nats.
  """

  kind: str
  tokens: tuple[str, ...]
  phi: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ShownProblem:
  """A problem that Hinted Decoding has rewritten.

  Attributes:
    problem, answer: texts.
    answers: the reference unless it is too long for a row, a wrong own answer and
      the rewritten text.
  """

  problem: str
  answer: str
  answers: tuple[ShownAnswer, ...]


@dataclasses.dataclass(frozen=True)
class Machine:
  """Devices and versions of a run, in words."""

  devices: str
  versions: str


@dataclasses.dataclass(frozen=True)
class Status:
  """Position of a run that is not finished.

  Attributes:
    round, rounds: index of the current round, and their number.
    step, steps: steps of the round that are done, and all of them.
    written: seconds since 1970 when this was written.
    remaining: seconds that the rest should take; None before the first steps.
    stopped: seconds since 1970 when a stop ended the run; None while it is at work.
  """

  round: int
  rounds: int
  step: int
  steps: int
  written: float
  remaining: float | None
  stopped: float | None = None


@dataclasses.dataclass(frozen=True)
class RunResults:
  """A run, finished or not.

  Attributes:
    name, seed: of the run.
    evaluation: accuracy by split, before training and after each round; None
      without held-out problems.
    rounds: one summary for each round that has a corpus.
    corpus: the reference solutions.
    data, training: sizes and counts.
    timings: stage -> seconds, over all rounds.
    examples: texts to show.
    status: None for a finished run.
    kl_to_base: KL of the model before training to the model, nats per token of
      the former's own samples, by split: before training and after each round;
      None where it was not measured.
    problems: of the first round, to show side by side.
    machine: where the run ended; None where it is not known.
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
  status: Status | None
  kl_to_base: tuple[dict[str, float], ...] | None = None
  problems: tuple[ShownProblem, ...] = ()
  machine: Machine | None = None

  def __post_init__(self):
    if self.evaluation is None:
      return
    # Checked when read, too: a report of mismatched rounds would be wrong, not
    # broken.
    # A round that is being trained has a corpus and no evaluation yet.
    running = self.status is not None and (
        len(self.evaluation) == len(self.rounds))
    if not running and len(self.evaluation) != len(self.rounds) + 1:
      raise errors.InputError(
          'needs one evaluation before training and one after each round')
    if len({frozenset(splits) for splits in self.evaluation}) > 1:
      raise errors.InputError('all evaluations must cover the same splits')

  @property
  def measured_after(self) -> bool:
    """Whether a round has ended with a measurement.

    Before that, all that is called `after` repeats the numbers before training.
    """
    return self.status is None or self.status.round > 0

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
