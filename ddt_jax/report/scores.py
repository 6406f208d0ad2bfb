"""Scored corpora -> report.html, plots/*.png and the text to print."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

from ddt_jax import report
from ddt_jax import storage
from ddt_jax.report import run_plots
from ddt_jax.report import scores_page
from ddt_jax.report import scores_plots
from ddt_jax.scoring import corpus_summary

_COLUMNS = 100
_PLOTS = {  # name: (heading, what the curves are)
    'token_phi': (
        'Tokens by phi', 'Share of the tokens in bins of 0.2 nats.'),
    'response_phi': (
        'Responses by mean phi', 'Share of the responses; the outer bins take'
        ' what lies beyond.'),
    'qq': (
        'z against the normal distribution', 'Below the dashed line: lower than'
        ' under the model.'),
    'pit': (
        'The randomised PIT', 'Dashed: the uniform distribution.'),
}
_CURVES = 5  # corpora in a plot, at most


def write(
    workdir: Any,
    summary: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> str:
  """Writes page and plots; returns the result as plain text.

  Args:
    workdir: the folder.
    summary: summary.json.
    examples: see `scores_page.example`.
  """
  folder = storage.path(workdir)
  drawn = {
      name: n for name, n in summary['corpora'].items() if n['responses']}
  drawn = dict(list(drawn.items())[:_CURVES])
  plots = {}
  for name, (heading, caption) in _PLOTS.items() if drawn else ():
    draw = getattr(scores_plots, name)
    light, dark = (
        draw(drawn, theme) for theme in (run_plots.LIGHT, run_plots.DARK))
    storage.publish(folder / 'plots' / f'{name}.png', light)
    plots[heading] = light, dark, caption
  storage.publish(folder / 'report.html', scores_page.page(
      title=f'Is it on-policy? Scores by {summary["model"]}', summary=summary,
      plots=plots, examples=examples))
  return terminal(summary) + f'\nReport: {folder / "report.html"}\n'


def terminal(summary: Mapping[str, Any]) -> str:
  """The result as plain text."""
  blocks = [
      textwrap.fill(corpus_summary.verdict(name, n), _COLUMNS)
      for name, n in summary['corpora'].items()
  ]
  for heading, table in corpus_summary.tables(summary):
    blocks.append(f'{heading}\n\n{report.aligned(table)}')
  blocks.append(textwrap.fill(corpus_summary.NOTES, _COLUMNS))
  return '\n\n'.join(blocks) + '\n'
