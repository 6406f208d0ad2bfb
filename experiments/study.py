r"""Compares objectives, each at its own learning rate, over several seeds.

python -m experiments.study [--base=idft] [--workdir DIR]

For each objective, the first seed is trained at every rate of the grid. The rate with
the best last validation accuracy (ties: the smaller rate) is trained at all seeds and
evaluated. The table is printed as Markdown and written to DIR/table.md. A second call
skips finished runs. --base=idft trains on rounds of on-policy data, --base=reference
on the reference solutions.
"""

import importlib

from absl import flags
import numpy as np

from ddt_jax import report
from ddt_jax import significance
from ddt_jax import storage
from ddt_jax.report import results
from ddt_jax.training import metrics
from experiments import train
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import workdir

_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'Folder of the runs; default runs/study/BASE.'
)
_BASE = flags.DEFINE_string('base', 'idft', 'Config: the name of a file in configs/.')
_OBJECTIVES = flags.DEFINE_list(
    'objectives', ['sft', 'dft', 'idft'], 'Values of loss.name to compare.'
)
_RATES = flags.DEFINE_list(
    'rates', ['1e-4', '3e-4', '1e-3', '3e-3'], 'Values of optim.lr to choose from.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Number of runs at the chosen rate.')

SPLITS = ('target', 'generalisation', 'retained')


def study_folder():
  return storage.path(_WORKDIR.value or f'runs/study/{_BASE.value}')


def finished(
    stage: str, objective: str, rate: str, seed: int
) -> tuple[results.RunResults, float]:
  """Results and last validation accuracy of a run; trains it if it is new.

  Args:
    stage: 'grid' runs are validated only; 'final' runs are evaluated as well.
    objective: value of loss.name.
    rate: learning rate, as the user wrote it: it is part of the folder's name.
    seed: seed of the run.
  """
  # A fresh config for each run: get_config returns a new one.
  c = importlib.import_module(f'configs.{_BASE.value}').get_config()
  c.name = c.loss.name = objective
  c.seed, c.optim.lr = seed, float(rate)
  # Rates are chosen by validation alone: the evaluation splits must not choose.
  if stage == 'grid':
    c.evaluation.problems = 0
  folder = study_folder() / stage / f'{objective}-{rate}-seed{seed}'
  file = folder / 'results.json'
  if not file.exists():
    print(f'--- {stage}: {folder.name}', flush=True)
    # As `experiments.train` does, so that two calls do not train the same run.
    with storage.lock(folder):
      workdir.keep_config(folder, c)
      train.run(c, folder, inputs.make(c))
      report.write(folder)
  # Not every validation measures accuracy, see validation.accuracy_every.
  lines = metrics.read(folder, 'validation')
  found = results.RunResults.from_json(file.read_text(), file)
  return found, [x for x in lines if 'accuracy' in x][-1]['accuracy']


def interval(shares: list[float]) -> str:
  """Mean over seeds and half-width of Student's 95 % interval, both in %."""
  mean = f'{100 * np.mean(shares):.1f}'
  if len(shares) < 2:
    return mean
  half = significance.student_half_width(np.asarray(shares))
  return f'{mean} ± {100 * half:.1f}'


def row(
    name: str, rate: str, runs: list[results.RunResults], when: str
) -> str:
  """A line of the table: the runs of one objective, 'before' or 'after' training."""
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


def table(rows: list[str], grid: list[str]) -> str:
  """The whole table in Markdown, with its legend and the choice of the rates."""
  measures = [f'{s}, {m}' for m in ('pass@1', 'avg@k') for s in SPLITS]
  head = ['objective', 'lr', *measures, 'NLL', 'phi']
  return '\n'.join([
      '| ' + ' | '.join(head) + ' |', '|---|---|' + '---:|' * (len(head) - 2),
      *rows, '',
      f'Accuracy in %: mean over {_SEEDS.value} seeds ± half of Student\'s 95 %'
      ' interval. NLL and phi of the reference solutions, nats per token.',
      'Validation accuracy by learning rate, first seed: ' + '; '.join(grid) + '.',
  ])


def main():
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
    # Once: the untouched model is the same for all objectives.
    if not rows:
      rows.append(row('untouched', '', runs, 'before'))
    rows.append(row(name, best, runs, 'after'))
  text = table(rows, grid)
  storage.publish(study_folder() / 'table.md', text + '\n')
  print(text)


if __name__ == '__main__':
  lifecycle.launch(main)
