"""Several processes in one run: process 0 decides, all the others follow.

In a run over several hosts every process executes the same program. A decision
that depends on a file, a clock or a subprocess may differ between them; they
would then enter different collectives and deadlock. So process 0 makes such
decisions and broadcasts them. All processes must call the functions of this
module, in the same order. With one process nothing is sent.
"""

from collections.abc import Callable
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


class FirstFailed(RuntimeError):
  """Process 0 raised an error; its message is repeated in the others."""


def is_first() -> bool:
  """Whether this is process 0, the one that reads and writes files."""
  return jax.process_index() == 0


def from_first(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
  """Runs `make(*args, **options)` in process 0 and returns its result to all.

  Args:
    make: called in process 0 alone; its result must be JSON-serialisable.
    *args, **options: its arguments, evaluated in every process.

  Returns:
    The result. With several processes it has passed through JSON: tuples come
    back as lists, and the keys of dicts as strings.

  Raises:
    FirstFailed: in the other processes, if `make` raised. Process 0 raises the
      error itself.

  Example:
    >>> from_first(max, 1, 2)
    2
  """
  if jax.process_count() == 1:
    return make(*args, **options)
  result, error = None, None
  if is_first():
    try:
      result = make(*args, **options)
    except Exception as e:  # the others must not wait for a broadcast
      error = e
  answer = _broadcast({'result': result, 'error': error and str(error)})
  if error:
    raise error
  if answer['error'] is not None:
    raise FirstFailed(answer['error'])
  return answer['result']


def _broadcast(value: Any) -> Any:
  """Returns process 0's value, sent as JSON."""
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  # The length first: a broadcast needs the same shape in all processes.
  n = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  # Every new shape compiles a broadcast: padding to powers of two keeps them few.
  buffer = np.zeros(1 << max(n - 1, 1).bit_length(), np.uint8)
  if is_first():
    buffer[:n] = data
  buffer = multihost_utils.broadcast_one_to_all(buffer)
  return json.loads(np.asarray(buffer)[:n].tobytes())


def to_host(x: jax.Array) -> np.ndarray:
  """Gathers a sharded array; every process gets the whole of it.

  Args:
    x: of any shape and sharding.

  Returns:
    An array of the same shape and dtype.
  """
  # tiled: otherwise the processes would be stacked along a new leading axis.
  return multihost_utils.process_allgather(x, tiled=True)
