"""The study in numbers, tables and pictures.

  record    cell.json: what is measured of one method, rate and seed
  finished  all records, by method and rate
  tables    their tables and comparisons; claims: those of the paper
  plots     the figures; phase: the phase diagram
  pages     the page of all
"""

from ddt_jax.report.study.finished import Results
from ddt_jax.report.study.pages import write
from ddt_jax.report.study.record import CellRecord
from ddt_jax.report.study.record import Cost
from ddt_jax.report.study.record import SplitRecord
from ddt_jax.report.study.record import Texts

__all__ = ['CellRecord', 'Cost', 'Results', 'SplitRecord', 'Texts', 'write']
