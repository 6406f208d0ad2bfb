"""Several runs on one page: curves over each other, accuracies, differences."""

from collections.abc import Mapping, Sequence
import os
import textwrap
from typing import Any, NamedTuple

from etils import epath
from matplotlib import figure
import numpy as np

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.report import page
from ddt_jax.report import results
from ddt_jax.report import run
from ddt_jax.report import run_plots
from ddt_jax.report import run_words
from ddt_jax.report import style
from ddt_jax.report import table

_WIDTH = 100  # columns of the terminal
_TIES = 0.02  # share of problems
NOTES = (
    'Accuracy: share of problems solved by the greedy answer (pass@1) or mean over'
    ' k sampled answers (avg@k), in %. [low, high]: 95 % interval over the problems.'
    ' Runs whose intervals overlap may differ by chance; another seed changes the'
    ' numbers by more.')


_TRAINING = {  # heads of a table, for those who point at them
    'objective': 'loss.name',
    'learning rate': 'peak, optim.lr',
    'steps': 'of all rounds that are done',
    'tokens': 'that were trained on, repeated ones counted again',
    'time': 'of the steps alone',
    'NLL of references': 'after the last round, nats per token; objectives other than'
                         ' sft may raise it while the model learns',
    'phi of references': 'likewise; before training it is lower for foreign texts',
}


class Run(NamedTuple):
  """One of the runs.

  Attributes:
    name: of its folder.
    config: config.json.
    found: its results.
    lines: of metrics.jsonl.
  """

  name: str
  config: dict[str, Any]
  found: results.RunResults
  lines: list[dict[str, Any]]


def compare(folders: Sequence[str | os.PathLike[str]], out: epath.Path) -> str:
  """Writes the page of several runs.

  Args:
    folders: of the runs, finished or not; two or more.
    out: the page.

  Returns:
    Its tables as plain text, for the terminal.

  Raises:
    FileNotFoundError: a folder is none of a run.
    errors.InputError: a folder is named twice, or its results are of another
      version.
  """
  paths = [storage.path(f) for f in folders]
  if len(set(map(str, paths))) < len(paths):
    raise errors.InputError('a run is named twice in --workdir')
  last = [p.name for p in paths]
  names = last if len(set(last)) == len(last) else list(map(str, paths))
  runs = [
      Run(name, *run.read(p)) for name, p in zip(names, paths, strict=True)]
  tables = [
      ('Accuracy', accuracy_table(runs)), ('Training', training_table(runs)),
      ('Distance from the model before training', kl_table(runs)),
      ('Options in which the runs differ', differences(runs))]
  tables = [(heading, content) for heading, content in tables if content.rows]
  said = verdicts(runs)
  plots = [
      page.Plot(heading, caption, style.draw(draw, runs))
      for heading, caption, draw, ready in (
          ('Accuracy after training', 'Dots: share of problems solved. Bars: 95 %'
           ' intervals. Black: before training, where it is the same for all runs.',
           accuracy_plot,
           any(r.found.evaluation for r in runs)),
          ('Learning curves', 'NLL in training (running mean), and validation'
           ' accuracy where it was measured.', curves,
           any(line['kind'] == 'train' for r in runs for line in r.lines)))
      if ready]
  storage.publish(out, page.comparison(
      title=f'{len(runs)} runs compared', verdicts=said, tables=tables, plots=plots,
      notes=NOTES))
  return '\n\n'.join([
      *(textwrap.fill(text, _WIDTH) for text in said),
      *(table.aligned(content) for _, content in tables),
      textwrap.fill(NOTES, _WIDTH), f'Comparison: {out}\n'])


def verdicts(runs: Sequence[Run]) -> list[str]:
  """The best run of each split by the greedy answer, and those within its noise."""
  said = []
  splits = dict.fromkeys(
      split for r in runs if r.found.evaluation for split in r.found.evaluation[0])
  for split in splits:
    shares = {
        r.name: last[split].pass_at_1 for r in runs
        if (last := _last(r.found)) and split in last}
    if len(shares) < 2:
      continue
    if apart := _began_apart(runs, split):
      said.append(apart)
      continue
    shown = {name: f'{100 * share.value:.1f}' for name, share in shares.items()}
    top = max(shares.values(), key=lambda share: share.value)
    # As printed: runs that differ by less than the digits shown are equal.
    best = [name for name in shares if shown[name] == f'{100 * top.value:.1f}']
    near = [name for name, share in shares.items()
            if name not in best and share.high >= top.low]
    rest = len(shares) - len(best)
    said.append(
        f'{split}: {_highest(best)} {shown[best[0]]} % (pass@1)'
        + (f'; within the noise: {", ".join(near)}.' if near else
           ', by more than the noise.' if rest else '.'))
  return said


