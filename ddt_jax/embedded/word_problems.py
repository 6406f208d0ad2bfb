"""The splits of the embedded world as a TFDS data set.

Stored as ArrayRecord and read as a data source, which needs no TensorFlow.
"""

import contextlib
import dataclasses
import io
from typing import Any

import tensorflow_datasets as tfds

from ddt_jax.data import corpus
from ddt_jax.data import records
from ddt_jax.embedded import problems

FIELDS = ('id', 'problem', 'solution', 'answer', 'kind', 'source')


class WordProblems(tfds.core.GeneratorBasedBuilder):
  """Splits train, validation, test, generalisation and retained."""

  # Raise it whenever the world changes: TFDS keeps what it has built.
  VERSION = tfds.core.Version('2.0.0')
  RELEASE_NOTES = {
      '1.0.0': 'First release.',
      '2.0.0': 'The bookkeeper calls his entries in, out and fold.',
  }

  def _info(self) -> tfds.core.DatasetInfo:
    # Not dataset_info_from_configs: that needs a package with files on disk.
    return tfds.core.DatasetInfo(
        builder=self,
        description='Stories that are sums, and other skills.',
        features=tfds.features.FeaturesDict(
            {name: tfds.features.Text() for name in FIELDS}
        ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # generated, not downloaded
    return {split: self._generate_examples(split) for split in problems.SIZES}

  def _generate_examples(self, split: str):
    for problem in problems.problems(split):
      fields = dataclasses.asdict(problem)
      yield problem.id, {name: fields[name] for name in FIELDS}


def load(split: str, *, data_dir: str | None = None) -> list[records.Problem]:
  """Loads a split; builds the data set on first use.

  Args:
    split: in TFDS's syntax, e.g. 'test' or 'validation[:200]'.
    data_dir: where data sets are kept; by default TFDS's own folder, which the
      environment variable TFDS_DATA_DIR changes.
  """
  tfds.disable_progress_bar()
  builder = WordProblems(data_dir=data_dir, file_format='array_record')
  # It prints a notice about a download, though nothing is downloaded.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare()
  rows = builder.as_data_source(split=split)
  return [
      records.Problem(**{k: v.decode() for k, v in row.items()}) for row in rows
  ]


def world(evaluation_problems: int) -> corpus.Corpus:
  """The embedded world as the corpus of a run.

  Args:
    evaluation_problems: limit for each of the three evaluation splits; 0 leaves
      them out.
  """
  names = {'target': 'test', 'generalisation': 'generalisation',
           'retained': 'retained'}
  train = load('train')
  validation = load('validation')
  evaluation = {
      name: load(split)[:evaluation_problems]
      for name, split in names.items() if evaluation_problems
  }
  sizes = ', '.join(f'{len(p)} {n}' for n, p in evaluation.items()) or 'nothing'
  return corpus.Corpus(
      train, validation, evaluation, 0,
      f'word_problems: {len(train)} train, {len(validation)} validation;'
      f' evaluated on {sizes}',
  )
