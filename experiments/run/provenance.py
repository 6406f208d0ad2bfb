"""Versions and devices of a run, for its report."""

import importlib.metadata
import pathlib
import subprocess

import jax

import ddt_jax
from ddt_jax.report import results

_ROOT = pathlib.Path(ddt_jax.__file__).parents[1]


def machine() -> results.Machine:
  """Versions and devices of this process."""
  kinds = [device.device_kind for device in jax.devices()]
  devices = ', '.join(
      f'{kinds.count(kind)} x {kind}' for kind in dict.fromkeys(kinds))
  if jax.process_count() > 1:
    devices += f' in {jax.process_count()} processes'
  return results.Machine(
      devices=devices,
      versions=f'ddt_jax {version()}, jax {jax.__version__}')


def version() -> str:
  """The installed version and, of a clone, its commit."""
  try:
    found = importlib.metadata.version('ddt_jax')
  except importlib.metadata.PackageNotFoundError:
    found = ''  # not installed: python -m experiments.x in a clone
  return ' '.join(filter(None, [found, commit()])) or 'not installed'


def commit() -> str:
  """Commit of the clone, '-dirty' with changes; '' where there is no clone."""
  if not (_ROOT / '.git').exists():
    return ''
  try:
    done = subprocess.run(
        ['git', '-C', _ROOT, 'describe', '--always', '--dirty', '--exclude=*'],
        capture_output=True, text=True, timeout=20, check=True)
  except (OSError, subprocess.SubprocessError):
    return ''
  return f'commit {done.stdout.strip()}'
