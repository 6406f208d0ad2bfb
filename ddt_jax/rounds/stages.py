"""Stages of work on a list of items: shown by a bar, kept in files, interruptible.

A stage makes responses out of items, a block at a time. Each block's responses
are a file, see `stage_cache`. Within a block the engine's journal keeps what is
drawn, see `engine.Journal`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tqdm

from ddt_jax import engine
from ddt_jax import storage
from ddt_jax.data import records
from ddt_jax.data import stage_cache

# (index of the block's first item, the block's items, its journal) -> responses
Make = Callable[[int, Sequence[Any], engine.Journal], list[records.Response]]

_PARTIAL = 'partial'  # folder of the block that is being made


class Stages:
  """Runs stages one after the other, each with a cache folder of its own.

  Attributes:
    seconds: by stage; those that it took when it was made.
  """

  def __init__(
      self, folder: Any = None, made_from: dict[str, Any] | None = None, *,
      complete: bool = False, check_stop: Callable[[], None] = lambda: None,
      title: str = '',
  ):
    """Opens no file yet.

    Args:
      folder: of all stages; None keeps nothing.
      made_from: see `stage_cache.StageCache`.
      complete: nothing may be made, only read.
      check_stop: called while texts are drawn and after each block; may raise to
        end the work. The same call then resumes.
      title: precedes the names of stages on the screen.
    """
    self.folder = None if folder is None else storage.path(folder)
    self._made_from, self._complete = made_from or {}, complete
    self._check_stop, self._title = check_stop, title
    self.seconds: dict[str, float] = {}

  def run(
      self, name: str, make: Make, items: Sequence[Any], *, size: int = 0,
      each: float = 1, runs: int = 1, bar: tqdm.tqdm | None = None,
  ) -> list[records.Response]:
    """Applies `make` to blocks of items, or reads what an earlier call has made.

    Args:
      name: of the stage and its folder.
      make: see `Make`; must be deterministic.
      items: input of the stage.
      size: items in a block; 0: all.
      each: what an item counts for in the bar.
      runs: decoding runs that a request goes through.
      bar: of several stages; default: one of this stage.
    """
    responses, self.seconds[name] = [], 0.0
    own_bar = bar is None
    if bar is None:  # not `bar or`: a bar of nothing is false
      bar = engine.progress_bar(len(items) * each, f'{self._title}{name}')
    began = bar.n
    try:
      for block, spent in self._blocks(
          name, make, items, size or max(len(items), 1), bar, runs
      ):
        responses += block[1]
        self.seconds[name] += spent
        bar.update(began + block[0] * each - bar.n)
        # After the block's file was published: a stop here costs nothing.
        self._check_stop()
    finally:
      if own_bar:
        bar.close()
    return responses

  def _blocks(self, name, make, items, size, bar, runs):
    """Yields ((items done, responses of the block), seconds)."""
    def journal(folder=None):
      return engine.Journal(
          folder, made_from=self._made_from, title=f'{self._title}{name}', bar=bar,
          share=1 / runs, check_stop=self._check_stop)

    if self.folder is None:
      for first in range(0, len(items), size):
        made = make(first, items[first: first + size], journal())
        yield (min(first + size, len(items)), made), 0.0
      return
    partial = self.folder / name / _PARTIAL
    cache = stage_cache.StageCache(
        self.folder / name, {'stage': name, **self._made_from},
        complete=self._complete)
    done = 0
    for block, spent in cache.map(
        lambda first, some: make(first, some, journal(partial)), items,
        records.Response, size=size,
    ):
      # The block is published: the journal's files are of no more use.
      journal(partial).clear()
      done = min(done + size, len(items))
      yield (done, block), spent
