"""Objectives: token weights, their curriculum, and the weighted mean.

  schemes         sft, dft; the table of all: add yours there
  by_phi          idft, phi_mask, idft_information, idft_z: weights that follow phi
  by_probability  power, threshold, chord: weights of the token's p
  by_entropy      eaft, deft: weights of the whole distribution
  by_reference    psft, iw_sft: weights relative to another model
  schedule        the curriculum of IDFT
  scheme_options  which options each objective has
  loss            from token weights to the loss sum, its count and the metrics
"""

from ddt_jax.objectives.by_entropy import deft
from ddt_jax.objectives.by_entropy import eaft
from ddt_jax.objectives.by_phi import idft
from ddt_jax.objectives.by_phi import idft_exponent
from ddt_jax.objectives.by_phi import idft_information
from ddt_jax.objectives.by_phi import idft_z
from ddt_jax.objectives.by_phi import phi_mask
from ddt_jax.objectives.by_probability import chord
from ddt_jax.objectives.by_probability import power
from ddt_jax.objectives.by_probability import threshold
from ddt_jax.objectives.by_reference import iw_sft
from ddt_jax.objectives.by_reference import psft
from ddt_jax.objectives.loss import DENOMINATORS
from ddt_jax.objectives.loss import PHI_EDGES
from ddt_jax.objectives.loss import WEIGHT_GRADS
from ddt_jax.objectives.loss import constant_weights
from ddt_jax.objectives.loss import summarise
from ddt_jax.objectives.loss import token_loss
from ddt_jax.objectives.loss import token_weights
from ddt_jax.objectives.schedule import curriculum
from ddt_jax.objectives.scheme_options import needs
from ddt_jax.objectives.scheme_options import options_of
from ddt_jax.objectives.scheme_options import pick
from ddt_jax.objectives.scheme_options import reference_option
from ddt_jax.objectives.scheme_options import traced_options
from ddt_jax.objectives.schemes import SEQUENCE
from ddt_jax.objectives.schemes import WEIGHTS
from ddt_jax.objectives.schemes import dft
from ddt_jax.objectives.schemes import sft

__all__ = [
    'DENOMINATORS', 'PHI_EDGES', 'SEQUENCE', 'WEIGHTS', 'WEIGHT_GRADS', 'chord',
    'constant_weights', 'curriculum', 'deft', 'dft', 'eaft', 'idft',
    'idft_exponent', 'idft_information', 'idft_z', 'iw_sft', 'needs',
    'options_of', 'phi_mask', 'pick', 'power', 'psft', 'reference_option', 'sft',
    'summarise', 'threshold', 'token_loss', 'token_weights', 'traced_options',
]
