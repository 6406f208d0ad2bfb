r"""Methods x learning rates x seeds: when does on-policy fine-tuning help?

python -m experiments.study --config configs/study.py
python -m experiments.study --config configs/study.py:quick --workdir DIR
python -m experiments.study --config configs/study.py --only=sft,hd_sft-0.0003-seed0

Runs the cells of the config one after the other, the most important ones first, and
prints the tables, which are also in DIR/study.md and, with figures, in study.html.
Finished cells are skipped, an interrupted one resumes; SIGTERM and Ctrl-C are heeded
within seconds. Several processes may share a workdir: each takes cells that no other
one runs. --cells=0 makes the tables of what is there.
"""

import dataclasses
import sys
import time

from absl import flags
from etils import epath

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.report import table
from experiments.cells import mechanism
from experiments.cells import outcome
from experiments.cells import plan
from experiments.cells import running
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import options


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


def run(c, folder: epath.Path, wanted: Wanted) -> None:
  """Runs the cells that are wanted and not finished, and measures the mechanism.

  Raises:
    errors.InputError: the config cannot be used.
  """
  s = inputs.make(c.run)
  running.check(c, s)
  all_cells, ran = running.Cells(c, folder, s), 0
  order = list(plan.unique(plan.order(c, lambda method: None)))
  for cell in plan.unique(plan.order(c, outcome.chosen_by(c, folder))):
    if ran == wanted.most:
      break
    if not wanted.has(cell) or running.read(folder, cell) or running.failed(
        folder, cell):
      continue
    place = f'{order.index(cell) + 1} of {len(order)}, ' if cell in order else ''
    print(f'--- {place}{cell.name}', flush=True)
    began = time.monotonic()
    try:
      all_cells.run(cell)
    except storage.Locked as e:
      print(f'left to the other process: {e}', file=sys.stderr)
      continue
    ran += 1
    said = running.failed(folder, cell) or table.duration(time.monotonic() - began)
    print(f'{cell.name}: {said}', flush=True)
    lifecycle.check_stop()
  mechanism.measure(
      c, folder, s, all_cells.corpora, outcome.rates(c, folder))


def main():
  c = flags.FLAGS.config
  folder = storage.path(flags.FLAGS.workdir or f'runs/{c.name}')
  wanted = Wanted(tuple(flags.FLAGS.only), flags.FLAGS.cells)
  with lifecycle.explained_errors(errors.InputError), lifecycle.resumable(folder):
    plan.check(c)
    if wanted.most != 0:
      run(c, folder, wanted)
    print(outcome.write(c, folder))


if __name__ == '__main__':
  options.define_config('configs/study.py')
  flags.DEFINE_string('workdir', '', 'Folder of the study; default runs/<config.name>.')
  flags.DEFINE_list(
      'only', [], 'Names of methods, or of cells such as sft-0.0003-seed0.')
  flags.DEFINE_integer(
      'cells', None, 'At most so many new cells; 0: the tables alone.', 0)
  lifecycle.launch(main)
