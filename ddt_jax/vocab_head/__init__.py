r"""The vocabulary head without its logits: hidden states -> token statistics.

IDFT needs the entropy of the whole vocabulary at every token. Two ways compute it
without an array of tokens x vocabulary, for T tokens, width D, vocabulary V:

  token_stats       goes through the vocabulary in chunks (`stream`). The backward
                    computes the logits again: 8 T D V FLOPs, memory of one chunk.
                    For any function of the statistics, and for a head that is
                    split over devices.
  weighted_nll      goes through the supervised tokens in tiles (`tiles`) and
                    forms the gradient in the forward: 6 T D V FLOPs (three
                    products, the fewest possible), memory of one tile. For
                    weights that are constants for the gradient, as in training.
  supervised_stats  is `token_stats` of the supervised tokens alone, without a
                    gradient: for scoring.
  supervised_log_p  is log p alone, of the supervised tokens, with a gradient: for
                    losses of whole responses.
  divergence        compares with a teacher's distributions by either way.

With a stop-gradiented weight w the gradient of a token's loss with respect to its
logits is w (p - onehot). IDFT thus costs one multiply-add per logit more than SFT.

Reading order: `partial_sums` (the algebra), `stream`, `tiles`, `log_p`; `chunks` and
`meshes` hold what both share. Then `divergences` (the algebra of two distributions),
`teacher`, `teacher_stream`, `teacher_tiles`.
"""

from ddt_jax.vocab_head.log_p import supervised_log_p
from ddt_jax.vocab_head.meshes import is_split
from ddt_jax.vocab_head.stream import token_stats
from ddt_jax.vocab_head.teacher import divergence
from ddt_jax.vocab_head.tiles import supervised_stats
from ddt_jax.vocab_head.tiles import weighted_nll

__all__ = [
    'divergence', 'is_split', 'supervised_log_p', 'supervised_stats', 'token_stats',
    'weighted_nll',
]
