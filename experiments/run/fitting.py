"""Chooses what a config leaves open, and refuses a run that no device can hold.

A preset cannot know the devices. It leaves some fields open: their values in
`OPEN`. They are chosen here, before the model is loaded, and written into the
config: the start prints them, and config.json of the run has them.
"""

import dataclasses

import jax

from configs import idft
from configs import presets
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax.weights import names
from experiments.run import checks
from experiments.run import footprint
from experiments.run import model_files
from experiments.run.checks import OPEN

# The paper's rates by the data and the loss, for full fine-tuning of 7B.
GIVEN, HINTED = 6e-5, {'sft': 1e-6, 'idft': 8e-6}
OTHERS = {'dpo': 1e-6, 'simpo': 1e-6, 'distill': 1e-6}
ADAPTERS = 10  # times the rate, where adapters alone are trained
_SHARE = 0.92  # of the memory that an estimate may fill
_MOST_SLOTS, _ENOUGH_SLOTS = 256, 64


def prepare(c, *, trains: bool = True) -> jax.sharding.Mesh:
  """Checks a config's options, chooses those left open, and prints the plan.

  Nothing is downloaded for a model whose shape is known.

  Args:
    c: the config; its open fields are filled in.
    trains: refuse what does not fit in training.

  Returns:
    The mesh of training.

  Raises:
    errors.InputError: an option cannot be used, or training cannot fit.
  """
  mesh = sharding.make_mesh(**c.mesh)
  checks.check_options(c, mesh)
  if c.model.path == 'embedded' and not is_open(c, *OPEN):
    return mesh  # it fits anywhere
  config, limit = model_files.shape(c.model.path), capacity()
  notes = like_the_student(c)
  notes += choose(c, config, mesh, limit)
  if c.model.path != 'embedded' and processes.is_first():
    print(describe(c, config, mesh, limit, notes), flush=True)
  if trains:
    refuse(c, config, mesh, limit)
  return mesh


def capacity() -> int | None:
  """Bytes that a local accelerator gives to programs; None for a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  return stats and stats.get('bytes_limit')


def rate(c) -> tuple[float, str]:
  """The paper's learning rate for what a config trains on, and where it is from."""
  if c.loss.name in OTHERS:
    found, why = OTHERS[c.loss.name], f'of TRL for {c.loss.name}; the paper has none'
  elif not c.hint.enabled:
    found, why = GIVEN, 'the paper\'s on given solutions and on own samples'
  elif c.loss.name in HINTED:
    found, why = HINTED[c.loss.name], f'the paper\'s of {c.loss.name} on hinted data'
  else:
    found, why = HINTED['idft'], (
        f'of idft on hinted data; the paper has none of {c.loss.name}')
  if (adapters := c.get('lora', {})) and adapters.rank:
    found, why = ADAPTERS * found, f'{ADAPTERS} times {why}, for adapters'
  return found, why


def choose(
    c, config: model.ModelConfig, mesh: jax.sharding.Mesh, limit: int | None
) -> list[str]:
  """Fills in the open fields of a config, in place.

  Args:
    c: the training config.
    config: the model's shape.
    mesh: of training.
    limit: bytes of a device; None: unknown, so the least memory is chosen.

  Returns:
    A line on each choice.
  """
  said = []
  if c.optim.lr == OPEN['optim.lr']:
    c.optim.lr, why = rate(c)
    said.append(f'optim.lr={c.optim.lr:g}: {why}')
  if is_open(c, 'model.remat', 'train.micro_batches'):
    for remat, parts in _ways_to_train(c, config, mesh):
      c.model.remat, c.train.micro_batches = remat, parts
      need = footprint.training(c, shaped(c, config), mesh)
      if limit and sum(need.values()) < _SHARE * limit:
        break
    said.append(
        f'model.remat={c.model.remat}, train.micro_batches={c.train.micro_batches}:'
        + (' the least recomputation that fits' if limit else ' the least memory'))
  if is_open(c, 'decoding.slots', 'decoding.tensor'):
    c.decoding.tensor, c.decoding.slots = _ways_to_decode(c, config, mesh, limit)
    said.append(
        f'decoding.tensor={c.decoding.tensor}, decoding.slots={c.decoding.slots}')
  return said


def is_open(c, *fields: str) -> bool:
  """Whether one of these fields is left open."""
  return any(checks.get(c, name) == OPEN[name] for name in fields)


def shaped(c, config: model.ModelConfig) -> model.ModelConfig:
  """The model's shape with the dtype and the remat of a config."""
  remat = 'full' if is_open(c, 'model.remat') else c.model.remat
  return dataclasses.replace(
      config, dtype=checks.DTYPES[c.model.dtype], remat=remat)


