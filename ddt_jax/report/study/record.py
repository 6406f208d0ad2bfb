"""cell.json: what is measured of one method at one rate with one seed."""

import dataclasses
from typing import Any

import numpy as np

from ddt_jax import errors
from ddt_jax.rounds import evaluate
from ddt_jax.storage import typed_json


@dataclasses.dataclass(frozen=True)
class Texts:
  """Texts under one model: means per token, in nats.

  Attributes:
    nll: negative log-likelihood.
    phi: log p + entropy.
    entropy: of the prediction.
  """

  nll: float
  phi: float
  entropy: float


@dataclasses.dataclass(frozen=True)
class SplitRecord:
  """One split of the evaluation.

  Attributes:
    greedy: 1 for each problem whose greedy answer is right, else 0.
    right: number of right samples of each problem.
    samples: of each problem.
    tokens: mean length of a greedy answer.
    kl_to_base: KL of the untouched model to this one on the former's own samples,
      nats per token; None of the untouched model.
    own: the first sample of each problem under the model that drew it.
  """

  greedy: tuple[int, ...]
  right: tuple[int, ...]
  samples: int
  tokens: float
  kl_to_base: float | None
  own: Texts | None

  def __post_init__(self):
    if len(self.greedy) != len(self.right):
      raise errors.InputError(
          f'{len(self.greedy)} greedy answers and samples of {len(self.right)}'
          ' problems: a split has as many of both')

  def by_problem(self, k: int) -> np.ndarray:
    """Accuracy of each problem: greedy for k = 0, else the estimate of pass@k."""
    if not k:
      return np.asarray(self.greedy, float)
    return evaluate.pass_at_k(np.asarray(self.right), self.samples, k)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Work of one cell, as if it had made its corpus alone.

  Attributes:
    generated: tokens drawn for the training data.
    trained: supervised tokens, repeated ones counted again.
    flops: 6 N for a trained token, 2 N for a token that is drawn, or read by a
      second model, with N parameters; prompts and attention are left out.
    seconds: to make the corpus and to train, without the measurements.
  """

  generated: int
  trained: int
  flops: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class CellRecord:
  """One method at one rate with one seed.

  Attributes:
    method: its name, or 'untouched'.
    rate: learning rate; 0 of the untouched model.
    seed: of the cell.
    validation: greedy accuracy on the validation problems, which chooses the rate;
      None of the untouched model.
    splits: by name.
    data_before, data_after: the training data under the model before and after
      training; None where the student writes them during training.
    examples, steps: number of training examples and of updates.
    cost: of the cell.
  """

  method: str
  rate: float
  seed: int
  validation: float | None
  splits: dict[str, SplitRecord]
  data_before: Texts | None
  data_after: Texts | None
  examples: int
  steps: int
  cost: Cost

  def to_json(self) -> str:
    """The content of cell.json."""
    return typed_json.to_json(self)

  @classmethod
  def from_json(cls, text: str, source: Any = 'cell.json') -> 'CellRecord':
    """The record that `to_json` wrote; InputError names `source`."""
    return typed_json.from_json(text, cls, source=source)
