"""Measures contenders in turns and reports the ratios of their times.

On a shared machine the time of one program varies by tens of percent within
minutes. Two programs that run within the same second vary together. So every
contender runs once in each round, and a result is the median over rounds of the
ratio within a round.
"""

from collections.abc import Callable
import json
import os
import random
import statistics
import time
from typing import Any

import jax

# Torch's idle threads spin by default and would take cores from the next contender.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')

# A call of one contender; it may return the seconds of its own parts by name.
Contender = Callable[[], dict[str, float] | None]


def compiled(f: Callable[..., Any], *args: Any) -> Contender:
  """Compiles `f` for these arguments and returns it as a contender.

  Its attributes `memory` and `cost` are the compiler's analyses.
  """
  run = jax.jit(f).lower(*args).compile()

  def call():
    jax.block_until_ready(run(*args))

  call.memory = run.memory_analysis()
  call.cost = run.cost_analysis()
  return call


def every_turn(
    contenders: dict[str, Contender], rounds: int
) -> dict[str, list[float]]:
  """Seconds of each contender in a warm-up round and in `rounds` rounds after it.

  Args:
    contenders: by name. The parts that one returns are listed as '<name>, <part>'.
    rounds: number of rounds after the warm-up.
  Returns:
    {name: rounds + 1 values}; the first is of the warm-up.
  """
  taken, names = {}, list(contenders)
  shuffle = random.Random(0).shuffle
  for _ in range(rounds + 1):
    # In a fixed order one contender would always run right after another, with
    # the caches and the busy threads that the other leaves.
    shuffle(names)
    for name in names:
      began = time.perf_counter()
      parts = contenders[name]()
      parts = {name: time.perf_counter() - began} | {
          f'{name}, {part}': s for part, s in (parts or {}).items()}
      for key, s in parts.items():
        taken.setdefault(key, []).append(s)
  return taken


def seconds(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
  """`every_turn` without the warm-up round.

  A first call compiles, allocates and fills caches; later calls do not.
  """
  return {k: s[1:] for k, s in every_turn(contenders, rounds).items()}


def ratio(taken: dict[str, list[float]], of: str, to: str) -> dict[str, float]:
  """Median, lowest and highest of the ratios `of` / `to` within a round."""
  each = [a / b for a, b in zip(taken[of], taken[to], strict=True)]
  return {
      'median': statistics.median(each), 'low': min(each), 'high': max(each),
      'rounds': len(each),
  }


def show_seconds(taken: dict[str, list[float]], prefix: str = '') -> None:
  """Prints median, lowest and highest seconds of each contender."""
  for name, each in taken.items():
    show(f'{prefix}{name}, seconds', {
        'median': statistics.median(each), 'low': min(each), 'high': max(each)})


def show_temporaries(contenders: dict[str, Any], prefix: str = '') -> None:
  """Prints the temporary memory of each contender that XLA compiled."""
  for name, call in contenders.items():
    if hasattr(call, 'memory'):
      show(f'{prefix}{name}, temporaries in MB',
           {'MB': call.memory.temp_size_in_bytes / 1e6})


def show(figure: str, found: dict[str, Any], target: str = '') -> None:
  """Prints a figure twice: as a line to read and as a line of JSON."""
  if 'median' in found:
    shown = '{median:.3f} ({low:.3f} to {high:.3f})'.format(**found)
  else:
    shown = ', '.join(f'{k} {v:,.4g}' for k, v in found.items())
  print(f'{figure}: {shown}' + (f'; target {target}' if target else ''))
  print(json.dumps({'figure': figure, 'target': target} | found), flush=True)
