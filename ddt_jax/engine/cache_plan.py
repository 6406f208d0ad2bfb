"""Sizes of the decoding cache: slots, columns, bytes; refused if they do not fit."""

from collections.abc import Sequence
import pathlib
import sys
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax.engine import request

# A decode step reads the weights once for all slots: more slots, fewer bytes a token.
DEFAULT_SLOTS = 256
_MEMINFO = pathlib.Path('/proc/meminfo')


def bucket(length: int) -> int:
  """Rounds a length up to 16, 24, 32, 48, 64, 96, ..., for few compiled shapes.

  Example:
    >>> [bucket(n) for n in (1, 17, 25, 1000)]
    [16, 24, 32, 1024]
  """
  # Two sizes per octave: beyond 16, less than a third of the columns is padding.
  power = 1 << max(length - 1, 15).bit_length()  # 16, 32, 64, ...
  between = power * 3 // 4  # 24, 48, 96, ...
  return between if between >= max(length, 24) else power


class Plan(NamedTuple):
  """Sizes of the cache.

  Attributes:
    slots: S, requests decoded together.
    queue: Q, prefilled requests that wait on the device.
    widths: P of each stream, columns for its prompts.
    ring: R, columns for new tokens.
    bytes: of keys and values on one device, slots and queue together.
  """

  slots: int
  queue: int
  widths: tuple[int, ...]
  ring: int
  bytes: int

  def __str__(self) -> str:
    return (
        f'{self.slots} slots and {self.queue} queued requests, prompts of up to'
        f' {" + ".join(map(str, self.widths))} and {self.ring} new tokens:'
        f' {self.bytes / 2**30:.2f} GiB of keys and values on each device'
    )


def plan(
    config: model.ModelConfig,
    requests: Sequence[request.Request],
    *,
    slots: int | None = None,
    dtype: Any,
    mesh: Mesh,
) -> Plan:
  """Returns sizes of the cache that serves these requests.

  The queue should last for 64 decode steps, if responses are on average a quarter
  as long as the longest may be.

  Args:
    config: the model.
    requests: all with the same number of streams.
    slots: most requests decoded together; default 256.
    dtype: of keys and values.
    mesh: for decoding. Its devices must hold the parameters already: the cache
      may take all memory that is free now.

  Raises:
    InputError: the cache does not fit. The message names the number of slots
      that would.
  """
  # As long as the longest response: the ring then never overwrites a live token.
  ring = max(r.limit for r in requests)
  streams = zip(*(r.contexts for r in requests), strict=True)
  # The last token of a prompt is not prefilled: the first decode step reads it.
  widths = tuple(bucket(max(map(len, s)) - 1) for s in streams)
  row_devices = mesh.shape['data'] * mesh.shape['fsdp']  # they share the slots
  column = jax.eval_shape(lambda: model.init_cache(config, 1, 1, dtype))
  bytes_per_column = sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves((column.k, column.v)))
  # As in `loop_state.shardings`: heads that do not divide are replicated.
  if config.num_kv_heads % mesh.shape['tensor'] == 0:
    bytes_per_column //= mesh.shape['tensor']

  def sized(n):
    # Each device holds the same number of slots.
    n = -(-n // row_devices) * row_devices
    # A response of ring / 4 tokens frees its slot, so n slots admit 256 n / ring
    # requests in 64 steps. At most 4 n, to bound the memory.
    queue = max(1, min(len(requests), 4 * n, -(-256 * n // ring)))
    columns = n // row_devices * (sum(widths) + len(widths) * ring)
    columns += queue * sum(widths)  # the queue is on every device whole
    return Plan(n, queue, widths, ring, columns * bytes_per_column)

  wanted = sized(min(slots or DEFAULT_SLOTS, len(requests)))
  free = free_bytes()
  if mesh.is_multi_process:
    # The minimum over processes: otherwise one raises and the others wait for it.
    # float32: without x64, JAX would cut int64 to int32, which ends at 2 GiB.
    every = multihost_utils.process_allgather(np.float32(free))
    free = int(np.min(every))
  if wanted.bytes > free:
    # Tried one by one: the queue's size depends on n, so bytes are not linear in it.
    fits = next(
        (n for n in range(wanted.slots, 0, -row_devices)
         if sized(n).bytes <= free), 0)
    raise errors.InputError(
        f'{wanted}; {free / 2**30:.2f} GiB are free, enough for {fits} slots; set'
        f' decoding.slots={fits}' if fits else
        f'{wanted}; {free / 2**30:.2f} GiB are free, not enough for one slot a'
        ' device; lower max_new_tokens or use more devices'
    )
  return wanted


def free_bytes() -> int:
  """Free memory of a local device in bytes; of the host for a CPU device."""
  stats = jax.local_devices()[0].memory_stats()
  if stats is None:  # CPU devices report none
    if not _MEMINFO.exists():  # not Linux: unknown, so nothing is refused
      return sys.maxsize
    # MemAvailable, not MemFree: the kernel gives its file cache back on demand.
    lines = dict(x.split(':') for x in _MEMINFO.read_text().splitlines())
    return int(lines['MemAvailable'].split()[0]) * 1024
  return stats['bytes_limit'] - stats['bytes_in_use']
