"""Results that show themselves in a notebook's cell: HTML there, text elsewhere.

  cell     the base: `_repr_html_`, and text where there is no HTML
  texts    `score`: a few texts, their tokens coloured by phi
  trace    `trace`: Hinted Decoding of one problem, step by step
  reports  `Corpora`, `Curated`, `Run`: what the commands leave in their folders
  plots    the plots that only a notebook has
"""

from ddt_jax.report.notebook.reports import Corpora
from ddt_jax.report.notebook.reports import Curated
from ddt_jax.report.notebook.reports import Run
from ddt_jax.report.notebook.texts import ScoredText
from ddt_jax.report.notebook.texts import ScoredTexts
from ddt_jax.report.notebook.texts import score
from ddt_jax.report.notebook.trace import Trace
from ddt_jax.report.notebook.trace import trace

__all__ = [
    'Corpora', 'Curated', 'Run', 'ScoredText', 'ScoredTexts', 'Trace', 'score',
    'trace',
]
