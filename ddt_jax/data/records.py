"""What the stages hand to each other: problems and responses, as JSON lines.

A stage writes one record a line and the next reads them back exactly, token
ids included: text is never tokenised a second time on the way.
"""

from collections.abc import Iterable
import dataclasses
import json
import os
from typing import TypeVar

from ddt_jax import storage


@dataclasses.dataclass(frozen=True)
class Problem:
  """One question with its reference solution.

  Attributes:
    id: unique within a data set; a response names its problem by it.
    problem: the question; of a conversation, the last user turn.
    solution: the reference; of a conversation, the last assistant turn.
    answer: what a response is verified against, '' if nothing is known.
    kind: how it is verified, 'math' or 'text'.
    marker: what a final answer follows, see `verify.extract`.
    source: where it came from, e.g. 'data.jsonl:17' or the skill's name.
    messages: the turns {'role', 'content'} of data given as a conversation.
  """
  id: str
  problem: str
  solution: str = ''
  answer: str = ''
  kind: str = 'math'
  marker: str = '\\boxed{'
  source: str = ''
  messages: tuple[dict[str, str], ...] = ()

  @property
  def conversation(self) -> list[dict[str, str]]:
    """The turns to train on: those given, or the problem and its solution."""
    if self.messages:
      return [dict(turn) for turn in self.messages]
    return [{'role': 'user', 'content': self.problem},
            {'role': 'assistant', 'content': self.solution}]


@dataclasses.dataclass(frozen=True)
class Response:
  """One answer to a problem, with the token ids that were drawn.

  Attributes:
    problem_id: the `Problem.id` it answers.
    tokens: the ids as sampled, the end of the turn included.
    text: the same, decoded for the verifier and the reader.
    finish: 'eos', 'length', 'repetition' or 'skipped'.
    source: who wrote it: 'own', the model by itself; 'hinted', by Hinted
      Decoding; 'reference'.
    correct: the verdict; None where the verifier abstained or was not asked.
    extracted: the answer the verifier found in the text.
    reason: the verdict in words.
    phi: its mean, where it was scored.
  """
  problem_id: str
  tokens: tuple[int, ...]
  text: str
  finish: str
  source: str = 'own'
  correct: bool | None = None
  extracted: str | None = None
  reason: str = ''
  phi: float | None = None


Record = TypeVar('Record', Problem, Response)


def to_json(record: Problem | Response) -> str:
  """The record as one line, without its newline."""
  # ASCII, because some line splitters also cut at U+0085 and U+2028, which
  # JSON would leave as they are, and a lone surrogate has no UTF-8.
  return json.dumps(vars(record))


def from_json(line: str, cls: type[Record]) -> Record:
  """The record of one line.

  Raises:
    ValueError: if the line is not JSON or has other fields than `cls`.
  """
  fields = json.loads(line)
  if not isinstance(fields, dict):
    raise ValueError('not an object')
  try:
    return cls(**{name: tuple(value) if isinstance(value, list) else value
                  for name, value in fields.items()})
  except TypeError as e:  # the constructor names the field
    raise ValueError(str(e)) from e


def write_jsonl(path: str | os.PathLike[str],
                records: Iterable[Problem | Response]) -> None:
  """Writes all records, or, if interrupted, leaves the file as it was."""
  storage.publish(path, ''.join(to_json(record) + '\n' for record in records))


def read_jsonl(path: str | os.PathLike[str],
               cls: type[Record]) -> list[Record]:
  """Reads what `write_jsonl` wrote, or what was appended line by line.

  A missing file holds no records, and a last line torn by a kill is none.

  Raises:
    ValueError: if a line is no `cls`, with the file and the line.
  """
  found = []
  for number, line in enumerate(storage.read_lines(path), 1):
    try:
      found.append(from_json(line, cls))
    except ValueError as e:
      raise ValueError(f'{path}:{number}: not a {cls.__name__}: {e}') from e
  return found
