"""What the host knows of the requests that are decoded."""

from typing import Any, NamedTuple

import numpy as np

from ddt_jax import stopping
from ddt_jax.engine import device_loop


class Generated(NamedTuple):
  """A finished request.

  Attributes:
    tokens: at most max_new_tokens ids, the EOS included.
    finish: 'eos' | 'length' | 'repetition'.
    student_only_from: how many tokens there are up to the end of the first
      splitter, after which the student alone decides; None without one.
  """

  tokens: list[int]
  finish: str
  student_only_from: int | None = None


class Ledger:
  """What the host knows of the requests: who is served, with which text so far.

  Attributes:
    results: Generated of each request, None until it has finished.
    ungiven: requests that the device has not been given yet, in order.
  """

  def __init__(
      self, asked, first_may_end, eos_ids, automaton, repetition, official_window,
      on_result,
  ):
    self._ends = first_may_end, eos_ids, automaton
    self._repetition, self._official_window = repetition, official_window
    self._on_result, self._texts = on_result, {}
    # A request for no token has its answer already.
    self.results: list[Any] = [None] * len(asked)
    self.ungiven = [i for i, r in enumerate(asked) if r.limit]
    self.left = len(asked)
    for i in sorted(set(range(len(asked))).difference(self.ungiven)):
      self._finish(i, Generated([], 'length'))

  def give(self, n: int) -> list[int]:
    """The next n requests, to the device."""
    given, self.ungiven = self.ungiven[:n], self.ungiven[n:]
    return given

  def add(
      self, new: dict[int, list[int]], running: set[int]
  ) -> tuple[int, list[int]]:
    """Takes in new tokens.

    Args:
      new: tokens of each request since the last visit.
      running: requests that the device goes on with.

    Returns:
      How many requests have finished, and those among them that the device must
      be told of.
    """
    before_these, stopped = self.left, []
    for i, tokens in new.items():
      text = self._texts.setdefault(i, [])
      before = len(text)
      text += tokens
      cut = None
      if self._repetition is not None:
        cut = _repetition(
            text, before, i in running, *self._repetition, self._official_window
        )
      if cut is not None and i in running:
        stopped.append(i)
      elif cut is None and i in running:
        continue
      del self._texts[i]
      self._finish(i, _ended(text, cut, *self._ends))
    return before_these - self.left, stopped

  def _finish(self, i: int, result: Generated) -> None:
    self.results[i] = result
    self.left -= 1
    if self._on_result is not None:
      self._on_result(i, result)


def by_ticket(tokens, tickets) -> dict[int, list[int]]:
  """Ticket -> its new tokens, out of a log [steps, S]."""
  tokens, tickets = tokens.ravel(), tickets.ravel()
  order = np.argsort(tickets, kind='stable')  # keeps the order of steps
  order = order[tickets[order] != device_loop.IDLE]
  found, starts = np.unique(tickets[order], return_index=True)
  return {
      int(ticket): part.tolist() for ticket, part in zip(
          found, np.split(tokens[order], starts[1:]), strict=True
      )
  }


def _repetition(
    text, before, running, n, times, every, official_window
) -> int | None:
  """Where a text is to be cut because it repeats itself, or None."""
  # It is looked at before the next token: a text that has ended is not.
  last = len(text) if running else len(text) - 1
  for stop in range((before // every + 1) * every, last + 1, every):
    if stopping.repeats(
        text[:stop], n=n, times=times, official_window=official_window
    ):
      return stop
  return None


def _ended(text, cut, first_may_end, eos_ids, automaton) -> Generated:
  if cut is not None:
    text, finish = text[:cut], 'repetition'
  elif text[-1] in eos_ids and (first_may_end or len(text) > 1):
    finish = 'eos'
  else:
    finish = 'length'
  return Generated(text, finish, stopping.found_at(automaton, text))
