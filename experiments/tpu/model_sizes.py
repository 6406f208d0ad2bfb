"""Models by name, as their config.json has them, for programs without weights."""

from typing import Any

from ddt_jax import storage
from experiments.run import lifecycle

_QWEN2_5 = dict(
    architectures=['Qwen2ForCausalLM'], model_type='qwen2', rope_theta=1e6,
    rms_norm_eps=1e-6, hidden_act='silu', max_position_embeddings=32768,
    use_sliding_window=False, initializer_range=0.02, eos_token_id=151645,
)
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
  """What `ModelConfig.from_hf` takes: fields of a name, else a folder or file.

  Raises:
    ValueError: neither a name of the table nor anything local.
  """
  if path in SIZES:
    return SIZES[path]
  if path == 'embedded':
    return lifecycle.model_folder(path)
  if not storage.path(path).exists():
    raise ValueError(
        f'model.path={path!r} is neither a folder or config.json nor one of'
        f' {", ".join(SIZES)}'
    )
  return path
