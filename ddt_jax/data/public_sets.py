r"""Public data sets of mathematics as TFDS data sets, from the hub's Parquet files.

  gsm8k            openai/gsm8k: question, answer; calculator marks <<...>> removed
  numinamath_cot   AI-MO/NuminaMath-CoT: problem, solution
  deepmath         zwhe99/DeepMath-103K: question, final_answer, and the first of its
                   three solutions that ends in a box

A set is named 'NAME:FOLDER' or 'NAME:FOLDER:SPLIT'. The folder holds the files as the
hub has them (`hf download --repo-type dataset openai/gsm8k --local-dir FOLDER`), so
nothing here uses the network. Rows are left out by the filters of the set alone, and
each filter counts its rows.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import hashlib
import io
import re
from typing import Any, NamedTuple

from etils import epath
import tensorflow_datasets as tfds

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax import verify

FIELDS = ('id', 'problem', 'solution', 'answer')
_CALCULATOR = re.compile(r'<<[^<>\n]*>>')
_PICTURE = re.compile(r'!\[|\[asy\]|\\includegraphics')


class PublicSet(NamedTuple):
  """How a public data set is read.

  Attributes:
    columns: that it reads.
    read: a row -> (problem, solution, answer).
    filters: reason -> whether a (problem, solution, answer) is left out for it; the
      first that applies counts.
    folder: in which the hub has the files.
  """

  columns: tuple[str, ...]
  read: Callable[[Mapping[str, Any]], tuple[str, str, str]]
  filters: Mapping[str, Callable[[str, str, str], bool]]
  folder: str = 'data'


def _gsm8k(row):
  solution = _CALCULATOR.sub('', row['answer'] or '')
  _, mark, answer = solution.rpartition('####')
  return row['question'], solution, answer.strip() if mark else ''


def _numinamath(row):
  return row['problem'], row['solution'], verify.extract(row['solution'] or '') or ''


def _deepmath(row):
  solutions = [row[f'r1_solution_{i}'] or '' for i in (1, 2, 3)]
  boxed = (s for s in solutions if verify.extract(s))
  return row['question'], next(boxed, ''), str(row['final_answer'] or '')


_EMPTY = {'no problem or no solution': lambda problem, solution, answer: not (
    problem and problem.strip() and solution and solution.strip())}
_ANSWERED = _EMPTY | {'no final answer': lambda problem, solution, answer: not answer}
SETS = {
    'gsm8k': PublicSet(('question', 'answer'), _gsm8k, _ANSWERED, 'main'),
    'numinamath_cot': PublicSet(
        ('problem', 'solution'), _numinamath, _ANSWERED | {
            'shows a picture': lambda problem, solution, answer: bool(
                _PICTURE.search(problem)),
            'a proof': lambda problem, solution, answer: (
                answer.lower() in ('proof', r'\text{proof}'))}),
    'deepmath': PublicSet(
        ('question', 'final_answer', 'r1_solution_1', 'r1_solution_2',
         'r1_solution_3'), _deepmath, _ANSWERED),
}


class Named(NamedTuple):
  """A name 'SET:FOLDER:SPLIT', taken apart."""

  name: str
  folder: epath.Path
  split: str

  def files(self) -> list[epath.Path]:
    """The Parquet files of the split, in order.

    Raises:
      errors.InputError: there are none.
    """
    inside = self.folder / SETS[self.name].folder
    for folder in (inside, self.folder):
      if found := sorted(folder.glob(f'{self.split}-*.parquet')):
        return found
    raise errors.InputError(
        f'{self.name}: {inside} holds no {self.split}-*.parquet; {self.folder} must be'
        ' a copy of the data set\'s files on the hub')


def named(path: str) -> Named | None:
  """The set that a path names, or None.

  Example:
    >>> named('gsm8k:/data/gsm8k:test').split
    'test'
    >>> named('rows.jsonl') is None
    True
  """
  name, _, rest = str(path).partition(':')
  if name not in SETS or not rest:
    return None
  folder, _, split = rest.partition(':')
  return Named(name, storage.path(folder), split or 'train')


class PublicMath(tfds.core.GeneratorBasedBuilder):
  """Problems, solutions and answers of one split of a set of `SETS`."""

  # Raise it whenever a reader or a filter changes: TFDS keeps what it has built.
  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, source: Named, **options: Any):
    """Opens the data set.

    Args:
      source: of the rows.
      **options: of TFDS.
    """
    self._source = source
    # Other files are another data set: names and sizes tell.
    text = '\n'.join(f'{f} {f.stat().length}' for f in source.files())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = storage.user_cache() / 'sets' / f'{source.name}-{source.split}-{digest}'
    super().__init__(data_dir=str(folder), **options)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self, description='A public data set of mathematics.',
        features=tfds.features.FeaturesDict(
            {name: tfds.features.Text() for name in FIELDS}),
        metadata=tfds.core.MetadataDict(), disable_shuffling=True)

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # the files are there
    return {'kept': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
    wanted, index = SETS[self._source.name], 0
    left_out = dict.fromkeys(wanted.filters, 0)
    for file in self._source.files():
      for line, row in enumerate(_rows(file, wanted.columns), 1):
        problem, solution, answer = wanted.read(row)
        index += 1
        reason = next((reason for reason, applies in wanted.filters.items()
                       if applies(problem, solution, answer)), '')
        if reason:
          left_out[reason] += 1
          continue
        yield index, dict(id=f'{self._source.name}:{file.name}:{line}',
                          problem=problem, solution=solution, answer=answer)
    self.info.metadata.update(rows=index, left_out=left_out)


def _rows(file: epath.Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
  import pyarrow  # here: it loads slowly, and other data sets do not need it
  from pyarrow import parquet
  with file.open('rb') as f:
    try:
      table = parquet.ParquetFile(f)
      if absent := set(columns) - set(table.schema_arrow.names):
        raise errors.InputError(
            f'{file} has no column {sorted(absent)[0]!r}: it is not of this data set')
      for batch in table.iter_batches(columns=list(columns)):
        yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as e:
      raise errors.InputError(f'{file}: broken Parquet: {e}') from e


@functools.cache
def _built(source: Named) -> PublicMath:
  """The data set, built on first use, in the user's cache."""
  tfds.disable_progress_bar()
  builder = PublicMath(source=source, file_format='array_record')
  # It prints a notice about a download, though nothing is downloaded.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare()
  return builder


def rows(source: Named) -> Iterator[dict[str, str]]:
  """Yields the rows that no filter leaves out: id, problem, solution, answer.

  Raises:
    errors.InputError: the files are not those of the data set.
  """
  for row in _built(source).as_data_source(split='kept'):
    yield {name: value.decode() for name, value in row.items()}


def describe(source: Named) -> str:
  """Says how many rows there are, and how many each filter left out."""
  found = _built(source).info.metadata
  left_out = ', '.join(
      f'{n:,} {reason}' for reason, n in found['left_out'].items()) or 'none'
  return (f'{source.name}, {source.split}: {found["rows"]:,} rows; left out:'
          f' {left_out}')
