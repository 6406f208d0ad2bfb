"""A model's folder, and its small files: shape, tokenizer, stop tokens."""

import dataclasses
import json
import pathlib
from typing import Any

import transformers

from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.model import published

# Models that need no download, by name, and their folders.
SHIPPED = {'embedded': lambda: embedded.STUDENT, 'smollm2': weights.smollm2.folder}


def load_tokenizer(folder: str) -> Any:
  """The tokenizer of a Hugging Face folder.

  Raises:
    errors.InputError: its files cannot be read.
  """
  try:
    return transformers.AutoTokenizer.from_pretrained(folder)
  except Exception as e:  # the readers of its files raise no common type
    reason = ' '.join(str(e).split())[:300]
    raise errors.InputError(
        f'{folder}: its tokenizer cannot be read ({type(e).__name__}: {reason})'
    ) from None


def with_generation_eos(
    config: model.ModelConfig, folder: str
) -> model.ModelConfig:
  """The config with the stop tokens of generation_config.json added to its own.

  Chat models often list several there, and only one of them in config.json.

  Args:
    config: of the model.
    folder: the model's; it may lack the file.

  Raises:
    errors.InputError: the file is broken, or an id is none of the model's tokens.
  """
  file = pathlib.Path(folder) / 'generation_config.json'
  if not file.exists():
    return config
  try:
    found = json.loads(file.read_bytes())
    listed = found.get('eos_token_id')
  # AttributeError: JSON, but not an object.
  except (ValueError, AttributeError) as e:
    raise errors.InputError(f'{file} is not a JSON object: {e}') from e
  listed = [] if listed is None else listed if isinstance(listed, list) else [listed]
  for i in listed:
    if type(i) is not int or not 0 <= i < config.vocab_size:
      raise errors.InputError(
          f'{file}: eos_token_id has {i!r}, which is none of the model\'s'
          f' {config.vocab_size} tokens')
  return dataclasses.replace(
      config, eos_ids=tuple(dict.fromkeys((*config.eos_ids, *listed))))


def stops(tokenizer: Any, config: model.ModelConfig, end: chat.TurnEnd) -> str:
  """Says in one line at which tokens decoding stops."""
  ids = dict.fromkeys((*config.eos_ids, end.id))
  tokens = ', '.join(f'{tokenizer.convert_ids_to_tokens(i)} ({i})' for i in ids)
  return f'decoding stops at {tokens}'


def model_folder(path: str, option: str = 'model.path') -> str:
  """The folder of 'embedded', 'smollm2', a local path or a Hugging Face id.

  Only an id uses the network; pickled weights are not fetched.

  Args:
    path: it.
    option: of the config that has it, for the message.

  Raises:
    errors.InputError: neither a folder nor an id, an id that cannot be fetched, or
      smollm2 is not installed.
  """
  if path in SHIPPED:
    return str(SHIPPED[path]())
  folder = pathlib.Path(path).expanduser()
  if path and folder.is_dir():
    if (folder / 'metrics.jsonl').exists() and (folder / 'model').is_dir():
      raise errors.InputError(
          f"{option}={path} is a run's folder; its model is in"
          f' --config.{option}={folder / "model"}')
    return str(folder)
  if not path:
    raise errors.InputError(
        f"{option}='' names no model: --config.{option}=FOLDER, or ORG/NAME of the"
        ' hub')
  if path.count('/') != 1 or path.startswith(('.', '/', '~')):
    raise errors.InputError(
        f'{option}={path!r} is no folder and no Hugging Face id'
        + errors.did_you_mean(path, SHIPPED))
  # Here, since only an id of the hub needs it.
  import huggingface_hub
  try:
    return huggingface_hub.snapshot_download(
        # The licence, too: an export keeps it.
        path, allow_patterns=[
            '*.json', '*.safetensors', '*.txt', '*.jinja', 'LICENSE*', 'NOTICE*'])
  except (OSError, huggingface_hub.errors.HfHubHTTPError) as e:
    reason = str(e).strip().partition('\n')[0]
    raise errors.InputError(
        f'{option}={path} cannot be fetched from the Hugging Face hub: {reason}.'
        f' Without a network, name a folder: --config.{option}=FOLDER') from e


def shape(path: str) -> model.ModelConfig:
  """The shape of a model, without a download where its id is a known one."""
  known = published.known(path)
  if path in SHIPPED or known is None or pathlib.Path(path).expanduser().is_dir():
    return model.ModelConfig.from_hf(model_folder(path))
  return model.ModelConfig.from_hf(known)
