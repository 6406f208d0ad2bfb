"""GGUF files -> Hugging Face folders in float32.

GGUF is the format of llama.cpp: one file holds the weights, mostly quantised, the
config and the tokenizer. The third-party package `gguf` reads and dequantises it.
"""

from collections.abc import Iterator
import dataclasses
import re
from typing import Any

from etils import epath
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import storage
from ddt_jax.weights import gguf_tokenizer
from ddt_jax.weights import names
from ddt_jax.weights import saving

# GGUF's name -> our path; `{}` is the index of the layer.
TABLE = {
    'token_embd.weight': 'embed/embedding',
    'output_norm.weight': 'final_norm/scale',
    'output.weight': 'head/kernel',
    'blk.{}.attn_norm.weight': 'layers/attn_norm/scale',
    'blk.{}.ffn_norm.weight': 'layers/mlp_norm/scale',
    'blk.{}.attn_output.weight': 'layers/attn/o/kernel',
    **{f'blk.{{}}.attn_{n}.{w}': f'layers/attn/{n}/{ours}'
       for n in 'qkv' for w, ours in (('weight', 'kernel'), ('bias', 'bias'))},
    **{f'blk.{{}}.attn_{n}_norm.weight': f'layers/attn/{n}_norm/scale' for n in 'qk'},
    **{f'blk.{{}}.ffn_{n}.weight': f'layers/mlp/{n}/kernel'
       for n in ('gate', 'up', 'down')},
}
ARCHITECTURES = {
    'llama': 'LlamaForCausalLM', 'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM',
}
ROPE_FACTORS = 'rope_freqs.weight'  # Llama-3's scaling, as divisors [H / 2]
# Of every published Llama 3; GGUF does not store them.
LOW_FREQ_FACTOR, HIGH_FREQ_FACTOR = 1.0, 4.0


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A tensor to write: its name there, and where the file has it."""

  name: str
  source: Any
  shape: tuple[int, ...]
  nbytes: int


def to_folder(file: Any, folder: Any) -> None:
  """Converts a llama, qwen2 or qwen3 GGUF file to a Hugging Face folder.

  Weights become float32: they are dequantised, not quantised anew, so that the
  folder computes the same model. Tokenizer and chat template come from the file.
  One file of the folder at a time is in memory. config.json is written last: a
  folder that has it is complete. Processes that write the same folder at the same
  time do no harm, because each file appears whole and with the same content.

  Args:
    file: a local .gguf file.
    folder: a new or existing folder, local or gs://. Older weights in it are
      replaced.

  Raises:
    errors.InputError: the file is missing or damaged, or holds another kind of
      model, tensor or tokenizer. All is checked before anything is written.
    ImportError: the package gguf is not installed.
  """
  file, folder = storage.path(file), storage.path(folder)
  reader = _open(file)
  try:
    fields = {k: v.contents() for k, v in reader.fields.items()}
    sources = {t.name: t for t in reader.tensors}
    hf = _config_fields(fields, sources)
    config = model.ModelConfig.from_hf(hf)
    tensors = list(_tensors(config, sources))
    tokenizer = gguf_tokenizer.make(fields, config.max_positions)
  except errors.InputError as e:
    raise errors.InputError(f'{file}: {e}') from None
  (folder / 'config.json').unlink(missing_ok=True)
  files = saving.plan_files(tensors)
  for name, group in files.items():
    arrays = (_read(t.source, config) for t in group)
    saving.publish_file(folder / name, group, arrays, 'float32')
  saving.publish_rest(folder, config, files, 'float32', tokenizer=tokenizer)


def _open(file: epath.Path) -> Any:
  # Here, since only GGUF files need it.
  try:
    import gguf
  except ImportError as e:
    raise ImportError(
        "a GGUF file is read by the package gguf: pip install -e '.[smollm2]'"
    ) from e
  if not file.is_file():
    raise errors.InputError(f'{file}: no such file')
  storage.refuse_pointers([file])
  try:
    return gguf.GGUFReader(file)
  # It maps the file into memory and follows whatever offsets stand there.
  except (ValueError, IndexError, KeyError, TypeError, OverflowError) as e:
    reason = ' '.join(str(e).split())[:200]
    raise errors.InputError(
        f'{file}: not a whole GGUF file ({type(e).__name__}: {reason})') from None


def _config_fields(fields: dict[str, Any], sources: dict[str, Any]) -> dict[str, Any]:
  """The fields of config.json."""
  family = fields.get('general.architecture')
  if family not in ARCHITECTURES:
    raise errors.InputError(
        f'architecture {family!r}, not one of {", ".join(ARCHITECTURES)}')

  def get(name, default=None):
    value = fields.get(f'{family}.{name}', default)
    if value is None:
      raise errors.InputError(f'{family}.{name} is missing')
    # GGUF keeps float32: 1e-6 would become 9.999999974752427e-07.
    return float(str(np.float32(value))) if isinstance(value, float) else value

  if (scaling := get('rope.scaling.type', 'none')) != 'none':
    raise errors.InputError(f'rope scaling {scaling!r} is not supported')
  if 'token_embd.weight' not in sources:
    raise errors.InputError('the tensor token_embd.weight is missing')
  heads, width = get('attention.head_count'), get('embedding_length')
  head_dim = get('attention.key_length', width // heads)
  theta = get('rope.freq_base', 10000.0)
  ids = [fields[k] for k in ('tokenizer.ggml.eos_token_id',
                             'tokenizer.ggml.eot_token_id') if k in fields]
  return dict(
      architectures=[ARCHITECTURES[family]],
      model_type=family,
      # The table's rows: the list of tokens may be shorter.
      vocab_size=int(sources['token_embd.weight'].shape[1]),
      hidden_size=width,
      intermediate_size=get('feed_forward_length'),
      num_hidden_layers=get('block_count'),
      num_attention_heads=heads,
      num_key_value_heads=get('attention.head_count_kv', heads),
      head_dim=head_dim,
      max_position_embeddings=get('context_length'),
      rope_theta=theta,
      rope_scaling=_rope_scaling(sources.get(ROPE_FACTORS), theta, head_dim),
      rms_norm_eps=get('attention.layer_norm_rms_epsilon'),
      tie_word_embeddings='output.weight' not in sources,
      hidden_act='silu',
      attention_bias=False,
      bos_token_id=fields.get('tokenizer.ggml.bos_token_id'),
      pad_token_id=fields.get('tokenizer.ggml.padding_token_id'),
      eos_token_id=list(dict.fromkeys(ids)),
  )


def _rope_scaling(source: Any, theta: float, head_dim: int) -> dict[str, Any] | None:
  """Llama-3's scaling, from the divisors of the frequencies that it gives.

  `rope.inverse_frequencies` has the formula, which is inverted here.
  """
  if source is None:
    return None
  divisors = _dequantise(source).astype(np.float64)
  freqs = theta ** (-np.arange(0, head_dim, 2) / head_dim)
  factor = divisors.max(initial=1)
  between = (divisors > 1.001) & (divisors < 0.999 * factor)
  if divisors.shape == freqs.shape and between.any():
    # Interpolated frequencies alone depend on the original context.
    keep = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    turns = LOW_FREQ_FACTOR + keep * (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)
    contexts = 2 * np.pi * turns / freqs[between]
    if np.ptp(contexts) < 1e-3 * contexts.mean():
      return dict(
          rope_type='llama3', factor=float(factor),
          low_freq_factor=LOW_FREQ_FACTOR, high_freq_factor=HIGH_FREQ_FACTOR,
          original_max_position_embeddings=round(contexts.mean()))
  raise errors.InputError(f'{ROPE_FACTORS} is not the rope scaling of Llama 3')


def _tensors(
    config: model.ModelConfig, sources: dict[str, Any]
) -> Iterator[_Tensor]:
  """The tensors of the folder, in the file's order; raises unless all are there."""
  table, found = names.hf_names(config), []
  for name, source in sources.items():
    if name == ROPE_FACTORS:
      continue
    layer = re.match(r'blk\.(\d+)\.', name)
    path = TABLE.get(re.sub(r'^blk\.\d+\.', 'blk.{}.', name))
    index = int(layer[1]) if layer else 0
    if path not in table or index >= len(table[path]):
      raise errors.InputError(
          f'the tensor {name} has no place in a {config.model_type} model of'
          f' {config.num_layers} layers')
    found.append(table[path][index])
    # GGUF counts dimensions from the innermost.
    shape = tuple(int(n) for n in source.shape[::-1])
    yield _Tensor(found[-1], source, shape, 4 * int(source.n_elements))
  if missing := [n for group in table.values() for n in group if n not in found]:
    raise errors.InputError(
        f'{len(missing)} tensors are missing, {missing[0]} among them')


