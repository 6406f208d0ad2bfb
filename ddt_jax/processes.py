"""Several processes on one run: all take every step, the first reads and writes.

Whatever follows from a file, a clock or a subprocess is decided by the first
process and told to the others, or they would part ways and wait for each other
for ever. Every function here is called by all of them, in the same order. With
one process there is nothing to tell.
"""

from collections.abc import Callable
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


class FirstFailed(RuntimeError):
  """What the first process was to decide ended in an error there."""


def is_first() -> bool:
  return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
  """`make()` as the first process finds it, in every process.

  Args:
    make: called in the first process alone; returns what JSON can say.

  Raises:
    FirstFailed: make() raised in the first process, which raises that error.
  """
  if jax.process_count() == 1:
    return make()
  made, error = None, None
  if is_first():
    try:
      made = make()
    except Exception as e:
      error = e
  told = _broadcast({'made': made, 'error': error and str(error)})
  if error:
    raise error
  if told['error'] is not None:
    raise FirstFailed(told['error'])
  return told['made']


def _broadcast(value: Any) -> Any:
  """The first process's value; texts are cut to few sizes, each of them compiled."""
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  n = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  room = np.zeros(1 << max(n - 1, 1).bit_length(), np.uint8)
  if is_first():
    room[:n] = data
  room = multihost_utils.broadcast_one_to_all(room)
  return json.loads(np.asarray(room)[:n].tobytes())


def to_host(x: jax.Array) -> np.ndarray:
  """The whole of a sharded array, in every process."""
  return multihost_utils.process_allgather(x, tiled=True)
