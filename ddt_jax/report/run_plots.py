"""Plots of a run. Their titles state the result.

Each function returns a figure in the current style; `style.draw` calls it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure
import numpy as np

from ddt_jax.report import results
from ddt_jax.report import run_words
from ddt_jax.report import style
from ddt_jax.scoring import text_stats


def loss(
    lines: Sequence[Mapping[str, Any]], training: results.Training
) -> figure.Figure:
  """NLL in training and validation, the training loss, and accuracy, by step.

  Args:
    lines: of metrics.jsonl, of every kind; at least one of training.
    training: names the best checkpoint, if there is one.
  """
  train = [line for line in lines if line['kind'] == 'train']
  validation = [line for line in lines if line['kind'] == 'validation']
  solved = [line for line in validation if line.get('accuracy') is not None]
  of_pairs = any('rewards/margins' in line for line in train)
  name, nll = 'Validation NLL', column(validation, 'nll')
  if len(validation) < 2:
    name, nll = 'Training NLL', smooth(column(train, 'nll'))
  fig = style.make_figure(
      _change(name, nll[0], nll[-1], len(nll)), height=5.2 + 1.4 * bool(solved))
  top, bottom, *more = fig.subplots(
      2 + bool(solved), 1, sharex=True, height_ratios=[3, 2, 2][:2 + bool(solved)])
  for axes, scalar, label in (
      (top, 'nll', 'NLL\n(nats per token)'),
      (bottom, 'loss', f'training loss\n({"per pair" if of_pairs else "weighted nats"})')):
    axes.set_ylabel(label)
    draw_curve(axes, train, scalar)
  if validation:
    _draw_validation(top, validation, 'nll', training)
  for axes in more:
    axes.set_ylabel('validation\naccuracy (%)')
    _draw_validation(axes, solved, 'accuracy', training)
  # The labels stand above the curves, whose ends may meet.
  low, high = top.get_ylim()
  top.set_ylim(low, high + 0.15 * (high - low))
  labels = [(0.98, 'training', style.TRAINING), (0.78, 'validation', style.VALIDATION)]
  if of_pairs:  # their NLL is of other texts
    labels = [(0.98, 'training: right answers', style.TRAINING),
              (0.5, 'validation: references', style.VALIDATION)]
  for x, name, color in labels[:1 + bool(validation)]:
    top.text(x, 0.91, name, color=color, transform=top.transAxes, ha='right')
  # The model is measured where a round ends; the next one has other data.
  ends = [line['step'] for line in lines if line['kind'] == 'evaluation']
  for step in ends:
    if train[0]['step'] < step < train[-1]['step']:
      for axes in (top, bottom, *more):
        axes.axvline(step, color=style.ink(), lw=0.8, ls=':')
  last = [bottom, *more][-1]
  last.set_xlabel('training step')
  last.xaxis.get_major_locator().set_params(integer=True)
  return fig


def phi_histogram(corpus: results.Reference, after: bool = True) -> figure.Figure:
  """Share of the reference solutions' tokens by phi, before and after.

  Args:
    corpus: the reference solutions.
    after: False while `corpus.after` is not measured: it is not drawn.
  """
  fig = style.make_figure(
      _phi_moved(corpus) if after else
      'Before training mean phi of the reference solutions is'
      f' {corpus.before.phi:+.2f} nats', height=3.8)
  axes = fig.subplots()
  axes.set_ylabel('tokens per bin (%, log scale)')
  axes.set_yscale('log')
  edges = np.asarray(corpus.before.histogram.edges)
  filled, highest = np.zeros(len(edges) - 1), 0.0
  # The outlines cross, so their labels stand apart, in the lines' colours.
  for name, stats, color, y in (
      ('before', corpus.before, style.BEFORE, 0.93),
      ('after', corpus.after, style.AFTER, 0.85))[:1 + after]:
    counts = np.asarray(stats.histogram.counts)
    filled += counts
    share = 100 * counts / max(counts.sum(), 1)
    # baseline=None: on a log scale a line down to 0 cannot be drawn.
    axes.stairs(share, edges, color=color, lw=1.8, baseline=None)
    axes.axvline(stats.phi, color=color, lw=1.2, ls='--')
    axes.text(0.02, y, f'{name} training (dashed: mean {stats.phi:+.2f})',
              color=color, fontsize=9, transform=axes.transAxes)
    highest = max(highest, share.max())
  # The histogram is wider than most corpora: empty bins at the ends are cut off.
  used = np.flatnonzero(filled)
  if used.size:
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
  # The labels stand above the outlines, in the upper 20 % of a log scale.
  low = min(100 / max(filled.sum(), 1), highest / 10)
  axes.set_ylim(0.7 * low, highest * (1.5 * highest / low) ** 0.3)
  # Powers of ten alone, up to 100 %: between them Matplotlib writes labels like
  # 3x10^1.
  axes.set_yticks([t for t in 10.0 ** np.arange(-6, 3) if t >= 0.7 * low])
  axes.yaxis.set_major_formatter('{x:g}')
  axes.yaxis.set_minor_formatter('')
  axes.axvline(0, color=style.ink(), lw=0.8)
  axes.set_xlabel('phi (nats); left: surprises the model')
  return fig


def accuracy(found: results.RunResults) -> figure.Figure:
  """Accuracy by split before and after training, with 95 % intervals."""
  compared = run_words.comparisons(found)
  fig = style.make_figure(run_words.headline(found), 1.6 + 0.55 * len(compared))
  axes = fig.subplots()
  for row, comparison in enumerate(compared):
    for name, share, color, dy in (
        ('before', comparison.before, style.BEFORE, -0.13),
        ('after', comparison.after, style.AFTER, 0.13)):
      value, low, high = (100 * x for x in share)
      axes.plot([low, high], [row + dy] * 2, color=color, lw=2, alpha=0.6,
                solid_capstyle='butt')
      axes.plot(value, row + dy, 'o', color=color, ms=6, clip_on=False)
      # The first row's labels serve as the legend.
      label = f'{value:.1f}' if row else f'{value:.1f} {name}'
      axes.annotate(label, (high, row + dy), (5, 0), color=color, fontsize=8.5,
                    textcoords='offset points', va='center')
    if row and comparison.split != compared[row - 1].split:
      axes.axhline(row - 0.5, color=style.ink(), lw=0.5, alpha=0.3)
  axes.set_yticks(range(len(compared)),
                  [f'{c.split}, {c.metric}' for c in compared])
  # Upside down, so that the first split is at the top.
  axes.set_ylim(len(compared) - 0.5, -0.5)
  axes.set_xlim(0, 118)  # room for the number beside an interval ending at 100
  axes.set_xticks(range(0, 101, 20))
  axes.set_xlabel('problems solved (%), with 95 % intervals')
  return fig


def rounds(found: results.RunResults) -> figure.Figure:
  """pass@1 of each split after each round, with 95 % intervals."""
  measured = found.evaluation
  fig = style.make_figure('Accuracy by round', 3.4)
  axes = fig.subplots()
  axes.set_ylabel('pass@1 (%)')
  ends = []
  for i, split in enumerate(measured[0]):
    color = f'C{2 + i % 4}'  # not those of before and after
    values, lows, highs = (
        100 * np.array(column)
        for column in zip(*(m[split].pass_at_1 for m in measured), strict=True)
    )
    x = np.arange(len(measured)) + 0.02 * i  # so that no bar hides another
    axes.errorbar(x, values, [values - lows, highs - values], color=color,
                  marker='o', lw=1.5, elinewidth=1, alpha=0.9)
    ends.append((values[-1], split, color))
  lowest = -np.inf
  for value, split, color in sorted(ends):
    lowest = max(value, lowest + 6)  # so that labels do not overlap
    axes.annotate(f'{split} {value:.1f}', (len(measured) - 0.9, lowest),
                  color=color, fontsize=9, va='center')
  axes.set_xticks(range(len(measured)), ['before', *(
      f'after round {i}' for i in range(1, len(measured)))])
  axes.set_xlim(-0.2, len(measured) - 0.2)
  axes.set_ylim(0, 105)
  return fig


def draw_curve(
    axes, lines: Sequence[Mapping[str, Any]], name: str, *,
    color: str = style.TRAINING, scale: float = 1.0
) -> None:
  """Draws a scalar and its running mean; one point alone is drawn as a point.

  Args:
    axes: of Matplotlib.
    lines: of metrics.jsonl.
    name: of the scalar.
    color: of both curves.
    scale: factor of the values.
  """
  steps, values = column(lines, 'step'), scale * column(lines, name)
  few = dict(marker='o', ms=4) if len(steps) < 10 else {}
  axes.plot(steps, values, color=color, lw=0.8, alpha=0.35)
  axes.plot(steps, smooth(values), color=color, lw=1.8, **few)
  if len(steps) == 1:
    # Around one point Matplotlib would show a range far below a step.
    axes.set_xlim(steps[0] - 1, steps[0] + 1)


def _draw_validation(axes, lines, name, training) -> None:
  """Values of the validations; the best one has a ring, if it is best by them."""
  steps = column(lines, 'step')
  values = column(lines, name) * (100 if name == 'accuracy' else 1)
  axes.plot(steps, values, color=style.VALIDATION, marker='o', ms=4, lw=1.8)
  if training.best_by == name and training.best_step in steps and len(steps) > 1:
    best = values[list(steps).index(training.best_step)]
    axes.plot(training.best_step, best, 'o', ms=11, mfc='none', mec=style.ink())
    axes.annotate('best', (training.best_step, best), (0, 10), fontsize=9,
                  textcoords='offset points', ha='center',
                  bbox=dict(fc=style.paper(), ec='none', alpha=0.8, pad=1))
    axes.margins(y=0.3)  # room for the word


def _phi_moved(corpus: results.Reference) -> str:
  """How mean phi changed; claims nothing within two standard errors."""
  first, last = corpus.before.phi, corpus.after.phi
  error = _standard_error(corpus.before.histogram)
  between = f'{first:+.2f} to {last:+.2f} nats'
  if abs(last - first) < max(2 * error, 0.005):
    return f'Mean phi of the reference solutions hardly changed: {between}'
  direction = 'towards' if abs(last) < abs(first) else 'away from'
  return (f'Mean phi of the reference solutions moved {direction} 0, the mean of'
          f' the model\'s own text: {between}')


def _standard_error(histogram: text_stats.Histogram) -> float:
  """Of the mean of phi, from its bins."""
  edges, counts = np.asarray(histogram.edges), np.asarray(histogram.counts)
  n = max(counts.sum(), 1.0)
  middle = (edges[1:] + edges[:-1]) / 2
  mean = (counts * middle).sum() / n
  return float(np.sqrt((counts * (middle - mean) ** 2).sum() / n / n))


def _change(name: str, first: float, last: float, points: int) -> str:
  if points == 1:
    return f'{name} was {last:.3f} nats per token at the one step logged'
  if not np.isfinite(first + last):
    return f'{name} is not finite: training diverged'
  verb = 'fell' if last < first else 'rose' if last > first else 'stayed'
  return f'{name} {verb} from {first:.3f} to {last:.3f} nats per token'


def column(lines: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  """A scalar of each line; NaN where it is missing or was not finite."""
  return np.array([line.get(name) for line in lines], float)  # None becomes NaN


def smooth(values: np.ndarray) -> np.ndarray:
  """Running mean over 1/30 of the curve; NaN and infinity are left out."""
  # On each side; together about 1/30 of the curve.
  half = len(values) // 60
  windows = (values[max(i - half, 0):i + half + 1] for i in range(len(values)))
  return np.array([np.mean(finite) if (finite := w[np.isfinite(w)]).size
                   else np.nan for w in windows])
