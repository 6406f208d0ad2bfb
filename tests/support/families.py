"""Random small folders in the config shapes of published models, by transformers."""

import json
import pathlib

from tests.support import paths

_SMALL = dict(
    vocab_size=503, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
    initializer_range=0.2, rms_norm_eps=1e-6, bos_token_id=477, eos_token_id=479,
    torch_dtype='float32', transformers_version='4.46.0', use_cache=True,
)
_QWEN2 = _SMALL | dict(
    architectures=['Qwen2ForCausalLM'], model_type='qwen2', hidden_act='silu',
    attention_dropout=0.0, max_window_layers=28, rope_theta=1e6,
    sliding_window=32768, use_sliding_window=False,
)
_QWEN3 = _SMALL | dict(
    architectures=['Qwen3ForCausalLM'], model_type='qwen3', hidden_act='silu',
    attention_bias=False, attention_dropout=0.0, head_dim=24, max_window_layers=28,
    rope_scaling=None, rope_theta=1e6, sliding_window=None,
    use_sliding_window=False,
)
_MISTRAL = _SMALL | dict(
    architectures=['MistralForCausalLM'], model_type='mistral', hidden_act='silu',
    attention_dropout=0.0, rope_theta=1e6, sliding_window=None,
    tie_word_embeddings=False, rms_norm_eps=1e-5,
)
_LLAMA = _SMALL | dict(
    architectures=['LlamaForCausalLM'], model_type='llama', hidden_act='silu',
    attention_bias=False, attention_dropout=0.0, mlp_bias=False, pretraining_tp=1,
    rms_norm_eps=1e-5, rope_theta=5e5,
)
_LLAMA3 = dict(
    factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0,
    original_max_position_embeddings=128, rope_type='llama3',
)
_GEMMA = _SMALL | dict(
    architectures=['Gemma3ForCausalLM'], model_type='gemma3_text',
    attention_bias=False, attention_dropout=0.0, attn_logit_softcapping=None,
    cache_implementation='hybrid', final_logit_softcapping=None, head_dim=24,
    hidden_activation='gelu_pytorch_tanh', num_hidden_layers=7,
    num_key_value_heads=1, pad_token_id=0, query_pre_attn_scalar=24,
    rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000,
    sliding_window=16, initializer_range=0.1,
)
# After the published model whose config.json has these fields; sizes are reduced.
SHAPES = {
    'qwen2.5-0.5b': _QWEN2 | dict(tie_word_embeddings=True),
    'qwen2.5-7b': _QWEN2 | dict(tie_word_embeddings=False),
    'qwen3-1.7b': _QWEN3 | dict(tie_word_embeddings=True),
    'qwen3-8b': _QWEN3 | dict(tie_word_embeddings=False),
    'mistral-7b-v0.3': _MISTRAL,
    'mistral-nemo': _MISTRAL | dict(head_dim=16),
    'mistral-null': _MISTRAL | dict(head_dim=None, tie_word_embeddings=True),
    'llama-2': _LLAMA | dict(
        rope_scaling=None, rope_theta=1e4, tie_word_embeddings=False),
    'llama-3': _LLAMA | dict(rope_scaling=None, tie_word_embeddings=False),
    'llama3.1-8b': _LLAMA | dict(
        rope_scaling=_LLAMA3, tie_word_embeddings=False,
        eos_token_id=[477, 478, 479]),
    'llama3.2-1b': _LLAMA | dict(
        rope_scaling=_LLAMA3 | dict(factor=32.0), tie_word_embeddings=True,
        head_dim=12),
    # No tie_word_embeddings and no layer_types, as of transformers 4.50.
    'gemma3-1b': _GEMMA | dict(sliding_window_pattern=6, eos_token_id=[1, 479]),
    # Queries scaled by another number than sqrt(H), and kinds listed by layer.
    'gemma3-270m': _GEMMA | dict(
        num_hidden_layers=4, query_pre_attn_scalar=40, num_key_value_heads=2,
        use_bidirectional_attention=False, _sliding_window_pattern=6,
        layer_types=['sliding_attention', 'full_attention'] * 2),
    'gemma3-untied': _GEMMA | dict(
        num_hidden_layers=3, sliding_window_pattern=2, tie_word_embeddings=False),
}


