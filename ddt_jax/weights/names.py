"""Names of parameters: our paths <-> the tensors of a Hugging Face folder."""

import functools
import re
from typing import Any

import jax

from ddt_jax import model
from ddt_jax import sharding

# Our path -> Hugging Face's name; `{}` is the index of the layer.
TABLE = {
    'embed/embedding': 'model.embed_tokens.weight',
    'final_norm/scale': 'model.norm.weight',
    'head/kernel': 'lm_head.weight',
    'layers/attn_norm/scale': 'model.layers.{}.input_layernorm.weight',
    'layers/mlp_norm/scale': 'model.layers.{}.post_attention_layernorm.weight',
    **{f'layers/attn/{n}/kernel': f'model.layers.{{}}.self_attn.{n}_proj.weight'
       for n in 'qkvo'},
    **{f'layers/mlp/{n}/kernel': f'model.layers.{{}}.mlp.{n}_proj.weight'
       for n in ('gate', 'up', 'down')},
}
_QK_NORMS = {  # a norm per head
    f'layers/attn/{n}_norm/scale': f'model.layers.{{}}.self_attn.{n}_norm.weight'
    for n in 'qk'
}
FAMILY_TABLE = {
    'llama': {},
    'mistral': {},
    'qwen2': {  # biases on q, k and v
        f'layers/attn/{n}/bias': f'model.layers.{{}}.self_attn.{n}_proj.bias'
        for n in 'qkv'
    },
    'qwen3': _QK_NORMS,
    'gemma3_text': _QK_NORMS | {  # norms before and after attention and MLP
        'layers/attn_out_norm/scale':
            'model.layers.{}.post_attention_layernorm.weight',
        'layers/mlp_norm/scale':
            'model.layers.{}.pre_feedforward_layernorm.weight',
        'layers/mlp_out_norm/scale':
            'model.layers.{}.post_feedforward_layernorm.weight',
    },
}
# Put by torch.compile, FSDP and activation checkpointing anywhere in a name, and
# by data parallelism and peft before it.
_WRAPPERS = re.compile(
    r'(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
    r'|^(module\.|base_model\.model\.)+'
)
_DECODER = ('embed_tokens.', 'layers.', 'norm.')
_LORA = re.compile(
    r'(^|\.)(lora_\w+|base_layer|modules_to_save|original_module)(\.|$)')
# Older versions saved what the model computes from its config.
_BUFFERS = re.compile(r'rotary_emb\.(inv_freq|cos_cached|sin_cached)$')


def canonical(name: str) -> str:
  """Returns a tensor's name without the prefixes of trainers.

  A base model (`AutoModel`) lacks the `model.` of one with a head; transformers
  reads both.

  Args:
    name: as in the file.

  Example:
    >>> canonical('_orig_mod.model.norm.weight')
    'model.norm.weight'
    >>> canonical('layers.0.mlp.up_proj.weight')
    'model.layers.0.mlp.up_proj.weight'
  """
  # Twice: a prefix matches only at the start, and may stand behind a wrapper.
  name = _WRAPPERS.sub('', _WRAPPERS.sub('', name))
  return f'model.{name}' if name.startswith(_DECODER) else name


def is_lora(name: str) -> bool:
  """Whether a tensor belongs to an adapter that is not merged into its base.

  Example:
    >>> is_lora('base_model.model.model.layers.0.mlp.up_proj.lora_A.weight')
    True
  """
  return bool(_LORA.search(name))


def is_buffer(name: str) -> bool:
  """Whether `model.forward` computes this tensor from the config."""
  return bool(_BUFFERS.search(name))


def hf_names(config: model.ModelConfig) -> dict[str, list[str]]:
  """Returns the Hugging Face tensors behind each of our parameters.

  Args:
    config: the model.

  Returns:
    Our path -> names, one per layer for a stacked parameter and one otherwise.
  """
  table = TABLE | FAMILY_TABLE[config.model_type]
  result = {}
  for key_path, _ in jax.tree_util.tree_leaves_with_path(abstract(config)):
    path = sharding.path_name(key_path)
    layers = range(config.num_layers) if is_stacked(path) else [0]
    result[path] = [table[path].format(i) for i in layers]
  return result


@functools.lru_cache(maxsize=4)  # loading asks twice; a trace takes 50 ms
def abstract(config: model.ModelConfig) -> dict[str, Any]:
  """Returns the parameter tree as ShapeDtypeStructs; allocates nothing."""
  return jax.eval_shape(lambda: model.init(config, jax.random.key(0)))


def is_stacked(path: str) -> bool:
  """Whether the leading axis of a parameter is the layer, L.

  Example:
    >>> is_stacked('layers/attn/q/kernel'), is_stacked('head/kernel')
    (True, False)
  """
  return path.startswith('layers/')


def is_transposed(path: str) -> bool:
  """Whether Hugging Face stores a layer's matrix the other way round.

  Kernels of layers are [in, out] here and [out, in] there. Tables are [V, D] in
  both: the head's kernel, too, is kept as a table.
  """
  return is_stacked(path) and path.endswith('/kernel')
