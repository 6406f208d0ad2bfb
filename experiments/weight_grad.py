r"""The gradient through IDFT's weight, beside the weight as a constant.

python -m experiments.weight_grad
python -m experiments.weight_grad --epochs=1 --problems=200
python -m experiments.weight_grad --workdir DIR --points=20

Trains the embedded student twice on given solutions, with weight_grad=through (the
official code until March 2026) and with stop (the paper's formula), and prints both
curves: with the gradient through p^gamma the loss falls because unlikely tokens become
more unlikely. An interrupted call resumes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
import numpy as np

from configs import reference
from ddt_jax import storage
from ddt_jax.report import results
from ddt_jax.training import metrics
from experiments import train
from experiments.run import lifecycle

KINDS = ('through', 'stop')
COLUMNS = ('loss', 'phi', 'nll')

Lines = Sequence[Mapping[str, Any]]


def config(kind: str, epochs: int, problems: int) -> Any:
  """So many reference solutions in one round, with this gradient of the weight."""
  c = reference.get_config()
  c.name, c.loss.weight_grad = f'weight_grad_{kind}', kind
  c.loss.gamma_max = 2.0  # the official code's
  c.rounds, c.train.epochs = 1, epochs
  c.curate.per_round = problems
  c.optim.lr, c.optim.schedule = 1e-3, 'constant'
  c.evaluation.problems, c.evaluation.samples = 100, 0
  c.validation.every = 0
  return c


def curve(lines: Lines, points: int) -> list[tuple[int, list[float]]]:
  """(last step, means of `COLUMNS`) of so many stretches of a run.

  Args:
    lines: of metrics.jsonl, of kind train.
    points: number of stretches; fewer where there are fewer lines.
  """
  parts = np.array_split(np.arange(len(lines)), min(points, len(lines)))
  return [
      (lines[part[-1]]['step'],
       [float(np.mean([lines[i][name] for i in part])) for name in COLUMNS])
      for part in parts]


def table(lines: Mapping[str, Lines], points: int) -> str:
  """Both curves in Markdown; `lines` by kind, logged at the same steps."""
  curves = [curve(lines[kind], points) for kind in KINDS]
  names = {'loss': 'loss', 'phi': 'mean phi', 'nll': 'NLL'}
  head = ['steps', *(f'{kind}: {names[c]}' for kind in KINDS for c in COLUMNS)]
  rows = [
      [f'to {step}', *(f'{x:.3f}' for x in through + stop)]
      for (step, through), (_, stop) in zip(*curves, strict=True)]
  return '\n'.join([
      '| ' + ' | '.join(head) + ' |', '|---|' + '---:|' * (len(head) - 1),
      *('| ' + ' | '.join(row) + ' |' for row in rows)])


def main():
  options = flags.FLAGS
  workdir = storage.path(options.workdir)
  lines, said = {}, []
  for kind in KINDS:
    folder = workdir / kind
    train.execute(config(kind, options.epochs, options.problems), str(folder))
    lines[kind] = metrics.read(folder, 'train')
    file = folder / 'results.json'
    last = results.RunResults.from_json(file.read_text(), file).evaluation[-1]
    said.append(f'{kind}: ' + ', '.join(
        f'{split} {100 * found.pass_at_1.value:.0f} %' for split, found in last.items()))
  text = '\n'.join([
      table(lines, options.points), '',
      'Means over the steps, per token, of the batches that are trained; nats. pass@1'
      f' after training: {"; ".join(said)}.'])
  storage.publish(workdir / 'table.md', text + '\n')
  print(text)


if __name__ == '__main__':  # other commands have flags of the same names
  flags.DEFINE_string('workdir', 'runs/weight_grad', 'Folder of both runs.')
  flags.DEFINE_integer('epochs', 4, 'Passes over the solutions.')
  flags.DEFINE_integer('problems', 1000, 'Number of solutions.')
  flags.DEFINE_integer('points', 8, 'Rows of the table.')
  lifecycle.launch(main)
