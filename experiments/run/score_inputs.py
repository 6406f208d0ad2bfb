"""Inputs of the score command, checked before any work."""

from collections.abc import Mapping
import dataclasses
import functools
import sys
from typing import Any

import jax

from configs import score
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.data import buckets
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.engine import cache_plan
from ddt_jax.scoring import controls
from ddt_jax.scoring import filters
from ddt_jax.scoring import forward
from ddt_jax.scoring import sample_size
from ddt_jax.scoring import sources
from experiments.run import adapters
from experiments.run import inputs
from experiments.run import model_files

OWN = 'own'  # stands for the model's own samples among the inputs


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Inputs of scoring, checked before any work.

  Attributes:
    mesh, tokenizer, config, params: the model, and the mesh of scoring.
    files: name -> rows, in the user's order; None for own samples.
    problems: the prompts that own samples answer.
    max_tokens: of prompt and response together.
    dispatch: (params, examples=...) -> Pending, see `forward.dispatch`.
    decoding: options of `engine.generate`.
  """

  mesh: jax.sharding.Mesh
  tokenizer: Any
  config: model.ModelConfig
  params: Any
  files: dict[str, sources.File | None]
  problems: list[records.Problem]
  max_tokens: int
  dispatch: controls.Dispatch
  decoding: dict[str, Any]


def stem(name: str) -> str:
  """The name of an input as part of a folder's name."""
  # org/name:config:split of the hub: not every file system takes a colon.
  return storage.path(name).stem.replace(':', '-')


def input_names(c) -> list[str]:
  """Paths of the inputs, as the user gave them."""
  names = (c.data.paths or c.data.path).split(',')
  return [name.strip() for name in names if name.strip()]


def columns_given(c) -> list[str]:
  """The options that name columns, where they are not the usual ones."""
  usual = score.get_config().data.columns
  return [f'--config.data.columns.{name}={column}'
          for name, column in c.data.columns.items() if column != usual[name]]


