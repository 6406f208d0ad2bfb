"""Published models by name: the fields of their config.json, without weights.

Source: the config.json of each model on the Hugging Face hub, at the ids below. A
test compares the parameters that follow from them with the published counts.
"""

from typing import Any

from ddt_jax import errors
from ddt_jax import storage

_COMMON = dict(hidden_act='silu', initializer_range=0.02)
_QWEN2_5 = _COMMON | dict(
    architectures=['Qwen2ForCausalLM'], model_type='qwen2', rope_theta=1e6,
    rms_norm_eps=1e-6, max_position_embeddings=32768, use_sliding_window=False,
    eos_token_id=151645,
)
_QWEN3 = _COMMON | dict(
    architectures=['Qwen3ForCausalLM'], model_type='qwen3', rope_theta=1e6,
    rms_norm_eps=1e-6, max_position_embeddings=40960, use_sliding_window=False,
    vocab_size=151936, head_dim=128, num_key_value_heads=8, eos_token_id=151645,
)
_LLAMA3 = _COMMON | dict(
    architectures=['LlamaForCausalLM'], model_type='llama', rope_theta=5e5,
    rms_norm_eps=1e-5, max_position_embeddings=131072, vocab_size=128256,
    num_attention_heads=32, num_key_value_heads=8,
    eos_token_id=[128001, 128008, 128009],
)
_LLAMA3_ROPE = dict(
    rope_type='llama3', low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
# Enough to compile for a model, or to draw fresh weights, without a download.
SIZES = {
    'SmolLM2-135M': _COMMON | dict(
        architectures=['LlamaForCausalLM'], model_type='llama', rope_theta=1e5,
        rms_norm_eps=1e-5, max_position_embeddings=8192, vocab_size=49152,
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        eos_token_id=2,
    ),
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
    'Qwen3-1.7B': _QWEN3 | dict(
        hidden_size=2048, intermediate_size=6144, num_hidden_layers=28,
        num_attention_heads=16, tie_word_embeddings=True,
    ),
    'Qwen3-8B': _QWEN3 | dict(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
        num_attention_heads=32, tie_word_embeddings=False,
    ),
    'Llama-3.2-1B': _LLAMA3 | dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        head_dim=64, tie_word_embeddings=True,
        rope_scaling=_LLAMA3_ROPE | dict(factor=32.0),
    ),
    'Llama-3.1-8B': _LLAMA3 | dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        tie_word_embeddings=False, rope_scaling=_LLAMA3_ROPE | dict(factor=8.0),
    ),
    'gemma-3-1b': dict(
        architectures=['Gemma3ForCausalLM'], model_type='gemma3_text',
        vocab_size=262144, hidden_size=1152, intermediate_size=6912,
        num_hidden_layers=26, num_attention_heads=4, num_key_value_heads=1,
        head_dim=256, hidden_activation='gelu_pytorch_tanh', rms_norm_eps=1e-6,
        max_position_embeddings=32768, rope_theta=1e6, rope_local_base_freq=10000,
        sliding_window=512, sliding_window_pattern=6, query_pre_attn_scalar=256,
        initializer_range=0.02, eos_token_id=[1, 106],
    ),
}
_TUNED = ('-Instruct', '-it')  # of the same shape as the base


def known(path: str) -> dict[str, Any] | None:
  """Returns the fields of a name of `SIZES` or of such a model's id on the hub.

  Example:
    >>> known('Qwen/Qwen2.5-7B-Instruct')['num_hidden_layers']
    28
    >>> known('some/other-model')
  """
  name = path.rpartition('/')[2]
  for ending in _TUNED:
    name = name.removesuffix(ending)
  return SIZES.get(name) if path.count('/') <= 1 else None


def fields(path: str) -> Any:
  """Resolves a model's name for `ModelConfig.from_hf`.

  Args:
    path: a key of `SIZES`, the hub's id of such a model, a model folder or a
      config.json.

  Returns:
    The fields of a known name; any other path as it is.

  Raises:
    InputError: neither a known name nor an existing path.
  """
  if path in SIZES:
    return SIZES[path]
  if storage.path(path).exists():
    return path
  if (found := known(path)) is None:
    raise errors.InputError(
        f'model.path={path!r} is neither a folder or config.json nor one of'
        f' {", ".join(SIZES)}{errors.did_you_mean(path, SIZES)}')
  return found
