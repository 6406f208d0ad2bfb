r"""A run's model as a Hugging Face folder, for transformers, vLLM and others.

python -m experiments.export --workdir runs/idft --out model
python -m experiments.export --workdir DIR --out OUT --checkpoint=best \
    --dtype=bfloat16 --file_gb=2
python -m experiments.export --workdir DIR --out OUT --adapter

Reads a checkpoint tensor by tensor, so a large model needs little memory. The run
may be unfinished, or still be training. Of a run with LoRA the adapters are merged
into the base, which is read from its source; with --adapter they are written alone,
as a PEFT folder. The folder has a model card.
"""

import json
import math
from typing import Any

from absl import flags
from etils import epath
import jax
import numpy as np

from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.report import results
from ddt_jax.training import checkpoint
from experiments.run import checks
from experiments.run import exporting
from experiments.run import lifecycle
from experiments.run import model_files

_FOLDERS = {'last': 'checkpoints', 'best': 'best'}
_MISSING = {
    'last': 'checkpoint yet: the run saves one every checkpoint.every steps, and at'
            ' the end of a round',
    'best': 'best checkpoint: a run keeps it with --config.checkpoint.export=best'
            ' and validation data; --checkpoint=last exports the newest parameters',
}

_OTHER_SHAPES = (
    '{}, the base model of the run, has other shapes than its checkpoint: put the'
    ' model there that the run was started from')


def run(
    folder: epath.Path, out: epath.Path, *, chosen: str | None = None,
    dtype: str | None = None, file_gb: float = 5, adapter: bool = False,
) -> str:
  """Exports a run's parameters; see the flags.

  Returns:
    A line that says what was written.

  Raises:
    errors.InputError: the folder holds no run or no checkpoint, its base model is
      not there, or `out` is not empty.
  """
  if not (folder / 'config.json').exists():
    raise errors.InputError(
        f'--workdir={folder} holds no run: there is no config.json')
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise errors.InputError(
        f'--out={out} is not empty: choose another folder, or remove it')
  c = json.loads((folder / 'config.json').read_text())
  adapted = c.get('lora', {}).get('rank')
  if adapter and not adapted:
    raise errors.InputError(
        f'--adapter: {folder} trained all parameters, its lora.rank is 0')
  # The base first: a large checkpoint is read whole to check it for damage.
  source = model_files.model_folder(c['model']['path'])
  config = model_files.with_generation_eos(weights.check_folder(source), source)
  tokenizer = model_files.load_tokenizer(source)
  measured = _measured(folder, c)
  chosen = chosen or measured
  kept = checkpoint.Checkpoints(folder, _FOLDERS[chosen])
  opened = kept.open('params')
  if opened is None:
    raise errors.InputError(f'{folder} has no undamaged {_MISSING[chosen]}')
  params, progress = opened
  step = progress['step']
  if adapted:
    params = _adapters(params, c['lora'], config, source)
    if adapter:
      exporting.write_adapter(out, params, config=config, path=c['model']['path'])
      return (f'{out}: adapters of rank {params.rank}, {lora.count(params):,} values,'
              f' {chosen} parameters, after step {step:,}')
    params = exporting.merged(source, params)
  config = _fitting(config, params, source)
  file, found = folder / 'results.json', None
  if chosen == measured and file.exists():
    found = results.RunResults.from_json(file.read_text(), file)
  try:
    dtype = exporting.write(
        out, folder, params, config=config, tokenizer=tokenizer, source=source,
        end=chat.turn_end(tokenizer, config.eos_ids),
        found=found, step=step, chosen=chosen, dtype=checks.DTYPES.get(dtype),
        shard_bytes=int(file_gb * 1e9), progress=True)
  except ValueError as e:  # of tensorstore
    if step in kept.steps():
      raise
    raise errors.InputError(
        f'the run has replaced its checkpoint of step {step} meanwhile; remove'
        f' {out} and call again') from e
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  files = len(list(out.glob('model*.safetensors')))
  return (f'{out}: {count:,} parameters in {dtype}, {files} file(s), {chosen}'
          f' parameters, after step {step:,}')


def _measured(folder: epath.Path, c: dict[str, Any]) -> str:
  """Which parameters the run itself measures and exports at its end."""
  best = checkpoint.Checkpoints(folder, _FOLDERS['best'])
  # Without a validation there is no best: the last are the best known.
  wanted = c['checkpoint']['export']
  return 'best' if wanted == 'best' and best.steps() else 'last'


def _adapters(
    stored: Any, options: dict[str, Any], config: model.ModelConfig, source: str
) -> lora.Adapters:
  """The adapters of a checkpoint, read whole.

  Raises:
    errors.InputError: the base has other shapes than they.
  """
  found = lora.Adapters(
      jax.tree.map(np.asarray, stored['layers']), options['rank'], options['alpha'],
      options['rslora'])
  for name, a, b in found:
    if (a.shape[1], b.shape[2]) != lora.shape(config, name):
      raise errors.InputError(_OTHER_SHAPES.format(source))
  return found


def _fitting(
    config: model.ModelConfig, params: dict[str, Any], source: str
) -> model.ModelConfig:
  """The base's config, untied where the run has a head of its own.

  Raises:
    errors.InputError: the base has other shapes than the checkpoint.
  """
  if 'head' in params and config.tied_head:
    config = weights.untied(config)
  shapes = jax.tree.map(lambda x: tuple(x.shape), params)
  expected = jax.tree.map(lambda x: x.shape, weights.abstract(config))
  if shapes != expected:
    raise errors.InputError(_OTHER_SHAPES.format(source))
  return config


def main():
  given = flags.FLAGS
  with lifecycle.explained_errors():
    if given.adapter and given.merged:
      raise errors.InputError('--adapter or --merged, not both')
    for name in ('workdir', 'out'):
      if not given[name].value:
        raise errors.InputError(f'--{name}=DIR is needed')
    print(run(
        storage.path(given.workdir), storage.path(given.out),
        chosen=given.checkpoint, dtype=given.dtype, file_gb=given.file_gb,
        adapter=given.adapter))


if __name__ == '__main__':  # tests import several commands that have --workdir
  flags.DEFINE_string('workdir', '', "The run's folder.")
  flags.DEFINE_string('out', '', 'The folder to write: new or empty.')
  flags.DEFINE_enum(
      'checkpoint', None, ['last', 'best'],
      "Which parameters; default the run's checkpoint.export.")
  flags.DEFINE_enum(
      'dtype', None, sorted(checks.DTYPES),
      "Of the files; default the base model's.")
  flags.DEFINE_float(
      'file_gb', 5, 'Most bytes of a file, in GB (10^9 bytes).', lower_bound=1e-3)
  flags.DEFINE_bool(
      'merged', False, 'Of a run with LoRA: full weights, as by default.')
  flags.DEFINE_bool(
      'adapter', False, 'Of a run with LoRA: its adapters alone, a PEFT folder.')
  lifecycle.launch(main)
