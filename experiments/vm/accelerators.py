"""Accelerator types such as v5litepod-16: hosts, runtime version, machine type."""

import re
from typing import NamedTuple

from ddt_jax import errors


class Generation(NamedTuple):
  """One generation of TPUs.

  Attributes:
    runtime: runtime version of its TPU VMs; '' if queued resources lack it.
    host: the number in the type's name that fills one host of a slice: chips, or
      cores where the name counts cores.
    alone: the largest number in the name that is still one host.
    machine: machine type on Compute Engine up to the number of chips; '' if this
      package does not know it.
    image: image family there.
    cores: how many the name counts for one chip.
    topologies: chips along each axis of a slice of several hosts, by number in the
      name; Compute Engine asks for it.
  """

  runtime: str
  host: int
  alone: int
  machine: str = ''
  image: str = ''
  cores: int = 1
  topologies: dict[int, str] = {}


_V4 = 'tpu-ubuntu2204-base'
# https://docs.cloud.google.com/tpu/docs/runtimes and .../tpu/docs/v5e, v5p, v6e, ...
GENERATIONS = {
    'v2': Generation(_V4, 8, 8),
    'v3': Generation(_V4, 8, 8),
    'v4': Generation(_V4, 8, 8),
    'v5litepod': Generation('v2-alpha-tpuv5-lite', 4, 8),
    'v5p': Generation('v2-alpha-tpuv5', 8, 8),
    'v6e': Generation(
        'v2-alpha-tpuv6e', 4, 8, 'ct6e-standard',
        'ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e', 1,
        {16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}),
    'tpu7x': Generation(
        '', 8, 8, 'tpu7x-standard', 'ubuntu-accel-2404-amd64-tpu-tpu7x', 2,
        {16: '2x2x2', 32: '2x2x4', 64: '2x4x4', 128: '4x4x4'}),
}
_ALIASES = {'v5e': 'v5litepod', 'v5lite': 'v5litepod', 'v7x': 'tpu7x'}


class Accelerator(NamedTuple):
  """An accelerator type.

  Attributes:
    name: as gcloud knows it.
    generation: of its chips.
    size: the number in its name.
  """

  name: str
  generation: Generation
  size: int

  @property
  def hosts(self) -> int:
    """Number of hosts; each runs one process."""
    if self.size <= self.generation.alone:
      return 1
    return -(-self.size // self.generation.host)

  @property
  def machine(self) -> str:
    """Compute Engine's machine type of one host."""
    chips = (self.size if self.hosts == 1 else self.generation.host)
    return f'{self.generation.machine}-{chips // self.generation.cores}t'


def parse(name: str) -> Accelerator:
  """Reads an accelerator type.

  Args:
    name: generation and size, e.g. v5litepod-16, v4-8, v6e-8.

  Raises:
    InputError: the generation is unknown or the size is not a number.

  Example:
    >>> parse('v5litepod-16').hosts, parse('v4-8').hosts, parse('v6e-8').machine
    (4, 1, 'ct6e-standard-8t')
  """
  found = re.fullmatch(r'(\w+)-([1-9]\d*)', name)
  if found and found[1] in GENERATIONS:
    return Accelerator(name, GENERATIONS[found[1]], int(found[2]))
  hint = ''
  if found and (near := _ALIASES.get(found[1]) or errors.nearest(
      found[1], GENERATIONS)):
    hint = f'; did you mean {near}-{found[2]}?'
  raise errors.InputError(
      f'--type={name}: write one of {", ".join(GENERATIONS)}, a hyphen and the size,'
      f' e.g. v5litepod-16{hint}')
