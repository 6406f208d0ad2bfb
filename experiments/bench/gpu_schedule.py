"""Order of the measurements of `bench.gpu`: compiled together, timed one by one.

A measurement is a function that prepares: it compiles, and returns a function that
times and returns figures. Compiling uses one or two cores of the host and now and then
the device, so several are prepared at the same time. Timing needs the device alone.
"""

from collections.abc import Callable
from concurrent import futures
import gc
import json
import os
import queue
import threading
import time
import traceback
from typing import Any

import jax
import jaxlib

from ddt_jax import storage

Figures = dict[str, Any]  # of one measurement, by name
Timed = Callable[[], Figures]
Measurements = dict[str, Callable[[], Timed]]

_LOOK_SECONDS = .05


def prepare(todo: Measurements, threads: int) -> dict[str, futures.Future]:
  """Prepares measurements in background threads, in their order.

  A compilation cannot be stopped. The threads are daemons, so that the process can
  end without it.

  Returns:
    {name: future of (its function that times, seconds of preparing)}.
  """
  found = {name: futures.Future() for name in todo}
  names = queue.SimpleQueue()
  for name in todo:
    names.put(name)

  def work():
    while True:
      try:
        name = names.get_nowait()
      except queue.Empty:
        return
      began = time.monotonic()
      try:
        timed = todo[name]()
      except Exception as e:  # the main thread reports it
        found[name].set_exception(e)
      else:
        taken = time.monotonic() - began
        print(f'{name}: ready after {taken:.1f} s', flush=True)
        found[name].set_result((timed, taken))

  for _ in range(threads):
    threading.Thread(target=work, daemon=True).start()
  return found


def run(
    todo: Measurements, out: str, *, minutes: float, compile_minutes: float,
    threads: int,
) -> dict[str, Any]:
  """Measures, and writes the results after each.

  Args:
    todo: functions that prepare, by name, the most important first.
    out: file of the results; '' for none.
    minutes: none is timed later. Ctrl-C ends it earlier, and nothing is lost.
    compile_minutes: none is timed earlier, unless all are prepared.
    threads: number of measurements that are prepared together.

  Returns:
    device, versions, XLA's flags, results by name (figures, or an `error`) and
    `left_out`.
  """
  device, began = jax.devices()[0], time.monotonic()
  left = list(todo)
  found = {
      'device': device.device_kind, 'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'platform': device.client.platform_version.strip(),
      'XLA_FLAGS': os.environ.get('XLA_FLAGS', ''),
      'left_out': left, 'results': {},
  }
  try:
    prepared = prepare(todo, threads)
    while left and (now := time.monotonic() - began) <= 60 * minutes:
      ready = [name for name in left if prepared[name].done()]
      if not ready or len(ready) < len(left) and now < 60 * compile_minutes:
        time.sleep(_LOOK_SECONDS)
        continue
      name = ready[0]
      # `pop`: its arguments would stay in the device's memory.
      figures = measure(prepared.pop(name))
      if len(ready) < len(left):
        figures['others that compiled meanwhile'] = len(left) - len(ready)
      left.remove(name)
      found['results'][name] = figures
      gc.collect()  # frees the device's memory
      print(line(name, figures), flush=True)
      write(found, out)
  except KeyboardInterrupt:
    print('interrupted: the rest is left out', flush=True)
  write(found, out)
  return found


def measure(prepared: futures.Future) -> Figures:
  """Times one; the figure of a failure is its `error`."""
  try:
    timed, preparing = prepared.result()
    began = time.monotonic()
    figures = timed()
  except Exception as e:  # the rest is worth its time on the device
    traceback.print_exc()
    return {'error': f'{type(e).__name__}: {e}'[:500]}
  return figures | {
      'preparing, s': preparing, 'timing, s': time.monotonic() - began}


def write(found: dict[str, Any], out: str) -> None:
  """Writes the results as JSON, unless `out` is ''."""
  if out:
    storage.publish(storage.path(out), json.dumps(found, indent=1) + '\n')


def line(name: str, figures: Figures) -> str:
  """'name: ms 3.21, tokens/s 12,345'."""
  shown = ', '.join(
      f'{k} {v:,.4g}' if isinstance(v, float) and abs(v) < 1e4 else
      f'{k} {v:,.0f}' if isinstance(v, (int, float)) else f'{k} {v}'
      for k, v in figures.items())
  return f'{name}: {shown}'
