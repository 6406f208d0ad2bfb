r"""Methods x learning rates x seeds: when does on-policy fine-tuning help?

python -m experiments.study --config configs/study.py[:quick] [--workdir DIR] \
    [--only=sft,hd_sft-0.0003-seed0] [--cells=N]

Runs the cells of the config one after the other, the most important ones first, and
prints the tables. Finished cells are skipped, an interrupted one resumes. Several
processes may share a workdir: each takes cells that no other one runs.
"""

from collections.abc import Callable
import dataclasses
import sys

from absl import flags
from etils import epath

from ddt_jax import errors
from ddt_jax import storage
from experiments.run import curation
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options
from experiments.study import cells
from experiments.study import plan


@dataclasses.dataclass(frozen=True)
class Wanted:
  """The cells that this call runs.

  Attributes:
    only: names of methods and of cells; empty: all.
    most: so many new ones; None: all.
  """

  only: tuple[str, ...] = ()
  most: int | None = None

  def has(self, cell: plan.Cell) -> bool:
    """Whether this call may run the cell."""
    # Whatever else it runs needs the untouched model.
    names = (cell.method, cell.name)
    return not self.only or cell.method == plan.UNTOUCHED or any(
        name in self.only for name in names)


def chosen_by(c, all_cells: cells.Cells) -> Callable[[str], float | None]:
  """method -> the rate of the highest mean validation accuracy; ties: the lowest."""
  def chosen(method: str) -> float | None:
    found = {}
    for rate in plan.rates(c, method):
      seeds = [all_cells.read(plan.Cell(method, rate, i)) for i in range(c.seeds)]
      if values := [x.validation for x in seeds if x]:
        found[rate] = sum(values) / len(values)
    return max(found, key=lambda rate: (found[rate], -rate), default=None)

  return chosen


def run(c, folder: epath.Path, wanted: Wanted) -> None:
  """Runs the cells that are wanted and not finished.

  Raises:
    errors.InputError: the config cannot be used.
  """
  plan.check(c)
  s = inputs.make(c.run)
  cells.check(c, s)
  all_cells, ran = cells.Cells(c, folder, s), 0
  order = list(plan.unique(plan.order(c, lambda method: None)))
  for cell in plan.unique(plan.order(c, chosen_by(c, all_cells))):
    if ran == wanted.most:
      return
    if not wanted.has(cell) or all_cells.read(cell):
      continue
    place = f'{order.index(cell) + 1} of {len(order)}, ' if cell in order else ''
    print(f'--- {place}{cell.name}', flush=True)
    try:
      all_cells.run(cell)
      ran += 1
    except storage.Locked as e:
      print(f'left to the other process: {e}', file=sys.stderr)
    lifecycle.check_stop()


def main():
  c = flags.FLAGS.config
  folder = storage.path(flags.FLAGS.workdir or f'runs/{c.name}')
  wanted = Wanted(tuple(flags.FLAGS.only), flags.FLAGS.cells)
  with lifecycle.explained_errors(
      errors.InputError, curation.NothingAccepted, FloatingPointError
  ), lifecycle.resumable(folder):
    run(c, folder, wanted)


if __name__ == '__main__':
  options.define_config('configs/study.py')
  flags.DEFINE_string('workdir', '', 'Folder of the study; default runs/<config.name>.')
  flags.DEFINE_list(
      'only', [], 'Names of methods, or of cells such as sft-0.0003-seed0.')
  flags.DEFINE_integer(
      'cells', None, 'At most so many new cells; 0: the tables alone.', 0)
  lifecycle.launch(main)
