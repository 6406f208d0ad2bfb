"""Models of random weights and lengths of texts, for benchmarks."""

from typing import Any

import jax
import numpy as np

from ddt_jax import model


def qwen2(
    *, layers: int, width: int, mlp: int, vocab: int, heads: int, kv_heads: int,
    std: float = 0.1,
) -> model.ModelConfig:
  """Qwen2 with a tied head; `std` is the standard deviation of the weights."""
  return model.ModelConfig.from_hf(dict(
      architectures=['Qwen2ForCausalLM'], model_type='qwen2', vocab_size=vocab,
      hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
      num_attention_heads=heads, num_key_value_heads=kv_heads,
      max_position_embeddings=8192, rope_theta=10000.0, rms_norm_eps=1e-6,
      hidden_act='silu', tie_word_embeddings=True, use_sliding_window=False,
      initializer_range=std, eos_token_id=1,
  ))


def named(size: str) -> model.ModelConfig:
  """Qwen2 of 'LAYERSxWIDTHxVOCABULARY': 64 channels a head, 4 heads a kv head."""
  layers, width, vocab = map(int, size.split('x'))
  return qwen2(
      layers=layers, width=width, mlp=11 * width // 4, vocab=vocab,
      heads=max(width // 64, 1), kv_heads=max(width // 256, 1), std=0.02)


def weights(config: model.ModelConfig) -> dict[str, Any]:
  """Random parameters whose logits have a standard deviation of about 3.

  The final norm scales the logits. Larger weights in the layers would do it too,
  but attention would then amplify rounding, and two programs could not be compared.
  """
  params = model.init(config, jax.random.key(0))
  scale = 3 / (config.init_std * config.width**0.5)
  return params | {'final_norm': {'scale': scale * params['final_norm']['scale']}}


def chain_lengths(n: int, longest: int) -> np.ndarray:
  """Draws lengths of chains of thought, in tokens.

  Args:
    n: their number.
    longest: longer ones are cut.
  """
  sigma = np.log(3500 / 300) / 2.326  # 2.326: 99th percentile of a normal
  drawn = np.random.default_rng(0).lognormal(np.log(300), sigma, n)
  return np.clip(drawn, 8, longest).astype(int)
