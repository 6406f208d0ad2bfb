"""The study in numbers, tables and pictures.

  record   cell.json: what is measured of one method, rate and seed
"""

from ddt_jax.report.study.record import CellRecord
from ddt_jax.report.study.record import Cost
from ddt_jax.report.study.record import SplitRecord
from ddt_jax.report.study.record import Texts

__all__ = ['CellRecord', 'Cost', 'SplitRecord', 'Texts']
