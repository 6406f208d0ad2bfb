"""Objectives: token weights, their curriculum, and the weighted mean.

  schemes         one function per objective, and their table: add yours there
  schedule        the curriculum of IDFT
  scheme_options  which options each objective has
  loss            from token weights to the loss sum, its count and the metrics
"""

from ddt_jax.objectives.loss import PHI_EDGES
from ddt_jax.objectives.loss import constant_weights
from ddt_jax.objectives.loss import summarise
from ddt_jax.objectives.loss import token_loss
from ddt_jax.objectives.loss import token_weights
from ddt_jax.objectives.schedule import curriculum
from ddt_jax.objectives.scheme_options import options_of
from ddt_jax.objectives.scheme_options import pick
from ddt_jax.objectives.scheme_options import traced_options
from ddt_jax.objectives.schemes import WEIGHTS
from ddt_jax.objectives.schemes import dft
from ddt_jax.objectives.schemes import idft
from ddt_jax.objectives.schemes import idft_exponent
from ddt_jax.objectives.schemes import sft

__all__ = [
    'PHI_EDGES', 'WEIGHTS', 'constant_weights', 'curriculum', 'dft', 'idft',
    'idft_exponent', 'options_of', 'pick', 'sft', 'summarise', 'token_loss',
    'token_weights', 'traced_options',
]
