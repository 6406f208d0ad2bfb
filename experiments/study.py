r"""Objectives side by side: each at its own learning rate, over several seeds.

python -m experiments.study [--base=idft] [--workdir DIR]

For each objective, the first seed is run at every rate of the grid; the rate whose
last validation accuracy is best (ties: the smaller rate) is run at all seeds and
measured. Prints the table as Markdown and writes it to DIR/table.md. Finished runs
are not run again. --base=idft has rounds of on-policy data, --base=reference the
reference solutions.
"""

import importlib

from absl import app
from absl import flags
import numpy as np

from ddt_jax import report
from ddt_jax import storage
from ddt_jax.report import results
from ddt_jax.training import metrics
from experiments import train
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import workdir

_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'Folder of the runs; default runs/compare/<base>.'
)
_BASE = flags.DEFINE_string('base', 'idft', 'The config: a name in configs/.')
_OBJECTIVES = flags.DEFINE_list(
    'objectives', ['sft', 'dft', 'idft'], 'loss.name of the rows.'
)
_RATES = flags.DEFINE_list('rates', ['1e-4', '3e-4', '1e-3', '3e-3'], 'optim.lr')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs at the chosen rate.')

SPLITS = ('target', 'generalisation', 'retained')
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees


def study_folder():
  return storage.path(_WORKDIR.value or f'runs/compare/{_BASE.value}')


def finished(
    stage: str, objective: str, rate: str, seed: int
) -> tuple[results.RunResults, float]:
  """A run's results and last validation accuracy; trains it if it is new.

  Args:
    stage: 'grid' runs are not evaluated, only validated; 'final' ones are.
    objective, rate, seed: loss.name, learning rate and seed.
  """
  c = importlib.import_module(f'configs.{_BASE.value}').get_config()
  c.name = c.loss.name = objective
  c.seed, c.optim.lr = seed, float(rate)
  if stage == 'grid':
    c.evaluation.problems = 0
  folder = study_folder() / stage / f'{objective}-{rate}-seed{seed}'
  file = folder / 'results.json'
  if not file.exists():
    print(f'--- {stage}: {folder.name}', flush=True)
    with storage.lock(folder):
      workdir.keep_config(folder, c)
      train.run(c, folder, inputs.make(c))
      report.write(folder)
  lines = metrics.read(folder, 'validation')
  found = results.RunResults.from_json(file.read_text(), file)
  return found, [x for x in lines if 'accuracy' in x][-1]['accuracy']


def interval(values: list[float]) -> str:
  """Mean over seeds with the half-width of Student's 95 % interval, in %."""
  mean = 100 * np.mean(values)
  if len(values) not in T_95:
    return f'{mean:.1f}'
  error = np.std(values, ddof=1) / np.sqrt(len(values))
  return f'{mean:.1f} ± {100 * T_95[len(values)] * error:.1f}'


def row(
    name: str, rate: str, runs: list[results.RunResults], when: str
) -> str:
  """One row of the table; `when` is 'before' or 'after' training."""
  cells = [name, rate]
  round_index = {'before': 0, 'after': -1}[when]
  for measure in ('pass_at_1', 'avg_at_k'):
    for split in SPLITS:
      found = [r.evaluation[round_index][split] for r in runs]
      cells.append(interval([getattr(x, measure).value for x in found]))
  corpora = [getattr(r.corpus, when) for r in runs]
  cells += [f'{np.mean([x.nll for x in corpora]):.2f}',
            f'{np.mean([x.phi for x in corpora]):.2f}']
  return '| ' + ' | '.join(cells) + ' |'


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  lifecycle.start()
  rows, grid = [], []
  for name in _OBJECTIVES.value:
    tried = {rate: finished('grid', name, rate, 0) for rate in _RATES.value}
    accuracy = {rate: validation for rate, (_, validation) in tried.items()}
    best = max(_RATES.value, key=lambda rate: (accuracy[rate], -float(rate)))
    grid.append(f'{name}: ' + ', '.join(
        f'{rate} {100 * a:.1f} %' for rate, a in accuracy.items()
    ) + f' -> {best}')
    runs = [
        finished('final', name, best, seed)[0] for seed in range(_SEEDS.value)]
    if not rows:
      rows.append(row('untouched', '', runs, 'before'))
    rows.append(row(name, best, runs, 'after'))
  measures = [f'{s}, {m}' for m in ('pass@1', 'avg@k') for s in SPLITS]
  head = ['objective', 'lr', *measures, 'NLL', 'phi']
  table = '\n'.join([
      '| ' + ' | '.join(head) + ' |', '|---|---|' + '---:|' * (len(head) - 2),
      *rows, '',
      f'Accuracy in %: mean over {_SEEDS.value} seeds ± half of Student\'s 95 %'
      ' interval. NLL and phi of the reference solutions, nats per token.',
      'Validation accuracy by learning rate, first seed: ' + '; '.join(grid) + '.',
  ])
  storage.publish(study_folder() / 'table.md', table + '\n')
  print(table)


if __name__ == '__main__':
  app.run(main)
