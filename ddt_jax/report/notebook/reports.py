"""A scored corpus, a curated corpus and a run, as their commands leave them."""

import collections
import os
from typing import Any

import numpy as np

from ddt_jax import storage
from ddt_jax.report import page
from ddt_jax.report import run
from ddt_jax.report import run_words
from ddt_jax.report import scores
from ddt_jax.report import scores_advice
from ddt_jax.report import scores_words
from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.report.notebook import cell
from ddt_jax.report.notebook import plots
from ddt_jax.rounds import curate
from ddt_jax.scoring import corpus_summary
from ddt_jax.storage import typed_json

_WIDTH = 100  # columns of text
_SOURCES = {'own': 'solved alone', 'hinted': 'solved with the hint',
            'projected': 'projected from the hint',
            'reference': 'fell back to the reference'}


class _Report(cell.Cell):
  """Sentences, tables and plots; subclasses fill them in.

  Attributes:
    verdicts, tables, plots: the content; tables with their headings.
  """

  verdicts: list[page.Verdict]
  tables: list[tuple[str, table.Table]]
  plots: list[page.Plot]

  def text(self) -> str:
    return '\n\n'.join([
        *(said.in_terminal(_WIDTH) for said in self.verdicts),
        *(f'{heading}\n\n{table.aligned(content)}'
          for heading, content in self.tables)])

  def html(self) -> str:
    return page.cell('report', **self._content())

  def _content(self) -> dict[str, Any]:
    return dict(verdicts=self.verdicts, tables=self.tables, plots=self.plots,
                examples=[], page='')


class Corpora(_Report):
  """Scored corpora: the folder that `experiments.score` has filled.

  Attributes:
    summary: the numbers of all corpora.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Reads summary.json of the folder, local or gs://."""
    self._page = storage.path(folder) / 'report.html'
    file = storage.path(folder) / 'summary.json'
    self.summary = typed_json.from_json(
        file.read_text(), corpus_summary.ScoresSummary, source=file)
    self.verdicts = scores_advice.verdicts(self.summary)
    self.tables = scores_words.tables(self.summary)[:3]
    self.plots = list(scores.plots(self.summary).values())

  def _content(self):
    return super()._content() | {'page': str(self._page)}


class Curated(_Report):
  """One round's corpus: who wrote it, and how natural it is to the model.

  Attributes:
    corpus: of `curate.curate`.
  """

  def __init__(self, corpus: curate.Corpus):
    self.corpus, found = corpus, corpus.summary
    by_source = collections.defaultdict(list)
    for response in corpus.responses:
      if response.phi is not None:
        by_source[response.source].append(response.phi)
    counts = ', '.join(
        f'{found.solved.get(source, 0):,} {words}'
        for source, words in _SOURCES.items()
        if source != 'projected' or found.solved.get(source))
    self.verdicts = [page.Verdict(f'{found.problems:,} problems: {counts}.')]
    rows = [
        [words, f'{stats.examples:,}',
         *(('', '') if stats.phi is None else (
             f'{stats.phi:+.3f}',
             f'{np.mean(np.array(by_source[source]) < -0.5):.1%}')),
         f'{stats.tokens:.1f}']
        for source, words in _SOURCES.items()
        if (stats := found.sources.get(source)) and stats.examples]
    self.tables = [('Training data', table.Table(
        ['source', 'examples', 'mean phi', 'phi < -0.5', 'tokens'], rows))]
    self.plots = [page.Plot('', 'Each dot is a response.', style.draw(
        plots.by_source, {
            words: by_source[source] for source, words in _SOURCES.items()
            if by_source[source]}))]


class Run(_Report):
  """A finished run: the folder that `experiments.train` has filled.

  Attributes:
    config: config.json.
    found: results.json, a `results.RunResults`.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Reads the folder, local or gs://."""
    self._page = storage.path(folder) / 'report.html'
    self.config, self.found, lines = run.read(folder)
    self.verdicts = [page.Verdict(run_words.verdict(self.found))]
    self.tables = run_words.tables(self.found, details=False)
    self.plots = list(run.plots(self.found, lines).values())

  def _content(self):
    return {
        **super()._content(),
        'examples': page.before_and_after(
            self.found.examples[:1], self.found.measured_after),
        'page': str(self._page)}
