"""Benchmarks whose contenders take turns: ratios hold where times do not."""

from collections.abc import Callable
import json
import os
import random
import statistics
import time
from typing import Any

import jax

# Torch's idle threads would go on spinning beside whoever comes next.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')


def compiled(f: Callable[..., Any], *args: Any) -> Callable[[], None]:
  """A contender: the jitted function of these arguments, compiled now."""
  run = jax.jit(f).lower(*args).compile()

  def call():
    jax.block_until_ready(run(*args))

  call.memory = run.memory_analysis()
  call.cost = run.cost_analysis()
  return call


def every_turn(
    contenders: dict[str, Callable[[], dict[str, float] | None]], rounds: int
) -> dict[str, list[float]]:
  """Seconds of every contender: of its first call, and in every round after it.

  Each round has an order of its own: what one leaves behind, warm caches or busy
  threads, does not always meet the same next one. What a contender returns,
  {part: seconds} of itself, is listed as '<name>, <part>'.
  """
  taken, names = {}, list(contenders)
  shuffle = random.Random(0).shuffle
  for _ in range(rounds + 1):
    shuffle(names)
    for name in names:
      began = time.perf_counter()
      parts = contenders[name]()
      parts = {name: time.perf_counter() - began} | {
          f'{name}, {part}': s for part, s in (parts or {}).items()}
      for key, s in parts.items():
        taken.setdefault(key, []).append(s)
  return taken


def seconds(
    contenders: dict[str, Callable[[], dict[str, float] | None]], rounds: int
) -> dict[str, list[float]]:
  """`every_turn` without the first, in which what is made once is made."""
  return {k: s[1:] for k, s in every_turn(contenders, rounds).items()}


def ratio(taken: dict[str, list[float]], of: str, to: str) -> dict[str, float]:
  """Median and extremes of the ratios within a round."""
  each = [a / b for a, b in zip(taken[of], taken[to], strict=True)]
  return {
      'median': statistics.median(each), 'low': min(each), 'high': max(each),
      'rounds': len(each),
  }


def show_seconds(taken: dict[str, list[float]], prefix: str = '') -> None:
  """Median and extremes of each."""
  for name, each in taken.items():
    show(f'{prefix}{name}, seconds', {
        'median': statistics.median(each), 'low': min(each), 'high': max(each)})


def show(figure: str, found: dict[str, Any], target: str = '') -> None:
  """One line to read and one of JSON."""
  if 'median' in found:
    shown = '{median:.3f} ({low:.3f} to {high:.3f})'.format(**found)
  else:
    shown = ', '.join(f'{k} {v:,.4g}' for k, v in found.items())
  print(f'{figure}: {shown}' + (f'; target {target}' if target else ''))
  print(json.dumps({'figure': figure, 'target': target} | found), flush=True)
