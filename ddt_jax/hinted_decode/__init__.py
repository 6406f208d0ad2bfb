"""Hinted Decoding: a reference answer in the model's own words.

  two_streams      one text from two prompts of one model: generate, the mixture
  rewriting        the analysis of a reference, then the two streams: rewrite
  teacher_forcing  log-probabilities of given texts in both streams: score
"""

from ddt_jax.hinted_decode.rewriting import Rewritten
from ddt_jax.hinted_decode.rewriting import contexts
from ddt_jax.hinted_decode.rewriting import rewrite
from ddt_jax.hinted_decode.teacher_forcing import score
from ddt_jax.hinted_decode.two_streams import Generated
from ddt_jax.hinted_decode.two_streams import Mixture
from ddt_jax.hinted_decode.two_streams import Pair
from ddt_jax.hinted_decode.two_streams import check_mixture
from ddt_jax.hinted_decode.two_streams import generate

__all__ = [
    'Generated', 'Mixture', 'Pair', 'Rewritten', 'check_mixture', 'contexts',
    'generate', 'rewrite', 'score',
]
