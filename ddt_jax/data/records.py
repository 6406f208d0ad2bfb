"""Problems and responses, the records that stages pass on, as JSON lines.

A stage writes one record a line, and the next reads back equal records. Token
ids are part of them: a response is never tokenised a second time.
"""

from collections.abc import Iterable
import dataclasses
import json
import os
from typing import Any, TypeVar

from ddt_jax import storage


@dataclasses.dataclass(frozen=True)
class Problem:
  """One question with its reference solution.

  Attributes:
    id: unique within a data set; `Response.problem_id` refers to it.
    problem: the question. In a conversation, the last user turn.
    solution: the reference. In a conversation, the last assistant turn.
    answer: the right answer, for the verifier; '' if it is not known.
    kind: how answers are compared, see `verify.verify`.
    marker: the text before a final answer, see `verify.extract`.
    source: where it comes from, e.g. 'data.jsonl:17' or the skill's name.
    messages: turns {'role', 'content'}, if the data are conversations. An assistant
      turn may have a reasoning field (`rendering.REASONING`), and `train` False if
      it is not trained, see `conversations.read`.
  """
  id: str
  problem: str
  solution: str = ''
  answer: str = ''
  kind: str = 'math'
  marker: str = '\\boxed{'
  source: str = ''
  messages: tuple[dict[str, Any], ...] = ()

  @property
  def conversation(self) -> list[dict[str, Any]]:
    """The turns to train on: `messages`, or else problem and solution."""
    if self.messages:
      return [dict(turn) for turn in self.messages]
    return [{'role': 'user', 'content': self.problem},
            {'role': 'assistant', 'content': self.solution}]


@dataclasses.dataclass(frozen=True)
class Response:
  """One answer to a problem, with its token ids.

  Attributes:
    problem_id: `Problem.id` of the problem it answers.
    tokens: ids as sampled, the end-of-turn token included.
    text: the ids decoded, for the verifier and for readers.
    finish: why it ended: 'eos', 'length', 'repetition'; or 'skipped', if it was
      not generated at all.
    source: its author: 'own', the model alone; 'hinted', Hinted Decoding;
      'projected', a chain that began at a hinted text, see `projection`;
      'reference', the data.
    correct: the verdict; None if the verifier abstained or was not run.
    extracted: the answer that the verifier read from the text.
    reason: the verdict in words.
    phi: mean over the tokens, in nats; None if it was not scored.
    log_p: sum over the tokens, in nats, under the model that scored it.
    analysis: of the reference, which the model wrote before it rewrote it, or
      before it was skipped.
    drawn: tokens that its chain drew, those of rejected proposals too; None where
      no chain ran: it took its own tokens.
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
  log_p: float | None = None
  analysis: str = ''
  drawn: int | None = None


Record = TypeVar('Record', Problem, Response)


def to_json(record: Problem | Response) -> str:
  """Returns a record as one line of JSON, without the newline."""
  # ASCII only: some line splitters also split at U+0085 and U+2028, and a lone
  # surrogate cannot be encoded in UTF-8.
  return json.dumps(vars(record))


def from_json(line: str, cls: type[Record]) -> Record:
  """Returns the record that `to_json` wrote.

  Raises:
    ValueError: the line is not a JSON object with the fields of `cls`.
  """
  fields = json.loads(line)
  if not isinstance(fields, dict):
    raise ValueError('not an object')
  try:
    # JSON has no tuples; records are compared and hashed by them.
    return cls(**{name: tuple(value) if isinstance(value, list) else value
                  for name, value in fields.items()})
  except TypeError as e:  # its message names the field
    raise ValueError(str(e)) from e


def write_jsonl(path: str | os.PathLike[str],
                records: Iterable[Problem | Response]) -> None:
  """Writes a file of records; if interrupted, the old file stays as it was."""
  storage.publish(path, ''.join(to_json(record) + '\n' for record in records))
