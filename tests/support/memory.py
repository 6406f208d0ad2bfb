"""Bytes that numpy arrays hold while a function runs."""

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest


class Peak:
  """Attributes: `bytes`: the most that a call of `look` saw."""

  bytes = 0

  def look(self) -> None:
    traces = tracemalloc.take_snapshot().filter_traces([
        tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
    held = sum(trace.size for trace in traces.traces)
    self.bytes = max(self.bytes, held)


@contextlib.contextmanager
def peak_of_numpy(*functions: tuple[Any, str]):
  """Yields a Peak that looks before and after each call of these functions.

  Their results are copied into new numpy arrays: arrays that share a device's
  buffer would not be counted. Arrays from before the block are not counted.

  Args:
    functions: (module, name) each.
  """
  peak = Peak()

  def watched(function):
    def call(*args, **options):
      peak.look()
      result = function(*args, **options)
      if isinstance(result, np.ndarray):
        result = np.array(result)
      peak.look()
      return result
    return call

  with pytest.MonkeyPatch.context() as m:
    for module, name in functions:
      m.setattr(module, name, watched(getattr(module, name)))
    tracemalloc.start()
    try:
      yield peak
    finally:
      tracemalloc.stop()
