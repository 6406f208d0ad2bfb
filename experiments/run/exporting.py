"""Parameters of a run -> its Hugging Face folder, with a model card."""

import dataclasses
import json
import pathlib
from typing import Any

from etils import epath
import jax

from ddt_jax import lora
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import report
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.report import results
from experiments.run import model_files
from experiments.run import workdir


def write(
    out: Any,
    folder: epath.Path,
    params: Any,
    *,
    config: model.ModelConfig,
    tokenizer: Any,
    end: chat.TurnEnd,
    source: str,
    found: results.RunResults | None,
    step: int,
    chosen: str,
    dtype: str | None = None,
    **options: Any,
) -> str:
  """Writes full weights and what stands beside them.

  Args:
    out: the folder to write.
    folder: of the run; its config.json and command.txt go into the card.
    params: see `weights.save`.
    config, tokenizer, end: the model, and the token that ends a turn.
    source: the Hugging Face folder of the base model.
    found: results of the run, None if it is not finished.
    step, chosen: see `report.model_card`.
    dtype: of the files; None: the source's.
    **options: of `weights.save`.

  Returns:
    The dtype of the files.
  """
  dtype = dtype or weights.source_dtype(source)
  # Decoding in training stops at this token, so other engines have to, too.
  stops = tuple(dict.fromkeys((*config.eos_ids, end.id)))
  weights.save(
      out, dataclasses.replace(config, eos_ids=stops), params, source=source,
      tokenizer=tokenizer, dtype=dtype, **options)
  processes.from_first(
      _write_card, out, folder, found, step=step, chosen=chosen, dtype=dtype)
  return dtype


def write_adapter(
    out: Any, adapters: lora.Adapters, *, config: model.ModelConfig, path: str
) -> None:
  """Writes a PEFT folder.

  Args:
    out: the folder to write.
    adapters: of a run.
    config: of the base.
    path: model.path of the run, which the folder names as its base.
  """
  source = model_files.model_folder(path)
  here = path in model_files.SHIPPED or pathlib.Path(path).expanduser().is_dir()
  weights.save_adapter(
      out, config, adapters, base=str(pathlib.Path(source).resolve()) if here else path)


def merged(source: str, adapters: lora.Adapters) -> Any:
  """The base of a folder with adapters merged in, for `write`.

  Args:
    source: the Hugging Face folder of the base, read layer by layer.
    adapters: sharded or not.
  """
  _, base = weights.open(source)
  return lora.merge_lazily(base, jax.tree.map(processes.to_host, adapters))


def _write_card(out, folder: epath.Path, found, **facts) -> None:
  config = json.loads((folder / 'config.json').read_text())
  file = folder / workdir.COMMAND
  # A run of an earlier version, or of other code than the commands, has none.
  command = file.read_text().strip() if file.exists() else ''
  storage.publish(
      storage.path(out) / 'README.md',
      report.model_card(config, found, command=command, **facts))