def _began_apart(runs: Sequence[Run], split: str) -> str:
  """Says why a split is not compared: other models or problems; '' if it can be."""
  first = {
      r.name: r.found.evaluation[0][split] for r in runs
      if r.found.evaluation and split in r.found.evaluation[0]}
  values = [x.pass_at_1.value for x in first.values()]
  # The same model on the same problems differs by ties between devices at most.
  if len({x.problems for x in first.values()}) == 1 and (
      max(values) - min(values) <= _TIES):
    return ''
  before = ', '.join(
      f'{100 * x.pass_at_1.value:.1f} % of {x.problems:,} ({name})'
      for name, x in first.items())
  return (f'{split}: not compared. The runs began with other models or have other'
          f' problems: before training {before}.')


def _highest(names: Sequence[str]) -> str:
  """'a is highest with', or 'a, b and c are highest, all with'."""
  *others, last = names
  if not others:
    return f'{last} is highest with'
  return (f'{", ".join(others)} and {last} are highest,'
          f' {"all" if others[1:] else "both"} with')


def _last(found: results.RunResults) -> results.Evaluation | None:
  """Accuracy after the last measured round; None before a round ends."""
  measured = found.evaluation and found.measured_after
  return found.evaluation[-1] if measured else None


def accuracy_table(runs: Sequence[Run]) -> table.Table:
  """Accuracy of each run after its last measured round, and before training."""
  splits = dict.fromkeys(
      split for r in runs if r.found.evaluation for split in r.found.evaluation[0])
  rows = []
  for split in splits:
    for measure in ('pass_at_1', 'avg_at_k'):
      first = [
          _cell(r.found.evaluation and r.found.evaluation[0], split, measure)
          for r in runs]
      last = [_cell(_last(r.found), split, measure) for r in runs]
      if any(first + last):
        before = set(filter(None, first))
        # Runs of another model or of other problems begin elsewhere.
        rows.append([
            split, {'pass_at_1': 'pass@1', 'avg_at_k': 'avg@k'}[measure],
            before.pop() if len(before) == 1 else 'differs', *last])
  names = [
      r.name if r.found.status is None else f'{r.name} (not finished)' for r in runs]
  return table.Table(['split', 'measure', 'before training', *names], rows)


def _cell(evaluation: results.Evaluation | None, split: str, measure: str) -> str:
  """An accuracy with its interval, in %; '' where it was not measured."""
  measured = evaluation.get(split) if evaluation else None
  share = measured and getattr(measured, measure)
  return run_words.interval(share) if share else ''


def training_table(runs: Sequence[Run]) -> table.Table:
  """Objective, length and references of each run."""
  return table.Table(
      ['run', 'objective', 'learning rate', 'steps', 'tokens', 'time',
       'NLL of references', 'phi of references'],
      [[r.name, r.config['loss']['name'], f'{r.config["optim"]["lr"]:g}',
        f'{r.found.training.steps:,}', f'{r.found.training.tokens:,}',
        table.duration(r.found.training.seconds), *_references(r.found)]
       for r in runs], words=(0, 1), about=_TRAINING)


def _references(found: results.RunResults) -> list[str]:
  """NLL and phi of the reference solutions after training; '' before a round ends."""
  if not found.measured_after:
    return ['', '']
  return [f'{found.corpus.after.nll:.3f}', f'{found.corpus.after.phi:+.3f}']


def kl_table(runs: Sequence[Run]) -> table.Table:
  """KL of the base to each run's last model; no row where no run measured it."""
  last = [r.found.kl_to_base[-1] if r.found.kl_to_base and r.found.measured_after
          else {} for r in runs]
  return table.Table(
      ['KL to base (nats per token)', *(r.name for r in runs)],
      [[split, *(f'{kl[split]:.4f}' if split in kl else '' for kl in last)]
       for split in dict.fromkeys(s for kl in last for s in kl)])


