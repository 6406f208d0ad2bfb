"""The shape of a decoder, from a Hugging Face config.json.

A model that `model.forward` would not compute exactly is refused by the name of
the field that says so.
"""

import dataclasses
import json
from typing import Any

import jax

from ddt_jax import errors
from ddt_jax import storage

FAMILIES = ('qwen2', 'qwen3', 'llama')
REMAT = {  # what a layer keeps for its backward
    'none': None,  # every activation
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,  # its input alone
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama-3's rope scaling, see `layers.inverse_frequencies`.

  Attributes:
    factor: divides the low frequencies.
    low_freq_factor, high_freq_factor: turns within the original context below
      which a frequency is low, and above which it is high.
    original_max_position_embeddings: that context, tokens.
  """

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder's shape; hashable, so that it can be a static argument of `jit`.

  Attributes:
    model_type: qwen2 | qwen3 | llama.
    vocab_size, width, mlp_width, num_layers, num_heads, num_kv_heads, head_dim:
      V, D, F, L, N, K, H.
    rope_theta, rope_scaling: see `layers.inverse_frequencies`.
    norm_eps: added to the mean square in `layers.rms_norm`.
    tied_head: whether the embedding is the vocabulary head too.
    qkv_bias: whether the q, k and v projections have a bias.
    qk_norm: whether queries and keys are normalised, per head.
    max_positions: longest context, tokens.
    eos_ids: tokens that end a response.
    init_std: standard deviation of fresh matrices.
    hf: the fields of the Hugging Face config.json, as JSON; `weights.save`
      writes them back.
    dtype: of activations and matrix products; parameters stay float32.
    remat: activations that the backward recomputes: none | dots (all but matrix
      products) | full (all but each layer's input).
  """

  model_type: str
  vocab_size: int
  width: int
  mlp_width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_theta: float
  rope_scaling: RopeScaling | None
  norm_eps: float
  tied_head: bool
  qkv_bias: bool
  qk_norm: bool
  max_positions: int
  eos_ids: tuple[int, ...]
  init_std: float
  hf: str
  dtype: str = 'float32'
  remat: str = 'none'

  def __post_init__(self):
    if self.remat not in REMAT:
      raise errors.InputError(
          f'model.remat={self.remat!r}: choose from {list(REMAT)}')

  @classmethod
  def from_hf(cls, path_or_dict: Any, **options: Any) -> 'ModelConfig':
    """Reads a Hugging Face folder, a config.json, or its fields.

    Args:
      path_or_dict: the folder, the file or a dict of the fields.
      **options: `dtype` and `remat`.

    Returns:
      The config.

    Raises:
      FileNotFoundError: there is no config.json.
      InputError: a field is missing, or says that `model.forward` would not
        compute the model exactly.
    """
    if isinstance(path_or_dict, dict):
      fields, where = path_or_dict, 'config'
    else:
      where = storage.path(path_or_dict)
      where = where / 'config.json' if where.is_dir() else where
      if not where.exists():
        raise FileNotFoundError(
            f'{where}: not found; model.path must be a Hugging Face folder with'
            ' a config.json')
      try:
        fields = json.loads(where.read_text())
      except ValueError as e:
        raise errors.InputError(f'{where}: not JSON: {e}') from None
    try:
      return cls(**_parse(fields), hf=json.dumps(fields), **options)
    except KeyError as e:
      raise errors.InputError(f'{where}: the field {e} is missing') from None
    except errors.InputError as e:
      raise errors.InputError(f'{where}: {e}') from None


def _parse(hf: dict[str, Any]) -> dict[str, Any]:
  """ModelConfig's fields; refuses models that `forward` would get wrong."""
  family = hf.get('model_type')
  rope = _rope_fields(hf)
  refused = {
      f'model_type {family!r}, not one of {FAMILIES}': family not in FAMILIES,
      f'hidden_act {hf.get("hidden_act")!r}, not silu':
          hf.get('hidden_act', 'silu') != 'silu',
      'quantised weights (quantization_config)':
          hf.get('quantization_config') is not None,
      'sliding-window attention (use_sliding_window)':
          bool(hf.get('use_sliding_window')),
      'sliding-window attention (layer_types)':
          any(t != 'full_attention' for t in hf.get('layer_types') or ()),
      'attention_bias': bool(hf.get('attention_bias')) and family != 'qwen2',
      'mlp_bias': bool(hf.get('mlp_bias')),
      f'rope type {rope["rope_type"]!r}, not default or llama3':
          rope['rope_type'] not in ('default', 'llama3'),
      'partial rotary embedding (partial_rotary_factor)': any(
          fields.get('partial_rotary_factor', 1) != 1 for fields in (hf, rope)
      ),
  }
  if reasons := [reason for reason, yes in refused.items() if yes]:
    raise errors.InputError('not supported: ' + '; '.join(reasons))
  heads = hf['num_attention_heads']
  eos = hf.get('eos_token_id')
  return dict(
      model_type=family,
      vocab_size=hf['vocab_size'],
      width=hf['hidden_size'],
      mlp_width=hf['intermediate_size'],
      num_layers=hf['num_hidden_layers'],
      num_heads=heads,
      num_kv_heads=hf.get('num_key_value_heads') or heads,
      head_dim=hf.get('head_dim') or hf['hidden_size'] // heads,
      rope_theta=float(rope['rope_theta']),
      rope_scaling=None if rope['rope_type'] == 'default' else RopeScaling(
          *(rope[f.name] for f in dataclasses.fields(RopeScaling))
      ),
      norm_eps=hf['rms_norm_eps'],
      tied_head=hf.get('tie_word_embeddings', False),
      qkv_bias=family == 'qwen2',
      qk_norm=family == 'qwen3',
      max_positions=hf['max_position_embeddings'],
      init_std=hf.get('initializer_range', 0.02),
      eos_ids=tuple(eos) if isinstance(eos, list) else
      () if eos is None else (eos,),
  )


def _rope_fields(hf: dict[str, Any]) -> dict[str, Any]:
  """Rope's fields from either shape of config.json.

  transformers 5 writes `rope_parameters`; older versions and most models on the
  hub have `rope_theta` and `rope_scaling`.
  """
  rope = hf.get('rope_parameters') or {
      **(hf.get('rope_scaling') or {}),
      'rope_theta': hf.get('rope_theta', 10000.0),
  }
  kind = rope.get('rope_type') or rope.get('type') or 'default'
  return {'rope_theta': hf.get('rope_theta', 10000.0), **rope,
          'rope_type': kind}