def _read(source: Any, config: model.ModelConfig) -> np.ndarray:
  """A tensor in float32, laid out as in a Hugging Face folder."""
  x = _dequantise(source)
  part = re.search(r'attn_([qk])\.(weight|bias)$', source.name)
  if config.model_type == 'llama' and part:
    heads = config.num_heads if part[1] == 'q' else config.num_kv_heads
    x = unpermute(x, heads)
  return np.ascontiguousarray(x)


def _dequantise(source: Any) -> np.ndarray:
  import gguf
  try:
    return gguf.dequantize(source.data, source.tensor_type)
  except NotImplementedError:
    raise errors.InputError(
        f'the tensor {source.name} is {source.tensor_type.name}, which gguf cannot'
        ' dequantise; take a file of another quantisation, e.g. Q8_0') from None


def unpermute(x: np.ndarray, heads: int) -> np.ndarray:
  """Undoes the order of q's and k's rows in GGUF files of the llama family.

  Rope turns pairs of channels: llama.cpp pairs neighbours (0, 1), (2, 3), ...;
  Hugging Face pairs channel i with channel i + H / 2.

  Args:
    x: [N H, ...], the rows of N heads.
    heads: N.

  Returns:
    The same rows in Hugging Face's order.

  Example:
    >>> unpermute(np.arange(8), heads=2)
    array([0, 2, 1, 3, 4, 6, 5, 7])
  """
  pairs = x.reshape(heads, -1, 2, *x.shape[1:])
  return pairs.swapaxes(1, 2).reshape(x.shape)
