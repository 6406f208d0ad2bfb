r"""The vocabulary head without its logits: hidden states -> token statistics.

IDFT wants the entropy of the whole vocabulary at every token. Neither way to it
holds an array of tokens x vocabulary:

  token_stats   goes through the vocabulary in chunks (`vocab_stream`). Its
                backward computes the logits again: 8 T D V FLOPs for T tokens,
                memory of one chunk. For any function of the statistics, and for a
                head that is split over devices.
  weighted_nll  goes through the tokens in tiles and leaves out those that are
                not supervised (`vocab_tiles`). The gradient is formed in the
                forward: 6 T D V FLOPs, the least there can be, and memory of one
                tile. For weights that the gradient takes as constants, as in
                training.
  supervised_stats  is `token_stats` for scoring: no gradient, and at the cost of
                the supervised tokens alone.

With a stop-gradiented weight the gradient of a token's loss by its logits is
w (p - onehot): what IDFT costs more than SFT is one multiply-add per logit.
"""

from ddt_jax.vocab_head import parts
from ddt_jax.vocab_head import stream
from ddt_jax.vocab_head import tiles

is_split = parts.is_split
token_stats = stream.token_stats
supervised_stats = tiles.supervised_stats
weighted_nll = tiles.weighted_nll
