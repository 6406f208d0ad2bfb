"""Models of random weights for benchmarks."""

from ddt_jax import model


def qwen2(
    *, layers: int, width: int, mlp: int, vocab: int, heads: int, kv_heads: int
) -> model.ModelConfig:
  """A Qwen2 with tied tables; logits of a standard deviation of width^0.5 / 10."""
  return model.ModelConfig.from_hf(dict(
      architectures=['Qwen2ForCausalLM'], model_type='qwen2', vocab_size=vocab,
      hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
      num_attention_heads=heads, num_key_value_heads=kv_heads,
      max_position_embeddings=8192, rope_theta=10000.0, rms_norm_eps=1e-6,
      hidden_act='silu', tie_word_embeddings=True, use_sliding_window=False,
      initializer_range=0.1, eos_token_id=1,
  ))


def named(size: str) -> model.ModelConfig:
  """Of '<layers>x<width>x<vocabulary>': heads of 64 channels, a kv head to four."""
  layers, width, vocab = map(int, size.split('x'))
  return qwen2(
      layers=layers, width=width, mlp=11 * width // 4, vocab=vocab,
      heads=max(width // 64, 1), kv_heads=max(width // 256, 1))
