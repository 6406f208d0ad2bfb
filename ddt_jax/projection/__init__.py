"""Exact samples of a model's own right answers, from hinted proposals.

  metropolis   the chain over right texts, and why it is exact: project
  support      the texts that count: complete and right
  diagnostics  acceptance, effective sample size, split R-hat, tokens spent,
               the pass rate of the student alone
"""

from ddt_jax.projection.diagnostics import Mixing
from ddt_jax.projection.diagnostics import mixing
from ddt_jax.projection.diagnostics import pass_rate
from ddt_jax.projection.metropolis import Move
from ddt_jax.projection.metropolis import Projected
from ddt_jax.projection.metropolis import log_ratio
from ddt_jax.projection.metropolis import project

__all__ = ['Mixing', 'Move', 'Projected', 'log_ratio', 'mixing', 'pass_rate', 'project']
