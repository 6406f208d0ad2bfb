"""LoRA in a run: the adapters that a config asks for, and the base below them."""

from typing import Any

import jax
import numpy as np

from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from experiments.run import workdir


def check(*, rank: int, alpha: float, targets: str, rslora: bool, path: str) -> None:
  """Raises errors.InputError naming an option of the section `lora`."""
  del alpha, rslora  # alpha has a range
  lora.parse_targets(targets)
  if path and not rank:
    raise errors.InputError(
        f'lora.path={path!r} with lora.rank=0: adapters are off. Set'
        ' --config.lora.rank to the r of the folder\'s adapter_config.json')


def check_applied(**options: Any) -> None:
  """Raises errors.InputError where adapters are fresh in a command that trains none."""
  check(**options)
  if options['rank'] and not options['path']:
    raise errors.InputError(
        f'lora.rank={options["rank"]} without lora.path: fresh adapters change'
        ' nothing. Name the PEFT folder, e.g. --config.lora.path=runs/NAME/adapter')


def start(
    config: model.ModelConfig, mesh: jax.sharding.Mesh, *, seed: int, rank: int,
    path: str, **options: Any,
) -> lora.Adapters:
  """Adapters at the beginning of a run, sharded as the parameters are.

  Args:
    config: of the base.
    mesh: of training.
    seed: of fresh adapters.
    rank, **options: see `lora.init`.
    path: PEFT folder to read them from; '' for fresh ones.

  Raises:
    errors.InputError: the folder cannot be read, or the options are not its own.
  """
  if path:
    found = weights.load_adapter(path, config)
    _check_fits(path, found, rank=rank, **options)
  else:
    found = lora.init(config, jax.random.key(seed), rank=rank, **options)

  def placed(x, where):
    # Every process has the same numbers, and takes the shards of its devices.
    return jax.make_array_from_callback(x.shape, where, np.asarray(x).__getitem__)

  return jax.tree.map(placed, found, sharding.tree_shardings(found, mesh))


def described(found: lora.Adapters, base: Any) -> str:
  """Says in one line what is trained on what."""
  size = sum(x.size for x in jax.tree.leaves(base))
  return (f'LoRA of rank {found.rank}: {lora.count(found):,} values on {size:,} frozen'
          f' parameters, in {", ".join(name for name, *_ in found)}')


def _check_fits(
    path: str, found: lora.Adapters, *, rank: int, alpha: float, targets: str,
    rslora: bool,
) -> None:
  """Raises where the options differ from those of a folder."""
  theirs = {
      'rank': found.rank, 'alpha': found.alpha, 'rslora': found.rslora,
      'targets': ','.join(name for name, *_ in found)}
  ours = {
      'rank': rank, 'alpha': alpha, 'rslora': rslora,
      'targets': ','.join(lora.parse_targets(targets))}
  if wrong := [name for name in theirs if theirs[name] != ours[name]]:
    raise errors.InputError(
        f'lora.path={path!r} holds adapters with other options than the config;'
        ' set ' + ' '.join(f'--config.lora.{n}={theirs[n]}' for n in wrong))


def check_base(files: workdir.Workdir, found: str) -> None:
  """Refuses another base than the one that a run was started from.

  A checkpoint holds adapters alone, so the base is read again on resuming.

  Args:
    files: of the run.
    found: fingerprint of the base, and of the adapters that the run starts from.

  Raises:
    errors.InputError: the run was started from another one.
  """
  kept = files.once('base', lambda: {'fingerprint': found})['fingerprint']
  if kept != found:
    raise errors.InputError(
        f'{files.path} was started from another base, or from other adapters in'
        f' lora.path (fingerprint {kept}, now {found}): put those back, or choose'
        ' another --workdir')
