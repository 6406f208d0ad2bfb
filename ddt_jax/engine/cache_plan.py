"""Sizes of a decoding loop's cache: how much memory, and whether it fits."""

from collections.abc import Sequence
import pathlib
import sys
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from ddt_jax import model
from ddt_jax.engine import requests

DEFAULT_SLOTS = 256
_MEMINFO = pathlib.Path('/proc/meminfo')


def bucket(length: int) -> int:
  """The next of 16, 24, 32, 48, 64, 96, ...: few compiled shapes."""
  power = 1 << max(length - 1, 15).bit_length()
  return power * 3 // 4 if 24 <= power * 3 // 4 >= length else power


class Plan(NamedTuple):
  """Sizes of the cache.

  Attributes:
    slots: requests decoded together.
    queue: requests that wait on the device, their prompts read.
    widths: columns for the prompts of each stream.
    ring: columns for new tokens.
    bytes: of keys and values on one device.
  """

  slots: int
  queue: int
  widths: tuple[int, ...]
  ring: int
  bytes: int

  def __str__(self) -> str:
    return (
        f'{self.slots} slots and {self.queue} in waiting, prompts of up to'
        f' {" + ".join(map(str, self.widths))} and {self.ring} new tokens:'
        f' {self.bytes / 1e9:.2f} GB of keys and values on each device'
    )


def plan(
    config: model.ModelConfig,
    asked: Sequence[requests.Request],
    *,
    slots: int | None = None,
    dtype: Any,
    mesh: Mesh,
) -> Plan:
  """Sizes of the cache that serves these requests.

  The queue is long enough for some 64 steps without the host, if responses
  have a quarter of the length they may have.

  Args:
    config: the model.
    asked: the requests, all of as many streams.
    slots: decoded together, at most; default 256.
    dtype: of keys and values.
    mesh: where; what else is to lie there already does.

  Raises:
    ValueError: it does not fit; naming how many slots would.
  """
  ring = max(r.limit for r in asked)
  streams = zip(*(r.prompts for r in asked), strict=True)
  # All but the last token, which is the first to be decoded.
  widths = tuple(bucket(max(map(len, s)) - 1) for s in streams)
  spread = mesh.shape['data'] * mesh.shape['fsdp']
  per_column = (
      2 * config.num_layers * config.num_kv_heads * config.head_dim
      * jnp.dtype(dtype).itemsize
  )
  if config.num_kv_heads % mesh.shape['tensor'] == 0:
    per_column //= mesh.shape['tensor']

  def sized(n):
    n = -(-n // spread) * spread
    queue = max(1, min(len(asked), 4 * n, -(-256 * n // ring)))
    columns = n // spread * (sum(widths) + len(widths) * ring)
    columns += queue * sum(widths)
    return Plan(n, queue, widths, ring, columns * per_column)

  wanted = sized(min(slots or DEFAULT_SLOTS, len(asked)))
  free = _free_bytes()
  if mesh.is_multi_process:  # the least of all: they must decide alike
    every = multihost_utils.process_allgather(np.float32(free))
    free = int(np.min(every))
  if wanted.bytes > free:
    fits = next(
        (n for n in range(wanted.slots, 0, -spread) if sized(n).bytes <= free), 0
    )
    raise ValueError(
        f'{wanted}; {free / 1e9:.2f} GB are free, enough for {fits} slots'
    )
  return wanted


def _free_bytes() -> int:
  stats = jax.local_devices()[0].memory_stats()
  if stats is None:  # the host's own memory
    if not _MEMINFO.exists():
      return sys.maxsize  # only Linux says
    lines = dict(x.split(':') for x in _MEMINFO.read_text().splitlines())
    return int(lines['MemAvailable'].split()[0]) * 1024
  return stats['bytes_limit'] - stats['bytes_in_use']
