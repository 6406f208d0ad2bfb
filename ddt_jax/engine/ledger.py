"""The host's record of the requests: their texts so far and their results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddt_jax import stopping
from ddt_jax.engine import decode_options
from ddt_jax.engine import loop_state
from ddt_jax.engine import request


class Generated(NamedTuple):
  """A finished request.

  Attributes:
    tokens: at most max_new_tokens ids, the EOS included.
    finish: 'eos' | 'length' | 'repetition'.
    student_only_from: number of tokens up to the end of the first splitter; the
      student alone decided the tokens after them. None without a splitter.
    log_m: of each new token, the log-probability in the distribution that it was
      drawn from: mixture, nucleus and temperature included; nats. None unless
      `DecodeOptions.log_probs`.
    log_q: likewise of the student stream at temperature 1; of one stream alone,
      its own.
  """

  tokens: list[int]
  finish: str
  student_only_from: int | None = None
  log_m: list[float] | None = None
  log_q: list[float] | None = None


class Ledger:
  """Keeps track of which requests wait, run and have finished.

  Attributes:
    results: Generated of each request, None until it has finished.
    texts: tokens so far of each request that has some and has not finished.
    log_probs: [log m, log q] of the tokens drawn so far of each of `texts`; empty
      unless `DecodeOptions.log_probs`.
    waiting: indices of the requests that the device does not have yet, in order.
    unfinished: number of requests without a result.
  """

  def __init__(
      self,
      requests: Sequence[request.Request],
      options: decode_options.DecodeOptions,
      on_result: Callable[[int, Generated], None] | None = None,
      finished: Mapping[int, Generated] | None = None,
      log_probs: Mapping[int, list[list[float]]] | None = None,
  ):
    """Opens the record.

    Args:
      requests, options: of the run.
      on_result: called with (index, result) when a request finishes.
      finished: results of an earlier, interrupted call.
      log_probs: see above, of an earlier, interrupted call.
    """
    self._options, self._on_result = options, on_result
    finished = finished or {}
    self.texts: dict[int, list[int]] = {
        i: list(r.begun) for i, r in enumerate(requests)
        if r.begun and i not in finished}
    self.log_probs = {i: list(rows) for i, rows in (log_probs or {}).items()}
    self.results: list[Any] = [None] * len(requests)
    self.unfinished = len(requests)
    self.waiting = []
    for i, r in enumerate(requests):
      if i in finished:
        self._finish(i, finished[i])
      elif r.limit:
        self.waiting.append(i)
      else:  # no token may be drawn: the empty response is the result
        empty = [] if options.log_probs else None
        self._finish(i, Generated([], 'length', None, empty, empty))

  def take_next(self, n: int) -> list[int]:
    """Removes the next n requests from `waiting` and returns them."""
    taken, self.waiting = self.waiting[:n], self.waiting[n:]
    return taken

  def record(
      self, new: dict[int, list[int]], running: set[int],
      log_probs: Mapping[int, list[list[float]]] | None = None,
  ) -> tuple[int, list[int]]:
    """Appends new tokens and finishes requests.

    Args:
      new: tokens of each request since the last host sync.
      running: requests that still occupy a slot.
      log_probs: [log m, log q] of the new tokens.

    Returns:
      (number of requests that finished now, finished ones that still occupy a
      slot). The host must free these slots.
    """
    before = self.unfinished
    for i, tokens in new.items():
      if self.results[i] is not None:  # cut already; its slot is not free yet
        continue
      text = self.texts.setdefault(i, [])
      seen = len(text)
      text += tokens
      if log_probs is not None:
        self.log_probs.setdefault(i, []).extend(log_probs[i])
      still_running = i in running
      cut = self._repetition(text, seen, still_running)
      if still_running and cut is None:
        continue
      del self.texts[i]
      self._finish(i, self._result(text, cut, self.log_probs.pop(i, None)))
    to_free = [
        i for i in running if i != loop_state.IDLE and self.results[i] is not None]
    return before - self.unfinished, to_free

  def _finish(self, i: int, result: Generated) -> None:
    self.results[i] = result
    self.unfinished -= 1
    if self._on_result is not None:
      self._on_result(i, result)

  def _repetition(
      self, text: list[int], seen: int, running: bool
  ) -> int | None:
    """Returns how many tokens to keep of a text that repeats itself, or None.

    Args:
      text: all tokens so far.
      seen: number of tokens at the previous check.
      running: whether further tokens follow.
    """
    if self._options.repetition is None:
      return None
    n, times, every = self._options.repetition
    # The official code checks before each draw, so a finished text is not checked
    # at its last token.
    last = len(text) if running else len(text) - 1
    # Multiples of `every`, so that a cut does not depend on when the syncs come.
    for stop in range((seen // every + 1) * every, last + 1, every):
      if stopping.repeats(
          text[:stop], n=n, times=times,
          official_window=self._options.official_window,
      ):
        return stop
    return None

  def _result(
      self, text: list[int], cut: int | None,
      log_probs: list[list[float]] | None,
  ) -> Generated:
    options = self._options
    if cut is not None:
      if log_probs is not None:  # they begin after the tokens written before
        log_probs = log_probs[:cut - len(text) + len(log_probs)]
      text, finish = text[:cut], 'repetition'
    # An EOS at the limit is an EOS: the text was complete.
    elif text[-1] in options.eos_ids and (
        options.first_may_end or len(text) > 1
    ):
      finish = 'eos'
    else:
      finish = 'length'
    return generated(options.automaton, text, finish, log_probs)


def generated(
    automaton: np.ndarray | None, tokens: list[int], finish: str,
    log_probs: list[list[float]] | None,
) -> Generated:
  """The record of a finished text; log_probs: [log m, log q] of its new tokens."""
  log_m, log_q = (None, None) if log_probs is None else (
      [row[i] for row in log_probs] for i in range(2))
  return Generated(
      tokens, finish, stopping.found_at(automaton, tokens), log_m, log_q)


def by_ticket(
    tokens: np.ndarray, tickets: np.ndarray
) -> dict[int, list[Any]]:
  """Groups the tokens of some decode steps by request.

  Args:
    tokens: [steps, S], or [steps, S, n] with n numbers of each token.
    tickets: [steps, S], the request that each token belongs to, or
      `loop_state.IDLE`.

  Returns:
    {ticket: tokens in the order of the steps}.
  """
  # One sort in NumPy: a Python loop over steps x S would stall the device.
  tokens = tokens.reshape(tickets.size, *tokens.shape[2:])
  tickets = tickets.ravel()
  order = np.argsort(tickets, kind='stable')  # keeps the order of the steps
  order = order[tickets[order] != loop_state.IDLE]
  present, starts = np.unique(tickets[order], return_index=True)
  # Cut at each start, the first one too: steps without a token give no part then.
  parts = np.split(tokens[order], starts)[1:]
  return {
      int(ticket): part.tolist()
      for ticket, part in zip(present, parts, strict=True)}
