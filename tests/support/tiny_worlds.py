"""Models so small that every text and its probability can be listed."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import hinting
from ddt_jax import model
from ddt_jax import sampling

EOS = (0, 5, 6, 7)  # any of them ends a text
LONGEST = 3  # tokens, the end token included
STUDENT, HINTED = [1, 2, 3], [3, 1, 4, 2, 2]  # the two prompts


@functools.cache
def tiny(vocab_size: int = 8, spread: float = 0.3):
  """(config, parameters) of one layer; a larger spread peaks the logits."""
  config = model.ModelConfig.from_hf({
      'model_type': 'qwen2', 'vocab_size': vocab_size, 'hidden_size': 8,
      'intermediate_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
      'num_key_value_heads': 1, 'max_position_embeddings': 32,
      'rms_norm_eps': 1e-6, 'rope_theta': 1e4, 'tie_word_embeddings': False,
      'initializer_range': spread, 'eos_token_id': list(EOS)})
  return config, model.init(config, jax.random.key(6))


def texts(vocab_size: int = 8) -> list[tuple[int, ...]]:
  """Every text of at most LONGEST tokens with an end token at its end alone."""
  others = [t for t in range(vocab_size) if t not in EOS]
  return [
      (*words, end) for n in range(LONGEST) for end in EOS
      for words in itertools.product(others, repeat=n)]


def log_probs(config, params, *, beta, temperature=1.0, top_p=1.0):
  """{text: (log m [tokens], log q [tokens])} by one full forward for each prompt."""
  every = texts(config.vocab_size)
  rows = np.zeros((len(every), LONGEST), np.int32)
  for row, text in zip(rows, every, strict=True):
    row[:len(text)] = text

  def logits(prompt):
    tokens = np.concatenate(
        [np.tile(prompt, (len(every), 1)), rows], 1).astype(np.int32)
    found, _ = model.forward(params, config, jnp.asarray(tokens))
    return found[:, len(prompt) - 1:-1]

  p, q = logits(HINTED), logits(STUDENT)
  lam = hinting.hint_weight(hinting.entropy(p), config.vocab_size, beta=beta)
  lam = lam.at[:, 0].set(0.0)  # the first token is the hinted stream's
  log_m = sampling.log_distribution(
      hinting.mix(p, q, lam), temperature=temperature, top_p=top_p)
  log_m, log_q = (
      np.asarray(jnp.take_along_axis(x, rows[..., None], -1)[..., 0], np.float64)
      for x in (log_m, jax.nn.log_softmax(q)))
  # A token's density depends on its prefix alone, but rows of a product may be rounded
  # differently: texts that share a prefix share the densities of the first of them.
  known = {}
  for text, *densities in zip(every, log_m, log_q, strict=True):
    for t, pair in enumerate(zip(*densities, strict=True)):
      known.setdefault(text[:t + 1], pair)
  return {
      text: tuple(np.array([known[text[:t + 1]] for t in range(len(text))]).T)
      for text in every}


def target(densities, is_right) -> dict[tuple[int, ...], float]:
  """pi: q over the right texts that the proposals can draw, normalised."""
  mass = {
      text: np.exp(q.sum()) for text, (m, q) in densities.items()
      # The rule of the first token: an end token there ends no text.
      if is_right(text) and len(text) > 1 and np.isfinite(m).all()}
  total = sum(mass.values())
  return {text: x / total for text, x in mass.items()}
