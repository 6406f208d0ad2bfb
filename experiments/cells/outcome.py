"""Finished cells -> the chosen rates, the tables and the figures."""

from collections.abc import Callable

from etils import epath
import numpy as np

from ddt_jax.report import study
from ddt_jax.report import table
from ddt_jax.training import metrics
from experiments.cells import corpora
from experiments.cells import mechanism
from experiments.cells import plan
from experiments.cells import running

GIVEN, OWN = 'on given solutions', 'on texts of the model itself'


def chosen_by(c, folder: epath.Path) -> Callable[[str], float | None]:
  """method -> the rate of the highest mean validation accuracy; ties: the lowest.

  Over the first `c.seeds` seeds, which every rate has in the end.
  """
  def chosen(method: str) -> float | None:
    found = {}
    for rate in plan.rates(c, method):
      some = (running.read(folder, plan.Cell(method, rate, i)) for i in range(c.seeds))
      if values := [x.validation for x in some if x]:
        found[rate] = float(np.mean(values))
    return max(found, key=lambda rate: (found[rate], -rate), default=None)

  return chosen


def rates(c, folder: epath.Path) -> dict[str, float]:
  """method -> its chosen rate; methods without a finished cell are left out."""
  rule = chosen_by(c, folder)
  return {m: rate for m in c.methods if (rate := rule(m)) is not None}


def groups(c) -> dict[str, list[str]]:
  """Heading of a panel -> its methods; SFT is in both, to compare with."""
  methods = plan.compared(c)
  given = [m for m in methods if c.methods[m].corpus == running.GIVEN]
  own = [m for m in methods if m not in given]
  return {GIVEN: given, OWN: [m for m in ('sft',) if m in given] + own}


def write(c, folder: epath.Path) -> str:
  """Writes study.md, study.html and plots/ of the cells that are finished.

  Returns:
    The tables in Markdown.
  """
  rule, chosen = chosen_by(c, folder), rates(c, folder)
  wanted = list(plan.unique(plan.order(c, rule)))
  found = {cell: running.read(folder, cell) for cell in wanted}
  return study.write(
      folder, study.Results([x for x in found.values() if x], chosen),
      groups=groups(c), phi=phi_curves(c, folder, chosen),
      missing=[cell.name for cell, x in found.items()
               if x is None and not running.failed(folder, cell)],
      failed=[cell.name for cell in wanted if running.failed(folder, cell)],
      pairs=c.phase, changed={m: c.methods[m]['at'] for m in plan.ablations(c)},
      further=[('Hints with a false solution', false_hints(c, folder)),
               *mechanism.tables(folder)])


def false_hints(c, folder: epath.Path) -> table.Table:
  """What Hinted Decoding makes of the false solutions of the first seed, in %."""
  rows = []
  for name in (k for k, v in c.corpora.items() if v.get('mistaken')):
    made = folder / 'corpora' / f'{name}-seed0'
    if (made / 'corpus.jsonl').exists():
      found = corpora.copied(made)
      rows.append([name, f'{found.texts:,}', *(
          f'{100 * n / max(found.texts, 1):.1f}' for n in found[1:])])
  return table.Table(['corpus', 'texts', 'false answer copied', 'right answer'], rows)


def phi_curves(
    c, folder: epath.Path, chosen: dict[str, float]
) -> dict[str, tuple[list[float], list[float]]]:
  """(steps, mean phi) of the first seed of the main methods at the chosen rates."""
  found = {}
  for method in c.main:
    cell = plan.Cell(method, chosen.get(method, 0.0), 0)
    if running.read(folder, cell):
      lines = [x for x in metrics.read(running.folder_of(folder, cell), 'train')
               if x.get('phi') is not None]
      if lines:
        found[method] = [x['step'] for x in lines], [x['phi'] for x in lines]
  return found
