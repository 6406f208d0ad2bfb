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
from ddt_jax.model import families
from ddt_jax.model.config_fields import Fields
from ddt_jax.model.rope import RopeScaling

ADAPTER = 'adapter_config.json'  # peft writes it; the base model is elsewhere
REMAT = {  # what a layer keeps for its backward
    'none': None,  # every activation
    # Products with weights; those of attention have batch dimensions, and their
    # [T, S] outputs would be the largest arrays to keep.
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,  # its input alone
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder's shape; hashable, so that it can be a static argument of `jit`.

  Attributes:
    model_type: one of `families.FAMILIES`.
    vocab_size, width, mlp_width, num_layers, num_heads, num_kv_heads, head_dim:
      V, D, F, L, N, K, H.
    rope_theta, rope_scaling: see `rope.inverse_frequencies`.
    norm_eps: added to the mean square in `layers.rms_norm`.
    tied_head: whether the embedding is the vocabulary head too.
    qkv_bias: whether the q, k and v projections have a bias.
    qk_norm: whether queries and keys are normalised, per head.
    max_positions: longest context, tokens.
    eos_ids: tokens that end a response.
    init_std: standard deviation of fresh matrices.
    hf: the fields of the Hugging Face config.json, as JSON; `weights.save`
      writes them back.
    window: tokens that a sliding layer sees, its own included; None: no layer is
      one.
    sliding: for each layer, whether it is a sliding one; empty without a window.
    local_rope_theta: rope's base in sliding layers.
    activation: of the gate: silu | gelu_tanh, see `layers.ACTIVATIONS`.
    plus_one: whether norms multiply by 1 + scale.
    sandwich: whether the outputs of attention and MLP are normalised, too.
    embed_scale: multiplies the embeddings.
    query_scale: multiplies the queries, beside 1 / sqrt(H).
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
  window: int | None = None
  sliding: tuple[bool, ...] = ()
  local_rope_theta: float | None = None
  activation: str = 'silu'
  plus_one: bool = False
  sandwich: bool = False
  embed_scale: float = 1.0
  query_scale: float = 1.0
  dtype: str = 'float32'
  remat: str = 'none'

  def __post_init__(self):
    if self.remat not in REMAT:
      raise errors.no_choice('model.remat', self.remat, REMAT)

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
      return cls(**families.parse(Fields(fields)), hf=json.dumps(fields), **options)
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
