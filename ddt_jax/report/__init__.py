"""Reports: numbers in words, tables, plots and pages.

  results          results.json: the record of a run
  run              its report; run_facts, run_words, run_rounds, run_plots and
                   run_pairs have the content
  comparison       one page of several runs
  scores           the report of scored corpora; scores_advice, scores_words,
                   scores_plots and scores_examples have the content
  card             the README.md of an exported model
  notebook/        results that show themselves in a cell of a notebook
  table style page tables, looks of plots, HTML by the templates in pages/
"""

from ddt_jax.report.card import model_card
from ddt_jax.report.comparison import compare
from ddt_jax.report.run import mark_stopped
from ddt_jax.report.run import terminal
from ddt_jax.report.run import write
from ddt_jax.report.table import aligned
from ddt_jax.report.table import escape
from ddt_jax.report.table import markdown_table

__all__ = [
    'aligned', 'compare', 'escape', 'mark_stopped', 'markdown_table', 'model_card',
    'terminal', 'write',
]
