"""When to give up on a text that goes round in circles."""

import collections
from collections.abc import Sequence


def repeats(
    tokens: Sequence[int],
    *,
    n: int = 30,
    times: int = 5,
    official_window: bool = False,
) -> bool:
  """Does some window of `n` tokens occur at least `times` times?

  .. math:: \\max_w |\\{ i : (x_i, \\ldots, x_{i+n-1}) = w \\}| \\ge times

  Overlapping occurrences count: a constant run of n + times - 1 tokens repeats.

  Args:
    tokens: ids, on the host.
    n: length of the window.
    times: how often is too often.
    official_window: leave the last window out, as the official code does; a
      repetition is then noticed one token later. For comparison only.

  Source: arXiv:2602.12222, the official code's stopping rule.
  """
  windows = len(tokens) - n + (0 if official_window else 1)
  counts = collections.Counter(
      tuple(tokens[i: i + n]) for i in range(windows)
  )
  return max(counts.values(), default=0) >= times
