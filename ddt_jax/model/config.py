"""The shape of a decoder, from a Hugging Face config.json.

Refuses a model that `model.forward` would not compute exactly, and names the field
that is not supported.
"""

import dataclasses
import json
from typing import Any

from etils import epath
import jax

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.model.config_fields import Fields

FAMILIES = ('qwen2', 'qwen3', 'llama')
ROPE_TYPES = ('default', 'llama3')
ADAPTER = 'adapter_config.json'  # peft writes it; the base model is elsewhere
REMAT = {  # what a layer keeps for its backward
    'none': None,  # every activation
    # Products with weights; those of attention have batch dimensions, and their
    # [T, S] outputs would be the largest arrays to keep.
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
      InputError: there is no config.json or it is not JSON; a field is missing,
        null or of a wrong type, or says that `model.forward` would not compute
        the model exactly.
    """
    if isinstance(path_or_dict, dict):
      fields, where = path_or_dict, 'config'
    else:
      fields, where = _read_json(storage.path(path_or_dict))
    try:
      return cls(**_parse(Fields(fields)), hf=json.dumps(fields), **options)
    except errors.InputError as e:
      raise errors.InputError(f'{where}: {e}') from None


def _read_json(path: epath.Path) -> tuple[dict[str, Any], epath.Path]:
  """The fields of a folder's config.json or of the file itself, and that file."""
  file = path / 'config.json' if path.is_dir() else path
  # Before `not found`: the folder is complete for peft, and lacks only its base.
  if file != path and not file.exists() and (path / ADAPTER).exists():
    raise errors.InputError(
        f'{path}: an adapter ({ADAPTER}) without its base model; merge the'
        ' two (peft: model.merge_and_unload(), then save_pretrained) and name'
        ' the merged folder'
    )
  if not file.is_file():
    raise errors.InputError(
        f'{file}: not found; model.path must be a Hugging Face folder with a'
        ' config.json')
  # A git clone without LFS would fail below as "not JSON", which misleads.
  storage.refuse_pointers([file])
  try:
    fields = json.loads(file.read_text())
  # Deeply nested lists overflow the parser's stack.
  except (ValueError, RecursionError) as e:
    raise errors.InputError(f'{file}: not JSON: {e}') from None
  except OSError as e:
    raise errors.InputError(f'{file}: cannot be read: {e.strerror}') from None
  if not isinstance(fields, dict):
    raise errors.InputError(f'{file}: not a JSON object of fields')
  return fields, file


def _parse(hf: Fields) -> dict[str, Any]:
  """ModelConfig's fields; refuses models that `forward` would get wrong."""
  _refuse(hf)
  heads, width = hf.integer('num_attention_heads'), hf.integer('hidden_size')
  kv_heads = 'num_key_value_heads'
  family = hf.text('model_type')
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
      rope_theta=_rope_theta(hf),
      rope_scaling=_rope_scaling(hf),
      norm_eps=hf.number('rms_norm_eps', zero=True),
      tied_head=hf.flag('tie_word_embeddings'),
      # Qwen2's biases and Qwen3's norms have no field: the family fixes them.
      qkv_bias=family == 'qwen2',
      qk_norm=family == 'qwen3',
      max_positions=hf.integer('max_position_embeddings'),
      init_std=hf.number('initializer_range', 0.02, zero=True),
      eos_ids=hf.ids('eos_token_id'),
  )
  if heads % result['num_kv_heads']:
    raise hf.wrong(kv_heads, f'a divisor of num_attention_heads, {heads}')
  return result


def _refuse(hf: Fields) -> None:
  """Raises for every field that asks for more than `forward` computes."""
  family, act = hf.text('model_type'), hf.text('hidden_act', 'silu')
  rope, kind = _rope(hf), _rope_type(_rope(hf))
  # All reasons at once, so that one run names every obstacle.
  refused = {
      f'model_type {family!r}, not one of {FAMILIES}': family not in FAMILIES,
      f'hidden_act {act!r}, not silu': act != 'silu',
      'quantised weights (quantization_config)': hf.given('quantization_config'),
      'sliding-window attention (use_sliding_window)':
          hf.flag('use_sliding_window'),
      'sliding-window attention (layer_types)':
          any(t != 'full_attention' for t in hf.texts('layer_types')),
      # Qwen2 has biases on q, k and v whatever the field says.
      'attention_bias': family != 'qwen2' and hf.flag('attention_bias'),
      'mlp_bias': hf.flag('mlp_bias'),
      f'rope type {kind!r}, not default or llama3': kind not in ROPE_TYPES,
      # transformers 5 nests one object per layer type; only the flat form is read.
      f'rope for each type of layer ({", ".join(rope.objects())})':
          bool(rope.objects()),
      'partial rotary embedding (partial_rotary_factor)': any(
          fields.given('partial_rotary_factor')
          and fields.number('partial_rotary_factor') != 1 for fields in (hf, rope)
      ),
  }
  if reasons := [reason for reason, yes in refused.items() if yes]:
    raise errors.InputError('not supported: ' + '; '.join(reasons))


def _head_dim(hf: Fields, family: str, width: int, heads: int) -> int:
  if hf.given('head_dim'):
    head_dim = hf.integer('head_dim')
  elif family == 'qwen3' and 'head_dim' not in hf:
    head_dim = 128  # transformers' default for this family alone
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


def _rope_theta(hf: Fields) -> float:
  rope = _rope(hf)
  # transformers 5 prefers the inner field to the one beside the object.
  return (rope if 'rope_theta' in rope else hf).number('rope_theta', 10000.0)


def _rope_scaling(hf: Fields) -> RopeScaling | None:
  rope, context = _rope(hf), 'original_max_position_embeddings'
  if _rope_type(rope) == 'default':
    return None
  # transformers 5 prefers the outer field here, and the whole context to none.
  original = (hf if context in hf else rope).integer(
      context, hf.integer('max_position_embeddings'))
  low, high = (rope.number(f'{x}_freq_factor') for x in ('low', 'high'))
  if low >= high:  # `layers.inverse_frequencies` divides by the difference
    raise rope.wrong('low_freq_factor', f'below high_freq_factor, {high:g}')
  return RopeScaling(rope.number('factor'), low, high, original)
