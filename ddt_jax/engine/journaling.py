"""Texts that are being drawn: shown, kept in files, and given up at a stop.

A decoding run may take hours. Its journal writes the texts so far to a file now
and then, the unfinished ones too. The same call after an interruption reads them
and decodes the rest. A draw's randomness comes from the key, the request's id and
the token's place alone. The texts are therefore those of an unbroken run, except
where rounding decides between two tokens: a text's tokens so far are read
together, and in an unbroken run one by one. In float32 that is as rare as for
another number of slots, see `engine.generate`. In bfloat16 it is common: the rest of
a text is then another draw of the same distribution.
"""

from collections.abc import Callable, Sequence
import json
import sys
import time
from typing import Any, NamedTuple

import jax
import tqdm

from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.data import stage_cache
from ddt_jax.engine import cache_plan
from ddt_jax.engine import ledger
from ddt_jax.engine import request

# A kill costs at most this much, and the steps between two host syncs.
KEEP_SECONDS = 30.0
# Between two looks at the device: bars move, and a stop is heeded.
LOOK_SECONDS = 4.0
_FIRST_STEPS = 8  # before the speed is known


def progress_bar(total: float, title: str, initial: int = 0) -> tqdm.tqdm:
  """A bar on stderr; every few seconds a line where stderr is no terminal."""
  return tqdm.tqdm(
      total=total, desc=title, initial=initial,
      # Elsewhere than in a terminal each redraw is a new line of a log.
      mininterval=0.2 if sys.stderr.isatty() else 5.0,
      disable=not total or not processes.is_first(),
      # A request may count for a part of a problem.
      bar_format='{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total_fmt}'
                 ' [{elapsed}<{remaining}{postfix}]')


class Kept(NamedTuple):
  """One request as a journal has it.

  Attributes:
    tokens: of the response so far.
    finish: see `engine.Generated`; None where it is unfinished.
    log_probs: [log m, log q] of the tokens drawn; None unless
      `DecodeOptions.log_probs`.
  """

  tokens: list[int]
  finish: str | None
  log_probs: list[list[float]] | None


