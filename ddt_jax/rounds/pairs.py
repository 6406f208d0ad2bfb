"""Preference pairs from the model's own responses, judged by the verifier.

The rule: of each problem, in the order in which they were drawn, the i-th right
response is preferred to the i-th wrong one.

  right   accepted for training, see `select.is_accepted`
  wrong   the verifier says False, and the response ends by itself. What was cut
          off at the length limit would teach the model to dislike long answers.

Equal texts count once. Responses that the verifier abstained from take no side.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
from typing import Any

from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.data import tables
from ddt_jax.rounds import counts
from ddt_jax.rounds import select


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two responses to one problem.

  Attributes:
    chosen: the right one.
    rejected: the wrong one.
  """

  chosen: records.Response
  rejected: records.Response

  @property
  def problem_id(self) -> str:
    return self.chosen.problem_id


def from_responses(
    responses: Sequence[records.Response], end: chat.TurnEnd, *, keep: int = 1
) -> tuple[list[Pair], counts.PairCounts]:
  """Pairs the right responses of each problem with its wrong ones.

  Args:
    responses: the model's, of any number of problems.
    end: the token that ends a turn.
    keep: pairs of a problem, at most.

  Returns:
    The pairs in the order of the problems' first responses, and counts.
  """
  right = select.first_distinct(
      responses, lambda r: select.is_accepted(r, end), keep)
  wrong = select.first_distinct(responses, lambda r: is_wrong(r, end), keep)
  pairs = [
      Pair(*both) for problem in right
      for both in zip(right[problem], wrong[problem], strict=False)
  ]
  sides = [(bool(right[problem]), bool(wrong[problem])) for problem in right]
  return pairs, counts.PairCounts(
      len(pairs), sides.count((True, True)), sides.count((True, False)),
      sides.count((False, True)), sides.count((False, False)))


def is_wrong(response: records.Response, end: chat.TurnEnd) -> bool:
  """Tells whether a response may stand on the rejected side; see the module."""
  return response.correct is False and response.tokens[-1:] == (end.id,)


def to_chat(pair: Pair, problem: records.Problem) -> dict[str, Any]:
  """A row in TRL's conversational preference format."""
  return {
      'prompt': problem.conversation[:-1],
      'chosen': [{'role': 'assistant', 'content': pair.chosen.text}],
      'rejected': [{'role': 'assistant', 'content': pair.rejected.text}],
      'id': problem.id,
  }


def write(
    path: str | os.PathLike[str], pairs: Sequence[Pair],
    problem_of: Callable[[str], records.Problem],
) -> None:
  """Writes pairs in a file that TRL's DPOTrainer reads as it is.

  Args:
    path: local or gs://; .parquet, else JSON lines.
    pairs: in the order of the file.
    problem_of: problem id -> problem.
  """
  tables.write(
      path, [to_chat(pair, problem_of(pair.problem_id)) for pair in pairs])