def differences(runs: Sequence[Run]) -> table.Table:
  """The options that are not the same in all runs."""
  flat = [_flat(r.config) for r in runs]
  names = [
      name for name in dict.fromkeys(n for f in flat for n in f)
      if name != 'name' and len({str(f.get(name)) for f in flat}) > 1]
  return table.Table(
      ['option', *(r.name for r in runs)],
      [[name, *(str(f.get(name, 'not set')) for f in flat)] for name in names],
      words=tuple(range(len(runs) + 1)))


def _flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  found = {}
  for name, value in config.items():
    if isinstance(value, dict):
      found |= _flat(value, f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = value
  return found


def _color(i: int) -> str:
  return f'C{i % style.COLORS}'


def accuracy_plot(runs: Sequence[Run]) -> figure.Figure:
  """pass@1 of each run by split, with 95 % intervals."""
  measured = [(i, r) for i, r in enumerate(runs) if r.found.evaluation]
  splits = list(dict.fromkeys(
      split for _, r in measured for split in r.found.evaluation[0]))
  # Runs of another model or of other problems begin elsewhere.
  first = [r.found.evaluation[0] for _, r in measured]
  before = first[0] if all(x == first[0] for x in first) else None
  rows = len(measured) + bool(before)
  fig = style.make_figure(
      'Accuracy (pass@1) after training, by run',
      1.2 + 0.26 * rows * len(splits))
  axes = fig.subplots()
  for i, split in enumerate(splits):
    shown = [('before', style.ink(), before)] if before else []
    shown += [(r.name, _color(j), last) for j, r in measured if (
        last := _last(r.found))]
    for k, (name, color, evaluation) in enumerate(shown):
      if split not in evaluation:
        continue
      value, low, high = (100 * x for x in evaluation[split].pass_at_1)
      y = i + (k - (rows - 1) / 2) * 0.8 / rows
      axes.plot([low, high], [y, y], color=color, lw=2, alpha=0.6,
                solid_capstyle='butt')
      axes.plot(value, y, 'o', color=color, ms=5)
      axes.annotate(f'{value:.1f} {name}', (high, y), (5, 0), color=color,
                    fontsize=8, textcoords='offset points', va='center')
  axes.set_yticks(range(len(splits)), splits)
  axes.set_ylim(len(splits) - 0.5, -0.5)
  axes.set_xlim(0, 130)  # room for the names beside intervals that end at 100
  axes.set_xticks(range(0, 101, 20))
  axes.set_xlabel('problems solved (%), with 95 % intervals')
  return fig


def curves(runs: Sequence[Run]) -> figure.Figure:
  """Training NLL and validation accuracy of the runs, by step."""
  solved = [[x for x in r.lines if x.get('kind') == 'validation'
             and x.get('accuracy') is not None] for r in runs]
  panels = 1 + any(solved)
  fig = style.make_figure('NLL of the training data, by run', 2.6 + 2.0 * panels)
  top, *more = np.atleast_1d(fig.subplots(panels, 1, sharex=True))
  top.set_ylabel('training NLL\n(nats per token)')
  for i, (r, validations) in enumerate(zip(runs, solved, strict=True)):
    lines = [x for x in r.lines if x['kind'] == 'train']
    if not lines:
      continue
    few = dict(marker='o', ms=4)
    top.plot(
        run_plots.column(lines, 'step'),
        run_plots.smooth(run_plots.column(lines, 'nll')), color=_color(i), lw=1.8,
        label=r.name, **few if len(lines) < 10 else {})
    for axes in more:
      axes.plot(
          run_plots.column(validations, 'step'),
          100 * run_plots.column(validations, 'accuracy'), color=_color(i), lw=1.8,
          **few)
  top.legend(frameon=False, fontsize=8)
  for axes in more:
    axes.set_ylabel('validation\naccuracy (%)')
  last = [top, *more][-1]
  last.set_xlabel('training step')
  last.xaxis.get_major_locator().set_params(integer=True)
  return fig