def write(folder: pathlib.Path, fields: dict, *, new_form: bool = False, seed=0):
  """Writes a folder with random weights; returns transformers' model.

  Args:
    folder: a new one.
    fields: of config.json, e.g. one of `SHAPES`.
    new_form: config.json as transformers 5 writes it (rope_parameters), instead
      of these fields as on the hub.
    seed: of the weights.
  """
  import torch
  import transformers

  torch.manual_seed(seed)
  folder.mkdir()
  text = json.dumps(fields, indent=2)
  (folder / 'config.json').write_text(text)
  config = transformers.AutoConfig.from_pretrained(folder)
  theirs = transformers.AutoModelForCausalLM.from_config(
      config, dtype=torch.float32).eval()
  with torch.no_grad():
    # Fresh norms and biases are 0 or 1, which would hide a tensor that is mixed up.
    for x in theirs.parameters():
      if x.ndim == 1:
        x += 0.3 * torch.randn(x.shape)
  theirs.save_pretrained(folder)
  if not new_form:
    (folder / 'config.json').write_text(text)
  return theirs


GOLDEN = _GEMMA | dict(
    num_hidden_layers=4, sliding_window_pattern=3, sliding_window=8,
    query_pre_attn_scalar=40, eos_token_id=[1, 479])


def write_golden(name: str = 'gemma3-tiny') -> None:
  """Writes tests/golden/models/NAME and logits/NAME.npz, with transformers' numbers."""
  import numpy as np
  import torch

  theirs = write(paths.GOLDEN / 'models' / name, GOLDEN)
  rng = np.random.default_rng(3)
  texts = [rng.integers(0, 470, n, dtype=np.int32) for n in (3, 9, 21, 40)]

  def logits(ids, mask, pos):
    with torch.no_grad():
      return theirs(
          torch.tensor(ids), attention_mask=torch.tensor(mask),
          position_ids=torch.tensor(pos)).logits.numpy()

  found = {}
  for i, ids in enumerate(texts):
    found[f'ids_{i}'] = ids
    found[f'logits_{i}'] = x = logits(
        ids[None], np.ones((1, len(ids)), int), np.arange(len(ids))[None])[0]
    log_p = np.float64(x[:-1])
    log_p -= np.log(np.exp(log_p - log_p.max(-1, keepdims=True)).sum(
        -1, keepdims=True)) + log_p.max(-1, keepdims=True)
    own = log_p[np.arange(len(ids) - 1), ids[1:]]
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    found |= {f'logp_{i}': own, f'entropy_{i}': entropy, f'phi_{i}': own + entropy}
  for side in ('left', 'right'):
    ids, mask, pos = np.zeros((3, 4, 40), np.int32)
    for row, text in enumerate(texts):
      n = len(text)
      at = slice(40 - n, 40) if side == 'left' else slice(n)
      ids[row, at], mask[row, at], pos[row, at] = text, 1, np.arange(n)
    last = logits(ids, mask, pos)[np.arange(4), (mask * np.arange(40)).argmax(1)]
    found |= {f'{side}_ids': ids, f'{side}_mask': mask, f'{side}_pos': pos,
              f'{side}_last_logits': last}
  long = rng.integers(0, 470, 300, dtype=np.int32)
  found['ids_long'] = long
  found['logits_long_last4'] = logits(
      long[None], np.ones((1, 300), int), np.arange(300)[None])[0, -4:]
  np.savez_compressed(paths.GOLDEN / 'logits' / f'{name}.npz', **found)