def make(c) -> Inputs:
  """Reads the model and looks through the files.

  Raises:
    errors.InputError: an option, the model or a file cannot be used.
  """
  mesh = sharding.make_mesh(**c.mesh)
  names = input_names(c)
  check_options(c, names)
  tokenizer, config, params, *_ = inputs.load_adapted(
      c, mesh, model_files.model_folder(c.model.path))
  end = chat.turn_end(tokenizer, config.eos_ids)
  max_tokens = c.data.max_tokens or config.max_positions
  inputs.check_positions(max_tokens, config)
  paths = [name for name in names if name != OWN]
  short = [storage.path(path).name for path in paths]
  # Prompts of own samples are drawn from all files alike.
  most = c.own.samples
  if c.calibrate:
    most = max(most, c.calibration.samples or sample_size.MOST)
  sample = -(-most // max(len(paths), 1))
  files = {}
  for name in names:
    if name == OWN:
      files[name] = None
      continue
    alone = storage.path(name).name
    files[name if short.count(alone) > 1 else alone] = open_file(
        c, name, sample, tokenizer=tokenizer, end=end,
        vocab_size=config.vocab_size, max_tokens=max_tokens)
  check_source(c.data.source, files)
  prompts = [p for file in files.values() if file for p in file.found.sample]
  if OWN in names or c.calibrate:
    prompts = inputs.renderable(tokenizer, prompts, c.data.bad_rows)
  # The self-test may ask anything: it judges no data.
  if not prompts and (c.model.path == 'embedded' or not names):
    prompts = list(problems.problems('validation', 500))
  if not prompts:
    raise errors.InputError(
        'own samples answer the prompts of your files: name a file in'
        ' --config.data.paths too')
  # Rows are spread over these axes; devices of the tensor axis share a row.
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  dispatch = functools.partial(
      forward.dispatch, config=config, mesh=mesh, batch=devices,
      tokens=c.batch.tokens * devices, temperature=c.temperature)
  needed = memory(c, mesh, config, params, max_tokens)
  if processes.is_first():
    # Not into the report: free memory differs from call to call.
    print(needed, file=sys.stderr)
  return Inputs(
      mesh, tokenizer, config, params, files, prompts, max_tokens, dispatch,
      inputs.decoding_options(mesh, config, end, **c.decoding))


def memory(
    c, mesh: jax.sharding.Mesh, config: model.ModelConfig, params: Any,
    max_tokens: int
) -> str:
  """Says how much memory scoring takes on each device.

  Raises:
    errors.InputError: it is more than there is.
  """
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  time = buckets.padded_length(max(min(max_tokens, c.batch.tokens) - 1, 1))
  rows = max(c.batch.tokens // time, 1) * devices
  needed = forward.memory(
      params, config, mesh, rows=rows, time=time, temperature=c.temperature,
      tail=True)
  own = sum(
      x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
  free = cache_plan.free_bytes()
  said = (
      f'scoring takes {needed / 2**30:.2f} GiB beside {own / 2**30:.2f} GiB of parameters'
      f' on each device; {free / 2**30:.2f} GiB are free. It is for'
      f' {rows * time // devices:,} tokens in one forward, see'
      ' --config.batch.tokens; a longer text takes more')
  if needed > free:
    raise errors.InputError(f'{said}. Lower --config.batch.tokens')
  return said


def check_options(c, names: list[str]) -> None:
  """Raises errors.InputError naming an option that cannot be used."""
  if not names and not c.calibrate:
    raise errors.InputError(
        'nothing to score: --config.data.path=FILE, or --config.data.paths=A,B,own')
  if len(set(names)) < len(names):
    raise errors.InputError(
        f'data.paths names an input twice: {", ".join(names)}')
  adapters.check_applied(**c.lora)
  if c.write.keep:
    filters.check(c.write.keep)
  if c.temperature <= 0:
    raise errors.InputError(f'temperature must be positive, not {c.temperature}')
  for name, value in (
      ('own.samples', c.own.samples), ('shard', c.shard),
      ('batch.tokens', c.batch.tokens)):
    if value < 1:
      raise errors.InputError(f'{name}={value}: at least 1')
  # One text has no spread.
  if c.calibration.samples < 0 or c.calibration.samples == 1:
    raise errors.InputError(
        f'calibration.samples={c.calibration.samples}: at least 2, or 0 for as many'
        ' as calibration.minutes allow')
  if not c.calibration.minutes > 0:
    raise errors.InputError(
        f'calibration.minutes={c.calibration.minutes}: above 0')
  lengths = c.calibration.lengths
  if not lengths or not all(isinstance(n, int) and n > 0 for n in lengths):
    raise errors.InputError(
        f'calibration.lengths={lengths}: numbers of tokens, e.g. (16,64)')


def check_source(column: str, files: Mapping[str, sources.File | None]) -> None:
  """Raises InputError for a column of sources that the user named and no file has."""
  there = {name for file in files.values() if file for name in file.found.types}
  # By default files without such a column are one source each.
  if there and column not in ('', 'source', *there):
    raise errors.InputError(
        f'data.source={column!r}: no file has this column; there are'
        f' {", ".join(sorted(there))}{errors.did_you_mean(column, there)}')


def open_file(
    c, path: str, sample: int, **model_options: Any
) -> sources.File:
  """Counts the rows of a file and keeps a sample of its problems.

  Args:
    c: the config.
    path: of the file.
    sample: problems to keep.
    **model_options: tokenizer, end, vocab_size and max_tokens of `sources.File`.
  """
  # Nothing is verified here, and two rows may have the same id.
  columns = c.data.columns.to_dict() | {'answer': '', 'id': ''}
  reading = {'question': c.data.question}
  found = census.take(
      path, columns=columns, bad_rows=c.data.bad_rows, sample=sample,
      seed=c.seed, **reading)
  print(f'{path}: {found.rows:,} rows, {found.bad:,} of them bad', flush=True)
  return sources.File(
      path, columns, reading, found, overlong=c.data.overlong,
      bad_rows=c.data.bad_rows, split_turns=c.data.split_turns, **model_options)