def _ways_to_train(c, config, mesh) -> list[tuple[str, int]]:
  """(remat, micro-batches) from the fastest to the one with the least memory."""
  rows = max(1, c.train.batch // (mesh.shape['data'] * mesh.shape['fsdp']))
  parts = [n for n in range(1, rows + 1) if rows % n == 0]
  if c.train.micro_batches != OPEN['train.micro_batches']:
    parts = [c.train.micro_batches]
  remats = [c.model.remat]
  if remats == [OPEN['model.remat']]:
    # Sliding and full layers are two branches, and `dots` keeps what both need.
    remats = ['full'] if config.window else ['dots', 'full']
  return [(remat, n) for remat in remats for n in parts]


def _ways_to_decode(c, config, mesh, limit: int | None) -> tuple[int, int]:
  """(tensor, slots): the fewest devices for the heads with enough slots."""
  config, best = shaped(c, config), None
  for tensor in range(1, mesh.size + 1):
    if mesh.size % tensor or c.decoding.tensor not in (OPEN['decoding.tensor'], tensor):
      continue
    rows = mesh.size // tensor
    slots = -(-(_MOST_SLOTS if limit else _ENOUGH_SLOTS) // rows) * rows
    while limit and slots > rows and sum(footprint.decoding(
        c, config, mesh, tensor=tensor, slots=slots).values()) > _SHARE * limit:
      slots = max(rows, slots // 2 // rows * rows)
    if c.decoding.slots != OPEN['decoding.slots']:
      slots = c.decoding.slots
    if best is None or slots > best[1]:
      best = tensor, slots
    if slots >= _ENOUGH_SLOTS:
      break
  return best


def describe(
    c, config: model.ModelConfig, mesh: jax.sharding.Mesh, limit: int | None,
    notes: list[str]
) -> str:
  """What a run on a real model will do, and the memory that it needs.

  Args:
    c: the training config, with nothing left open.
    config, mesh, limit: see `choose`.
    notes: further lines, of `choose` and `like_the_student`.
  """
  size = sum(x.size for x in jax.tree.leaves(names.abstract(config)))
  rows, kind = c.train.batch, 'packed rows' if c.train.pack else 'examples'
  lines = [
      f'model     {c.model.path}: {size:,} parameters ({config.model_type}), computed'
      f' in {c.model.dtype}, remat {c.model.remat}',
      f'devices   {mesh.size} {mesh.devices.flat[0].device_kind}'
      f' ({", ".join(f"{a}={n}" for a, n in mesh.shape.items())})',
      f'training  {c.loss.name} at {c.optim.lr:g}: {c.rounds} round(s) of'
      f' {c.train.epochs} epoch(s); a step is {rows} {kind} of up to'
      f' {c.data.max_tokens:,} tokens, {rows * c.data.max_tokens:,} in all, in'
      f' {c.train.micro_batches} micro-batch(es)',
      f'decoding  {c.decoding.slots} slots, heads over {c.decoding.tensor} device(s);'
      f' answers of up to {c.curate.max_new_tokens:,} tokens'
      + (f'; hints by the template {c.hint.template}' if c.hint.enabled else ''),
  ]
  for part, need in needs(c, config, mesh).items():
    of = '' if limit is None else f' of {limit / 2**30:.2f}'
    lines.append(
        f'memory    {part}: about {sum(need.values()) / 2**30:.2f}{of} GiB a device ('
        + ', '.join(f'{k} {v / 2**30:.2f}' for k, v in need.items()) + ')')
  if limit is None:
    notes = [*notes, 'these devices do not report their memory: whether the run fits'
             ' is not checked']
  return '\n'.join([*lines, *(f'note      {line}' for line in notes)])


def needs(
    c, config: model.ModelConfig, mesh: jax.sharding.Mesh
) -> dict[str, footprint.Bytes]:
  """Bytes of a device by category, of each part of a run."""
  config = shaped(c, config)
  found = {'training': footprint.training(c, config, mesh)}
  if c.hint.enabled or c.curate.samples or c.evaluation.problems:
    found['decoding'] = footprint.decoding(
        c, config, mesh, tensor=c.decoding.tensor, slots=c.decoding.slots)
  return found


def refuse(
    c, config: model.ModelConfig, mesh: jax.sharding.Mesh, limit: int | None
) -> None:
  """Raises InputError where training cannot fit; names the fields that would help.

  Decoding has a plan of its own, `engine.cache_plan`, which knows the prompts.

  Args:
    c, config, mesh, limit: see `describe`.
  """
  need = sum(footprint.training(c, shaped(c, config), mesh).values())
  if limit is None or need <= limit:
    return
  rows = mesh.shape['data'] * mesh.shape['fsdp']
  knobs = [
      'more devices (--config.mesh.fsdp=-1 spreads the parameters over all)',
      *(['--config.model.remat=full'] if c.model.remat != 'full' else []),
      *([f'--config.train.micro_batches={c.train.batch // rows}']
        if c.train.batch // rows > c.train.micro_batches else []),
      f'--config.train.batch={rows}' if c.train.batch > rows else '',
      f'--config.data.max_tokens={c.data.max_tokens // 2}',
      '--config.lora.rank=16' if 'lora' in c and not c.lora.rank else '',
  ]
  raise errors.InputError(
      f'training needs about {need / 2**30:.1f} GiB a device, and there are'
      f' {limit / 2**30:.1f}; it may fit with {"; ".join(filter(None, knobs))}')


def like_the_student(c) -> list[str]:
  """A line on fields that suit another model or other data; none if there are none.

  Args:
    c: the config of a real model, before `choose`.
  """
  name = presets.of_model(c.model.path)
  sums = idft.get_config('smollm2')
  if c.data.path and c.data.marker == sums.data.marker:
    return [
        f'as for small sums: data.marker={c.data.marker!r},'
        f' curate.max_new_tokens={c.curate.max_new_tokens},'
        f' curate.fallback={c.curate.fallback}; for data of your own, --config'
        f' FILE:real --config.model.path={c.model.path}']
  if name == 'smollm2' and c.data.path:
    name = 'real'
  fields = _flat(idft.get_config().to_dict())
  preset = _flat(idft.get_config(name).to_dict())
  differ = [k for k, v in preset.items() if v != fields[k]]
  same = [f'{k}={fields[k]}' for k in differ if checks.get(c, k) == fields[k]]
  # With a preset, what is like the student's was set so by hand.
  if 2 * len(same) < len(differ):
    return []
  return [
      f'as for the embedded student: {", ".join(same)}; --config FILE:{name} has'
      ' values for this model'] if same else []


def _flat(tree, prefix: str = ''):
  """Dotted name -> value."""
  found = {}
  for key, value in tree.items():
    found |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {
        f'{prefix}{key}': value}
  return found
