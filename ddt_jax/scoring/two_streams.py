"""Hinted Decoding's two streams along one text, token by token."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax.data import chat
from ddt_jax.scoring import forward


class TwoStreams(NamedTuple):
  """Both next-token distributions at each token of a text.

  Attributes:
    hinted, student: TokenStats of NumPy arrays [n], with the likeliest tokens.
    lam: [n], weight of the student stream in the mixture that each token was
      drawn from, in [0, 1].
  """

  hinted: ddt.TokenStats
  student: ddt.TokenStats
  lam: np.ndarray


def along(
    params: Any,
    config: model.ModelConfig,
    pair: hinted_decode.Pair,
    tokens: Sequence[int],
    mixture: hinted_decode.Mixture,
    *,
    student_only_from: int | None,
    mesh: jax.sharding.Mesh,
    top_k: int = 5,
) -> TwoStreams:
  """Reads a text that the two streams wrote, by teacher forcing.

  The training forward gives the statistics. They differ from the sampler's by
  rounding alone.

  Args:
    params, config: the model, the same for both streams.
    pair: (student ids, hinted ids), the prompts that the text continues.
    tokens: the text, at least one token.
    mixture: that it was drawn from.
    student_only_from: see `engine.Generated`.
    mesh: the two rows are sharded over it.
    top_k: likeliest tokens to return at each place.
  """
  student, hinted = forward.token_stats(
      params, config, [chat.answered(prompt, tokens) for prompt in pair],
      batch=mesh.shape['data'] * mesh.shape['fsdp'], mesh=mesh, top_k=top_k)
  count = np.arange(len(tokens))
  past_splitter = np.zeros(len(tokens), bool)
  if student_only_from is not None:
    past_splitter = count >= student_only_from
  lam = mixture.student_weight(
      hinted.entropy, config.vocab_size, count, past_splitter)
  return TwoStreams(hinted, student, np.asarray(lam))
