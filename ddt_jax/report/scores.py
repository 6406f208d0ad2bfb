"""Scored corpora -> report.html, plots/*.png and a text for the terminal."""

from collections.abc import Sequence
import os
import textwrap

from ddt_jax import storage
from ddt_jax.report import page
from ddt_jax.report import run_words
from ddt_jax.report import scores_advice
from ddt_jax.report import scores_examples
from ddt_jax.report import scores_plots
from ddt_jax.report import scores_words
from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.scoring import corpus_summary

_WIDTH = 100  # columns of the terminal
_PLOTS = (  # file, heading, caption, function
    ('token_phi', 'Tokens by phi',
     'Share of the tokens; the outer bins also count all beyond them.',
     scores_plots.token_phi),
    ('response_phi', 'Responses by mean phi',
     'Share of the responses, over the whole range of the data.',
     scores_plots.response_phi),
    ('qq', 'z against the normal distribution',
     'Below the dashed line: lower than for the model\'s own text.',
     scores_plots.qq),
    ('pit', 'Randomised PIT',
     'u of a token: probability that the model gives to likelier tokens, ties at'
     ' random. Dashed: the uniform distribution.',
     scores_plots.pit),
)


def write(
    workdir: str | os.PathLike[str],
    summary: corpus_summary.ScoresSummary,
    examples: Sequence[scores_examples.ScoredResponse],
) -> str:
  """Writes the page and its plots.

  Args:
    workdir: folder of the scores, local or gs://.
    summary: of all corpora.
    examples: responses to show.

  Returns:
    The result as plain text, for the terminal.
  """
  folder = storage.path(workdir)
  pictures = plots(summary)
  for name, plot in pictures.items():
    storage.publish(folder / 'plots' / f'{name}.png', plot.picture.light)
  storage.publish(folder / 'report.html', page.scores(
      title=f'Is it on-policy? Scores by {summary.model}',
      verdicts=scores_advice.verdicts(summary),
      highlights=scores_examples.highlights(examples, summary.own),
      tables=scores_words.tables(summary), notes=scores_words.NOTES,
      about_phi=run_words.ABOUT_PHI,
      plots=list(pictures.values()),
      examples=scores_examples.pack(examples) if examples else None,
      kinds=list(scores_examples.KINDS.values())))
  return terminal(summary) + f'\nReport: {folder / "report.html"}\n'


def plots(summary: corpus_summary.ScoresSummary) -> dict[str, page.Plot]:
  """The plots of the scored corpora, by name; empty where nothing was scored."""
  scored = {name: n for name, n in summary.corpora.items() if n.responses}
  # The tables have all corpora.
  scored = {
      style.short(name, i): n
      for i, (name, n) in enumerate(list(scored.items())[:style.COLORS], 1)}
  return {
      name: page.Plot(heading, caption, style.draw(plot, scored))
      for name, heading, caption, plot in (_PLOTS if scored else ())}


def terminal(summary: corpus_summary.ScoresSummary) -> str:
  """The result as plain text."""
  blocks = [said.in_terminal(_WIDTH) for said in scores_advice.verdicts(summary)]
  for heading, content in scores_words.tables(summary):
    blocks.append(f'{heading}\n\n{table.aligned(content)}')
  blocks.append(textwrap.fill(scores_words.NOTES, _WIDTH))
  return '\n\n'.join(blocks) + '\n'
