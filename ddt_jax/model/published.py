"""Published models by name: the fields of their config.json, without weights."""

from typing import Any

from ddt_jax import errors
from ddt_jax import storage

_QWEN2_5 = dict(
    architectures=['Qwen2ForCausalLM'], model_type='qwen2', rope_theta=1e6,
    rms_norm_eps=1e-6, hidden_act='silu', max_position_embeddings=32768,
    use_sliding_window=False, initializer_range=0.02, eos_token_id=151645,
)
# Enough to compile for a model, or to draw fresh weights, without a download.
SIZES = {
    'Qwen2.5-0.5B': _QWEN2_5 | dict(
        vocab_size=151936, hidden_size=896, intermediate_size=4864,
        num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    'Qwen2.5-1.5B': _QWEN2_5 | dict(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960,
        num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    'Qwen2.5-7B': _QWEN2_5 | dict(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944,
        num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}


def fields(path: str) -> Any:
  """Resolves a model's name for `ModelConfig.from_hf`.

  Args:
    path: a key of `SIZES`, a model folder or a config.json.

  Returns:
    The fields of a known name; any other path as it is.

  Raises:
    InputError: neither a known name nor an existing path.
  """
  if path in SIZES:
    return SIZES[path]
  if not storage.path(path).exists():
    raise errors.InputError(
        f'model.path={path!r} is neither a folder or config.json nor one of'
        f' {", ".join(SIZES)}'
    )
  return path
