"""Peak rates and memory of TPU chips, by name."""

import re
from typing import NamedTuple

from ddt_jax import errors


class Chip(NamedTuple):
  """One chip, by the figures of its maker.

  Attributes:
    flops: FLOPs per second of matrix products in bfloat16.
    bandwidth: bytes per second of the main memory (HBM).
    hbm: bytes of main memory that a program may use.
  """

  flops: float
  bandwidth: float
  hbm: float


_GIB = 2**30
CHIPS = {
    'v5e': Chip(197e12, 0.82e12, 15.75 * _GIB),
    'v5p': Chip(459e12, 2.77e12, 95.0 * _GIB),
    'v6e': Chip(918e12, 1.64e12, 31.25 * _GIB),
}


def of(topology: str) -> Chip:
  """The chip of a topology, e.g. of v5e:4x8.

  Raises:
    InputError: the chip is not in the table.
  """
  name, _, sizes = topology.partition(':')
  if name not in CHIPS or not re.fullmatch(r'\d+(x\d+){0,2}', sizes):
    raise errors.InputError(
        f'--topology={topology}: write one of {", ".join(CHIPS)}, a colon and the'
        ' number of chips along each axis, e.g. v5e:4x8 or v5p:2x2x2'
        f'{errors.did_you_mean(name, CHIPS) if name not in CHIPS else ""}')
  return CHIPS[name]


def host_bounds(topology: str) -> tuple[int, int, int]:
  """Chips of one host along each axis: 2x2x1, or less in a smaller slice."""
  sizes = [int(n) for n in topology.partition(':')[2].split('x')]
  x, y, *_ = *sizes, 1, 1
  return min(x, 2), min(y, 2), 1
