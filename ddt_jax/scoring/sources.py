"""Rows to score: those of a user's file, or the model's own samples.

Rows come in blocks. A row keeps its own columns; one that cannot be scored has
a fault instead of an example.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, NamedTuple, Protocol

from ddt_jax import errors
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import readers
from ddt_jax.data import records
from ddt_jax.data import turns


class Row(NamedTuple):
  """One row.

  Attributes:
    line: of the file, from 1.
    columns: the row's own.
    example: tokenised conversation; None with a fault.
    fault: why it cannot be scored, '' if it can.
    truncated: whether its end was cut off.
    turn: index of the last scored turn of its conversation, from 0.
  """

  line: int
  columns: dict[str, Any]
  example: chat.Example | None
  fault: str = ''
  truncated: bool = False
  turn: int = 0


class Source(Protocol):
  """A sequence of rows.

  Attributes:
    name: shown to the user.
    count: number of rows, bad ones included.
    types: of the rows' own columns, see `census.Census.types`.
    made_from: everything the rows depend on; JSON-able.
  """

  name: str
  count: int
  types: Mapping[str, Any]
  made_from: dict[str, Any]

  def blocks(self, size: int, first: int) -> Iterator[list[Row]]:
    """Yields blocks, beginning with block number `first`.

    A block is made of `size` lines. A conversation that is split by turns gives
    several rows with the same line.
    """


@dataclasses.dataclass(frozen=True)
class File:
  """Rows of a .jsonl or .parquet file.

  Attributes:
    path, columns, options: see `readers.stream`.
    found: see `census.take`.
    tokenizer, end, vocab_size: of the model.
    max_tokens, overlong: see `lengths.cut`.
    split_turns: see `turns.rendered`.
    bad_rows: 'error' raises at a row that cannot be scored; 'skip' yields it with
      its fault.
  """

  path: str
  columns: dict[str, str]
  options: dict[str, Any]
  found: census.Census
  tokenizer: Any
  end: chat.TurnEnd
  vocab_size: int
  max_tokens: int
  overlong: str = 'truncate'
  bad_rows: str = 'error'
  split_turns: bool = True

  @property
  def name(self) -> str:
    return str(self.path)

  @property
  def count(self) -> int:
    return self.found.rows

  @property
  def types(self) -> Mapping[str, Any]:
    return self.found.types

  @property
  def made_from(self) -> dict[str, Any]:
    return {'file': self.name, 'sha256': self.found.sha256}

  def blocks(self, size: int, first: int) -> Iterator[list[Row]]:
    rows = readers.stream(
        # whole: the scores are written beside all of the row's own columns.
        self.path, columns=self.columns, whole=True, first=first * size,
        **self.options)
    for block in _blocks(rows, size):
      yield self._tokenised(block)

  def _tokenised(self, block: Sequence[readers.Row]) -> list[Row]:
    """Tokenises a block with one call of the tokenizer, which has threads."""
    # First the texts of all rows, then one call of the tokenizer for those without
    # a fault.
    parts = [part for row in block for part in self._parts(row)]
    examples = iter(chat.encode_pieces(
        self.tokenizer, [part.pieces for part in parts if part.pieces]))
    return [
        self._fitted(part, next(examples) if part.pieces else None)
        for part in parts
    ]

  def _parts(self, row: readers.Row) -> list['_Part']:
    """The examples of a line, rendered, or its fault."""
    if row.problem is None:
      return [_Part(row, 0, [], row.fault)]
    try:
      found = turns.rendered(
          self.tokenizer, row.problem, self.end, split_turns=self.split_turns)
    except errors.InputError as e:
      return [_Part(row, 0, [], str(e))]
    return [
        _Part(row, len(problem.conversation) - 1, pieces, '')
        for problem, pieces in found]

  def _fitted(self, part: '_Part', example: chat.Example | None) -> Row:
    row, turn, _, fault = part
    where = f'{self.name}:{row.line}'
    kept = None
    if example is not None:
      fault = self._vocabulary_fault(example)
    if example is not None and not fault:
      kept = lengths.cut(example, self.max_tokens, self.overlong, where)
      if kept is None:
        fault = (f'{len(example.tokens)} tokens, more than data.max_tokens='
                 f'{self.max_tokens}')
    # A row that is only too long is no error here: `overlong` has a rule for it.
    elif self.bad_rows == 'error':
      raise errors.InputError(
          f'{where}: {fault}; --config.data.bad_rows=skip leaves such rows out')
    return Row(row.line, row.columns, kept, fault, kept is not example, turn)

  def _vocabulary_fault(self, example: chat.Example) -> str:
    highest = int(example.tokens.max())
    # JAX does not fail at an index beyond the embedding: scores would be wrong
    # unnoticed.
    if highest < self.vocab_size:
      return ''
    token = self.tokenizer.convert_ids_to_tokens(highest)
    return (f'the token {token!r} has the id {highest}, but the model knows'
            f' {self.vocab_size} tokens: is this its tokenizer?')


class _Part(NamedTuple):
  """An example of a line before tokenising; without pieces it has a fault."""

  row: readers.Row
  turn: int
  pieces: list[tuple[str, bool]]
  fault: str


@dataclasses.dataclass(frozen=True)
class Samples:
  """Answers of the model, with the ids that it sampled.

  Attributes:
    name, made_from: see `Source`.
    problems: the questions.
    prompts: the questions, tokenised.
    responses: one to each question.
  """

  name: str
  made_from: dict[str, Any]
  problems: Sequence[records.Problem]
  prompts: Sequence[Sequence[int]]
  responses: Sequence[records.Response]

  @property
  def count(self) -> int:
    return len(self.responses)

  @property
  def types(self) -> Mapping[str, Any]:
    return census.types_of([self._columns(i) for i in range(self.count)])

  def _columns(self, i: int) -> dict[str, Any]:
    problem = self.problems[i]
    return {
        'id': problem.id, 'problem': problem.problem,
        'solution': self.responses[i].text, 'source': 'own',
        'finish': self.responses[i].finish,
    }

  def blocks(self, size: int, first: int) -> Iterator[list[Row]]:
    return _blocks((
        Row(i + 1, self._columns(i), chat.answered(
            self.prompts[i], self.responses[i].tokens),
            turn=len(self.problems[i].conversation) - 1)
        for i in range(first * size, self.count)
    ), size)


def _blocks(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
  rows = iter(rows)
  while block := list(itertools.islice(rows, size)):
    yield block
