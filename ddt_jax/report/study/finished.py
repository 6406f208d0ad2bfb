"""All cells of a study that are finished, grouped by method and rate."""

from collections.abc import Mapping, Sequence

import numpy as np

from ddt_jax.report.study import record

UNTOUCHED = 'untouched'
TARGET, HARDER, RETAINED = SPLITS = ('target', 'generalisation', 'retained')


class Results:
  """The finished cells.

  Attributes:
    cells: of every method.
    chosen: method -> the rate that validation chose.
  """

  def __init__(self, cells: Sequence[record.CellRecord], chosen: Mapping[str, float]):
    self.cells, self.chosen = list(cells), dict(chosen)

  @property
  def methods(self) -> list[str]:
    """Names of the methods that have a finished cell, without the untouched model."""
    return list(dict.fromkeys(
        x.method for x in self.cells if x.method != UNTOUCHED))

  @property
  def splits(self) -> list[str]:
    """Names of the splits: those of the embedded world, or of the data."""
    return list(dict.fromkeys(split for x in self.cells for split in x.splits))

  def at(self, method: str, rate: float | None = None) -> list[record.CellRecord]:
    """Cells of a method, by seed; `rate` defaults to the chosen one."""
    rate = self.chosen.get(method, 0.0) if rate is None else rate
    return sorted(
        (x for x in self.cells if x.method == method and x.rate == rate),
        key=lambda x: x.seed)

  def rates(self, method: str) -> list[float]:
    """Rates of a method that have a finished cell, rising."""
    return sorted({x.rate for x in self.cells if x.method == method})

  def untouched(self, seed: int) -> record.CellRecord | None:
    """The model before training, measured with a seed."""
    found = [x for x in self.at(UNTOUCHED, 0.0) if x.seed == seed]
    return found[0] if found else None

  def only(self, methods: Sequence[str]) -> 'Results':
    """The cells of these methods, and those of the untouched model."""
    return Results(
        [x for x in self.cells if x.method in (UNTOUCHED, *methods)],
        {m: rate for m, rate in self.chosen.items() if m in methods})

  def gain(self, cell: record.CellRecord, split: str, k: int = 1) -> float | None:
    """Accuracy minus that of the untouched model with the same seed, in points."""
    base = self.untouched(cell.seed)
    if base is None or split not in cell.splits:
      return None
    return 100 * float(np.mean(
        cell.splits[split].by_problem(k) - base.splits[split].by_problem(k)))

  def paired(
      self, a: tuple[str, float | None], b: tuple[str, float | None], split: str,
      k: int = 1
  ) -> np.ndarray | None:
    """Accuracy of b minus that of a by problem, for the seeds that both have.

    Args:
      a, b: method and rate, None for the chosen one.
      split, k: see `SplitRecord.by_problem`.

    Returns:
      [seeds, problems]; None without a common seed.
    """
    first = {x.seed: x for x in self.at(*a)}
    rows = [
        x.splits[split].by_problem(k) - first[x.seed].splits[split].by_problem(k)
        for x in self.at(*b) if x.seed in first and split in x.splits]
    return np.stack(rows) if rows else None
