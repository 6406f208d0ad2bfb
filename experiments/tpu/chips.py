"""What a TPU can do, by the first part of a topology's name."""

from typing import NamedTuple


class Chip(NamedTuple):
  """Of one chip, by its maker.

  Attributes:
    flops: a second, of matrix products in bfloat16.
    bandwidth: bytes a second of the main memory (HBM).
    hbm: bytes of it that a program may use.
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
  """The chip of e.g. v5e:4x8.

  Raises:
    ValueError: it is not in the table.
  """
  name = topology.partition(':')[0]
  if name not in CHIPS or not topology.partition(':')[2]:
    raise ValueError(
        f'topology {topology!r}: one of {", ".join(CHIPS)}, a colon and the'
        ' chips along each axis, e.g. v5e:4x8 or v5p:2x2x2'
    )
  return CHIPS[name]


def host_bounds(topology: str) -> tuple[int, int, int]:
  """Chips of a host along each axis: 2x2x1, or fewer where the slice has."""
  sizes = [int(n) for n in topology.partition(':')[2].split('x')]
  x, y, *_ = *sizes, 1, 1
  return min(x, 2), min(y, 2), 1
