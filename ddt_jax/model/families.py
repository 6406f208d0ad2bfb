"""Model families: from the fields of a config.json to those of `ModelConfig`.

Qwen2, Qwen3, Llama, Mistral and Gemma 3 (text). Most of what tells a family from
another has no field: its name decides. The rest is refused by name if
`model.forward` would not compute it exactly.
"""

from typing import Any

from ddt_jax import errors
from ddt_jax.model.config_fields import Fields
from ddt_jax.model.rope import RopeScaling

GEMMA = 'gemma3_text'
FAMILIES = ('qwen2', 'qwen3', 'llama', 'mistral', GEMMA)
ROPE_TYPES = ('default', 'llama3')
FULL, SLIDING = 'full_attention', 'sliding_attention'


def parse(hf: Fields) -> dict[str, Any]:
  """Returns the fields of `ModelConfig`.

  Raises:
    errors.InputError: a field is missing or wrong, or asks for a computation
      that `model.forward` does not do. All such fields are named at once.
  """
  family = hf.text('model_type')
  gemma = family == GEMMA
  if reasons := [
      reason for reason, yes in _refused(hf, family).items() if yes]:
    raise errors.InputError('not supported: ' + '; '.join(reasons))
  heads, width = hf.integer('num_attention_heads'), hf.integer('hidden_size')
  kv_heads = 'num_key_value_heads'
  result = dict(
      model_type=family,
      vocab_size=hf.integer('vocab_size'),
      width=width,
      mlp_width=hf.integer('intermediate_size'),
      num_layers=hf.integer('num_hidden_layers'),
      num_heads=heads,
      # Older Llama files have no such field: a kv head for each query head.
      num_kv_heads=hf.integer(kv_heads) if hf.given(kv_heads) else heads,
      head_dim=_head_dim(hf, family, width, heads),
      rope_theta=_gemma_theta(hf, FULL) if gemma else _theta(hf),
      rope_scaling=_rope_scaling(hf),
      norm_eps=hf.number('rms_norm_eps', zero=True),
      tied_head=hf.flag('tie_word_embeddings', gemma),
      # Qwen2's biases and Qwen3's norms have no field: the family fixes them.
      qkv_bias=family == 'qwen2',
      qk_norm=family in ('qwen3', GEMMA),
      max_positions=hf.integer('max_position_embeddings'),
      init_std=hf.number('initializer_range', 0.02, zero=True),
      eos_ids=hf.ids('eos_token_id'),
  )
  if heads % result['num_kv_heads']:
    raise hf.wrong(kv_heads, f'a divisor of num_attention_heads, {heads}')
  return result | (_gemma(hf, result) if gemma else {})


def _gemma(hf: Fields, shape: dict[str, Any]) -> dict[str, Any]:
  """What Gemma 3 has beside the fields of all families."""
  layers = shape['num_layers']
  sliding = tuple(kind == SLIDING for kind in hf.texts('layer_types'))
  if not sliding:  # older folders: every sixth layer sees all tokens
    period = hf.integer('sliding_window_pattern', 6)
    sliding = tuple((i + 1) % period != 0 for i in range(layers))
  if len(sliding) != layers:
    raise hf.wrong('layer_types', f'of {layers} entries, num_hidden_layers')
  return dict(
      sliding=sliding,
      window=hf.integer('sliding_window') if any(sliding) else None,
      local_rope_theta=_gemma_theta(hf, SLIDING),
      activation='gelu_tanh', plus_one=True, sandwich=True,
      embed_scale=shape['width']**0.5,
      query_scale=(shape['head_dim'] / hf.number(
          'query_pre_attn_scalar', 256.0))**0.5,
  )


def _refused(hf: Fields, family: str) -> dict[str, bool]:
  """Reasons to refuse a model -> whether they apply."""
  gemma, types = family == GEMMA, hf.texts('layer_types')
  field, expected = ('hidden_activation', 'gelu_pytorch_tanh') if gemma else (
      'hidden_act', 'silu')
  act = hf.text(field, expected)
  # Without the field, transformers takes 4,096 tokens.
  mistral = family == 'mistral' and (
      'sliding_window' not in hf or hf.given('sliding_window'))
  return {
      f'model_type {family!r}, not one of {FAMILIES}': family not in FAMILIES,
      f'{field} {act!r}, not {expected}': act != expected,
      'quantised weights (quantization_config)': hf.given('quantization_config'),
      'sliding-window attention (use_sliding_window)':
          hf.flag('use_sliding_window'),
      'sliding-window attention (sliding_window is not null)': mistral,
      'sliding-window attention (layer_types)':
          not gemma and any(t != FULL for t in types),
      f'layer_types other than {FULL} and {SLIDING}':
          gemma and not {*types} <= {FULL, SLIDING},
      # Qwen2 has biases on q, k and v whatever the field says.
      'attention_bias': family != 'qwen2' and hf.flag('attention_bias'),
      'mlp_bias': hf.flag('mlp_bias'),
      'attention to later tokens (use_bidirectional_attention)':
          gemma and hf.given('use_bidirectional_attention')
          and hf.flag('use_bidirectional_attention'),
      **{f'capped logits ({cap})': gemma and hf.given(cap) for cap in (
          'attn_logit_softcapping', 'final_logit_softcapping')},
  } | _refused_ropes(hf, gemma)


