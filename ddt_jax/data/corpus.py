"""The problems a run trains, validates and evaluates on."""

from collections.abc import Mapping
import dataclasses

from ddt_jax import verify
from ddt_jax.data import readers
from ddt_jax.data import records
from ddt_jax.data import splits


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Problems by use.

  Attributes:
    train, validation: with reference solutions.
    evaluation: by name of the split; with answers to verify against.
    bad_rows: rows of a user's file that were left out.
    description: one line for the screen.
  """

  train: list[records.Problem]
  validation: list[records.Problem]
  evaluation: dict[str, list[records.Problem]]
  bad_rows: int
  description: str


def from_file(
    path: str,
    *,
    validation: float,
    evaluation: float,
    evaluation_problems: int,
    columns: Mapping[str, str] | None = None,
    bad_rows: str = 'error',
    kind: str = 'math',
    question: str = '{problem}',
    marker: str = verify.BOX,
    seed: int = 0,
) -> Corpus:
  """A user's file, of which shares are held out.

  Args:
    path: .jsonl or .parquet; see `readers.read` for columns, bad_rows, kind, question
      and marker.
    validation, evaluation: shares, see `splits.split`.
    evaluation_problems: at most so many are evaluated on; of the held-out
      share only those with a known answer.
    seed: of the split.

  Raises:
    readers.BadData, FileNotFoundError: what is wrong, by file and line.
  """
  problems, bad = readers.read(
      path, columns=columns, bad_rows=bad_rows, kind=kind, question=question,
      marker=marker,
  )
  parts = splits.split(
      problems, validation=validation, evaluation=evaluation, seed=seed
  )
  answered = [p for p in parts.evaluation if p.answer][:evaluation_problems]
  return Corpus(
      parts.train, parts.validation,
      {'evaluation': answered} if answered else {}, len(bad),
      f'{path}: {parts.describe()}',
  )
