"""The problems that a run trains, validates and evaluates on."""

from collections.abc import Mapping
import dataclasses

from ddt_jax import verify
from ddt_jax.data import readers
from ddt_jax.data import records
from ddt_jax.data import splits


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Problems, grouped by use.

  Attributes:
    train: with reference solutions.
    validation: with reference solutions; for the loss on held-out text.
    evaluation: with known answers; one list for each evaluation split, by name.
    bad_rows: number of rows of the user's file that were left out.
    description: the sizes, in one line for the screen.
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
  """Reads a user's file and holds out shares of it.

  Args:
    path: a .jsonl, .json or .parquet file.
    validation, evaluation: shares of the problems, see `splits.split`.
    evaluation_problems: limit on the evaluation problems. Only held-out problems
      with a known answer count. The others stay held out, unused.
    columns, bad_rows, kind, question, marker: see `readers.read`.
    seed: of the split.

  Raises:
    errors.InputError: the file or an option cannot be used; see `readers.read`
      and `splits.split`.
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