class Journal:
  """Follows the decoding runs of one block of work, one after the other.

  With several processes all of them call its methods together; process 0 reads
  and writes, and its clock decides.
  """

  _most_bytes = 0  # of the caches that this process has announced

  def __init__(
      self, folder: Any = None, *, made_from: Any = None, title: str = '',
      bar: tqdm.tqdm | None = None, share: float = 1.0,
      check_stop: Callable[[], None] = lambda: None,
  ):
    """Opens the journal; touches no file yet.

    Args:
      folder: for its files, of this block alone; None keeps nothing.
      made_from: JSON-able; what the texts depend on besides requests, options
        and key, such as the step of the parameters.
      title: of the work, for what is printed; '' prints nothing.
      bar: moved by `share` for every finished request.
      share: of the bar, per request.
      check_stop: called after each look at the device; may raise to end the run.
    """
    self._folder = None if folder is None else storage.path(folder)
    self._made_from, self._title = made_from, title
    self._bar, self._share, self._check_stop = bar, share, check_stop
    self._file, self._kept_at = None, time.monotonic()
    self._run_began, self._tokens = time.monotonic(), 0
    self._seconds_per_step: float | None = None

  def restore(
      self, requests: Sequence[request.Request], options: Any, key: jax.Array
  ) -> dict[int, Kept]:
    """Begins a run: what an earlier call has kept of it, by index of the request.

    Args:
      requests: of the run.
      options: `DecodeOptions`.
      key: random key.
    """
    self._file, self._tokens = None, 0
    self._run_began = time.monotonic()
    if self._folder is None:
      return {}
    # The name says what is drawn: a file of anything else is never taken.
    named = json.dumps([
        self._made_from, options.identity(), jax.random.key_data(key).tolist(),
        [([list(map(int, p)) for p in r.prompts], r.limit, int(r.request_id),
          list(map(int, r.begun))) for r in requests],
    ])
    digest = stage_cache.digest(named.encode())
    self._file = self._folder / f'{digest[:16]}.jsonl'
    rows = processes.from_first(self._read)
    return {i: Kept(*row) for i, *row in rows}

  def planned(self, sizes: cache_plan.Plan) -> None:
    """Prints the memory that the run will take, if it is the most so far."""
    if self._title and sizes.bytes > Journal._most_bytes:
      Journal._most_bytes = sizes.bytes
      if processes.is_first():
        # Not print(), which would break a bar.
        tqdm.tqdm.write(f'{self._title}: {sizes}')

  def steps(self, most: int) -> int:
    """Decode steps up to the next look at the device, at most `most`."""
    def by_clock():
      if self._seconds_per_step is None:
        return _FIRST_STEPS
      return max(1, int(LOOK_SECONDS / self._seconds_per_step))

    return min(most, processes.from_first(by_clock))

  def beat(self) -> None:
    """Shows that work goes on where nothing is drawn, and heeds a stop."""
    if self._bar is not None:
      self._show(0, '')
    self._check_stop()

  def look(
      self, book: ledger.Ledger, *, steps: int = 0, seconds: float = 0.0,
      finished: int = 0, tokens: int = 0
  ) -> None:
    """Shows the run, keeps its texts if it is time, and heeds a stop.

    Args:
      book: the run's record.
      steps, seconds: decode steps since the last look, and their wall time.
      finished, tokens: requests that ended and tokens that were drawn in them.
    """
    if steps:
      self._seconds_per_step = seconds / steps
    if self._bar is not None:
      self._tokens += tokens
      text = f'{len(book.texts)} running, {self._tokens:,} tokens'
      text += f', {tokens / seconds:,.0f} tokens/s' if seconds else ''
      # Before the first tokens there is nothing to say.
      self._show(
          self._share * finished, text if book.texts or self._tokens else '')
    due = processes.from_first(
        lambda: time.monotonic() - self._kept_at > KEEP_SECONDS)
    if due:
      self.keep(book)
    try:
      self._check_stop()
    except BaseException:
      # Also what came since the last time.
      self.keep(book)
      raise

  def _show(self, moved: float, text: str) -> None:
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(moved)
    # update() does not redraw a bar that has not moved.
    if not self._bar.disable and (
        time.time() - self._bar.last_print_t >= self._bar.mininterval):
      self._bar.refresh()
      self._bar.last_print_t = time.time()

  def ended(self, book: ledger.Ledger) -> None:
    """Ends a run; one that took long is kept for the sake of those after it."""
    long = processes.from_first(
        lambda: time.monotonic() - self._run_began > KEEP_SECONDS)
    if long:
      self.keep(book)

  def keep(self, book: ledger.Ledger) -> None:
    """Writes the texts so far."""
    if self._file is not None:
      processes.from_first(self._write, book)

  def clear(self) -> None:
    """Removes the files: the block's output is published."""
    if self._folder is not None:
      processes.from_first(self._remove)

  def _write(self, book: ledger.Ledger) -> None:
    rows = [
        (i, r.tokens, r.finish, r.log_m and [*zip(r.log_m, r.log_q, strict=True)])
        for i, r in enumerate(book.results) if r is not None]
    rows += [
        (i, text, None, book.log_probs.get(i))
        for i, text in sorted(book.texts.items())]
    body = ''.join(json.dumps(row) + '\n' for row in rows)
    storage.publish(
        self._file, f'{stage_cache.digest(body.encode())}\n{body}')
    self._kept_at = time.monotonic()

  def _read(self) -> list[Any]:
    if not self._file.exists():
      return []
    recorded, _, body = self._file.read_bytes().partition(b'\n')
    if not stage_cache.is_intact(
        self._file, body, {recorded.decode(errors='replace')}):
      return []
    return [json.loads(line) for line in body.decode().splitlines()]

  def _remove(self) -> None:
    if self._folder.exists():
      self._folder.rmtree()
