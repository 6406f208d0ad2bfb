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


def loss(
    lines: Sequence[Mapping[str, Any]], best_step: int | None
) -> figure.Figure:
  """NLL in training and validation, and the training loss, by step.

  Args:
    lines: of metrics.jsonl, of every kind.
    best_step: step of the best checkpoint; None without validation.
  """
  train = [line for line in lines if line['kind'] == 'train']
  validation = [line for line in lines if line['kind'] == 'validation']
  steps, nll, objective = (_column(train, k) for k in ('step', 'nll', 'loss'))
  if validation:
    title = _change('Validation NLL', *_column(validation, 'nll')[[0, -1]])
  else:
    title = _change('Training NLL', *_smooth(nll)[[0, -1]])
  fig = style.make_figure(title, height=5.2)
  top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
  for axes, values, label in (
      (top, nll, 'NLL\n(nats per token)'),
      (bottom, objective, 'training loss\n(weighted nats)')):
    axes.set_ylabel(label)
    axes.plot(steps, values, color=style.BEFORE, lw=0.8, alpha=0.35)
    axes.plot(steps, _smooth(values), color=style.BEFORE, lw=1.8)
  if validation:
    _draw_validation(top, validation, best_step)
  # The labels stand above the curves, whose ends may meet.
  low, high = top.get_ylim()
  top.set_ylim(low, high + 0.15 * (high - low))
  labels = [(0.98, 'training', style.BEFORE), (0.83, 'validation', style.AFTER)]
  for x, name, color in labels[:1 + bool(validation)]:
    top.text(x, 0.91, name, color=color, transform=top.transAxes, ha='right')
  bottom.set_xlabel('training step')
  return fig


def phi_histogram(corpus: results.Reference) -> figure.Figure:
  """Share of the reference solutions' tokens by phi, before and after."""
  first, last = corpus.before.phi, corpus.after.phi
  direction = 'towards' if abs(last) < abs(first) else 'away from'
  fig = style.make_figure(
      f'Mean phi of the reference solutions moved {direction} 0, the mean of the'
      f' model\'s own text: {first:+.2f} to {last:+.2f} nats', height=3.8)
  axes = fig.subplots()
  axes.set_ylabel('tokens per bin (%, log scale)')
  axes.set_yscale('log')
  edges = np.asarray(corpus.before.histogram.edges)
  filled = np.zeros(len(edges) - 1)
  # The outlines cross, so their labels stand apart, in the lines' colours.
  for name, stats, color, y in (
      ('before', corpus.before, style.BEFORE, 0.93),
      ('after', corpus.after, style.AFTER, 0.85)):
    counts = np.asarray(stats.histogram.counts)
    filled += counts
    share = 100 * counts / max(counts.sum(), 1)
    # baseline=None: on a log scale a line down to 0 cannot be drawn.
    axes.stairs(share, edges, color=color, lw=1.8, baseline=None)
    axes.axvline(stats.phi, color=color, lw=1.2, ls='--')
    axes.text(0.02, y, f'{name} training (dashed: mean {stats.phi:+.2f})',
              color=color, fontsize=9, transform=axes.transAxes)
  # The histogram is wider than most corpora: empty bins at the ends are cut off.
  used = np.flatnonzero(filled)
  if used.size:
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
  axes.yaxis.set_major_formatter('{x:g}')
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
      axes.plot(value, row + dy, 'o', color=color, ms=6)
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
  axes.set_xlim(0, 112)  # room for the number beside an interval ending at 100
  axes.set_xticks(range(0, 101, 20))
  axes.set_xlabel('problems solved (%), with 95 % intervals')
  return fig


def rounds(found: results.RunResults) -> figure.Figure:
  """pass@1 of each split after each round, with 95 % intervals."""
  measured = found.evaluation
  fig = style.make_figure('Accuracy by round', 3.4)
  axes = fig.subplots()
  axes.set_ylabel('pass@1 (%)')
  colors = style.AFTER, style.BEFORE, style.ink()
  ends = []
  for i, split in enumerate(measured[0]):
    color = colors[i % len(colors)]
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


def _draw_validation(axes, lines, best_step) -> None:
  steps, nll = _column(lines, 'step'), _column(lines, 'nll')
  axes.plot(steps, nll, color=style.AFTER, marker='o', ms=4, lw=1.8)
  if best_step in steps:
    best = nll[list(steps).index(best_step)]
    axes.plot(best_step, best, 'o', ms=11, mfc='none', mec=style.ink())
    axes.annotate('best checkpoint', (best_step, best), (0, 10), fontsize=9,
                  textcoords='offset points', ha='center',
                  bbox=dict(fc=style.paper(), ec='none', alpha=0.8, pad=1))


def _change(name: str, first: float, last: float) -> str:
  if not np.isfinite(first + last):
    return f'{name} is not finite: training diverged'
  verb = 'fell' if last < first else 'rose' if last > first else 'stayed'
  return f'{name} {verb} from {first:.3f} to {last:.3f} nats per token'


def _column(lines: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  return np.array([line.get(name) for line in lines], float)  # None becomes NaN


def _smooth(values: np.ndarray) -> np.ndarray:
  """Running mean over 1/30 of the curve; NaN and infinity are left out."""
  # On each side; together about 1/30 of the curve.
  half = len(values) // 60
  windows = (values[max(i - half, 0):i + half + 1] for i in range(len(values)))
  return np.array([np.mean(finite) if (finite := w[np.isfinite(w)]).size
                   else np.nan for w in windows])
