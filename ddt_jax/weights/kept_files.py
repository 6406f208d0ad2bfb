"""Small files that a fine-tuned model keeps from its base: tokenizer, template, ..."""

import json
import pathlib
import tempfile
from typing import Any

from ddt_jax import model
from ddt_jax import storage

GENERATION = 'generation_config.json'
# The tokenizer in all its forms, its chat template, and the terms of use.
_KEPT = (
    '*token*', 'vocab*', 'merges*', 'chat_template*', 'LICEN[CS]E*', 'NOTICE*',
    'USE_POLICY*',
)
# transformers and vLLM need both. Old folders have vocab.json and merges.txt alone.
_TOKENIZER = {'tokenizer.json', 'tokenizer_config.json'}


def of(source: Any, tokenizer: Any = None) -> dict[str, bytes]:
  """Returns the files to keep, by name.

  The source's files are copied byte for byte: written anew by another version of
  transformers, they might say something else.

  Args:
    source: a Hugging Face folder, or None.
    tokenizer: writes the files of its own where the source lacks some.
  """
  kept = {}
  if source is not None:
    folder = storage.path(source)
    kept = {file.name: file.read_bytes() for kind in _KEPT
            for file in sorted(folder.glob(kind)) if file.is_file()}
  if tokenizer is not None and not _TOKENIZER <= set(kept):
    with tempfile.TemporaryDirectory() as local:  # it cannot write to gs://
      tokenizer.save_pretrained(local)
      kept = {file.name: file.read_bytes()
              for file in pathlib.Path(local).iterdir()} | kept
  return kept


def generation(source: Any, config: model.ModelConfig) -> str | bytes:
  """Returns generation_config.json: the source's, with all stop tokens.

  The token that ends a turn is often missing in a base model's. Its fine-tuned
  copy would then answer for ever.

  Args:
    source: a Hugging Face folder, or None.
    config: of the model; `eos_ids` are the stop tokens.
  """
  file = source is not None and storage.path(source) / GENERATION
  if file and file.exists():
    fields = json.loads(data := file.read_bytes())
  else:  # from config.json, as transformers does
    data, hf = b'', json.loads(config.hf)
    fields = {k: hf[k] for k in ('bos_token_id', 'pad_token_id')
              if hf.get(k) is not None}
  listed = fields.get('eos_token_id')
  listed = listed if isinstance(listed, list) else [listed]
  stops = [i for i in dict.fromkeys((*listed, *config.eos_ids)) if i is not None]
  if data and stops == listed:
    return data
  if stops:
    fields['eos_token_id'] = stops if len(stops) > 1 else stops[0]
  return json.dumps(fields, indent=2)
