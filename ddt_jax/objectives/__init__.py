"""Objectives: token weights, their curriculum, and the weighted mean."""

from ddt_jax.objectives.loss import PHI_EDGES
from ddt_jax.objectives.loss import WEIGHTS
from ddt_jax.objectives.loss import constant_weights
from ddt_jax.objectives.loss import curriculum
from ddt_jax.objectives.loss import idft_exponent
from ddt_jax.objectives.loss import summarise
from ddt_jax.objectives.loss import token_loss
from ddt_jax.objectives.loss import token_weights

__all__ = [
    'PHI_EDGES', 'WEIGHTS', 'constant_weights', 'curriculum', 'idft_exponent',
    'summarise', 'token_loss', 'token_weights',
]