def _refused_ropes(hf: Fields, gemma: bool) -> dict[str, bool]:
  """The part of `_refused` that is about rope."""
  ropes, known = [_rope(hf)], ROPE_TYPES
  if gemma:
    # transformers 5 nests one object a type of layer, in Gemma's folders alone.
    nested = hf.table('rope_parameters')
    ropes = [hf.table('rope_scaling'), nested, *map(nested.table, (FULL, SLIDING))]
    known = ('default',)
  objects = {name for rope in ropes for name in rope.objects()} - {
      f'rope_parameters.{kind}' for kind in (FULL, SLIDING) if gemma}
  kinds = sorted({_rope_type(rope) for rope in ropes} - {*known})
  return {
      f'rope type {", ".join(map(repr, kinds))}, not {" or ".join(known)}':
          bool(kinds),
      f'rope for each type of layer ({", ".join(sorted(objects))})': bool(objects),
      'partial rotary embedding (partial_rotary_factor)': any(
          fields.given('partial_rotary_factor')
          and fields.number('partial_rotary_factor') != 1
          for fields in (hf, *ropes)
      ),
  }


def _head_dim(hf: Fields, family: str, width: int, heads: int) -> int:
  if hf.given('head_dim'):
    head_dim = hf.integer('head_dim')
  elif family in ('qwen3', GEMMA) and 'head_dim' not in hf:
    # transformers' defaults for these families alone
    head_dim = 128 if family == 'qwen3' else 256
  elif width % heads:
    raise hf.wrong(
        'hidden_size', f'a multiple of num_attention_heads, {heads}')
  else:
    head_dim = width // heads
  if head_dim % 2:  # rope turns pairs of channels
    raise errors.InputError(f'head_dim {head_dim} is odd')
  return head_dim


def _rope(hf: Fields) -> Fields:
  """Rope's own object, in the order of transformers 5.

  transformers 5 writes `rope_parameters`; older versions and most models on the
  hub have `rope_theta` and `rope_scaling`. Where both are there, it reads
  `rope_scaling`.
  """
  return hf.table('rope_scaling') or hf.table('rope_parameters')


def _rope_type(rope: Fields) -> str:
  return rope.text('rope_type' if 'rope_type' in rope else 'type', 'default')


def _theta(hf: Fields) -> float:
  rope = _rope(hf)
  # transformers 5 prefers the inner field to the one beside the object.
  return (rope if 'rope_theta' in rope else hf).number('rope_theta', 10000.0)


def _gemma_theta(hf: Fields, layers: str) -> float:
  """Rope's base in layers of a type; each has its own."""
  scaling, inner = hf.table('rope_scaling'), hf.table('rope_parameters').table(layers)
  if layers == SLIDING:
    return (inner.number('rope_theta') if 'rope_theta' in inner
            else hf.number('rope_local_base_freq', 10000.0))
  for rope in (scaling, inner):
    if 'rope_theta' in rope:
      return rope.number('rope_theta')
  return hf.number('rope_theta', 1e6)


def _rope_scaling(hf: Fields) -> RopeScaling | None:
  rope, context = _rope(hf), 'original_max_position_embeddings'
  if _rope_type(rope) == 'default':
    return None
  # transformers 5 prefers the outer field here, and the whole context to none.
  original = (hf if context in hf else rope).integer(
      context, hf.integer('max_position_embeddings'))
  low, high = (rope.number(f'{x}_freq_factor') for x in ('low', 'high'))
  if low >= high:  # `rope.inverse_frequencies` divides by the difference
    raise rope.wrong('low_freq_factor', f'below high_freq_factor, {high:g}')
  return RopeScaling(rope.number('factor'), low, high, original)
