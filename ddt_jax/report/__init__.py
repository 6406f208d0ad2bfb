"""Pages, plots and tables: what a run or a scored corpus says in words."""

from ddt_jax.report.run import aligned
from ddt_jax.report.run import escape
from ddt_jax.report.run import markdown_table
from ddt_jax.report.run import terminal
from ddt_jax.report.run import write

__all__ = ['aligned', 'escape', 'markdown_table', 'terminal', 'write']
