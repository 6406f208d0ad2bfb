"""The report's plots, as PNG bytes. A plot's title says what there is to see.

Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""
import io
import textwrap
from typing import NamedTuple

from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np

from ddt_jax.report import results
from ddt_jax.report import run_words


class Theme(NamedTuple):
  """The colours of a plot."""
  paper: str
  ink: str
  before: str  # also: the training curve
  after: str  # also: the validation curve


LIGHT = Theme('#ffffff', '#22262b', '#b34f00', '#0072b2')
DARK = Theme('#15181c', '#e4e6e9', '#e69f00', '#56b4e9')


def loss(metrics: list[dict], best_step: int | None, theme: Theme) -> bytes:
  """NLL of training and validation, and the objective, over the steps.

  Args:
    metrics: the lines of metrics.jsonl, of any kind.
    best_step: where the best checkpoint was taken; None without validation.
    theme: the colours.
  """
  train = [row for row in metrics if row['kind'] == 'train']
  validation = [row for row in metrics if row['kind'] == 'validation']
  steps, nll, objective = (_column(train, k) for k in ('step', 'nll', 'loss'))
  if validation:
    title = _went('Validation NLL', *_column(validation, 'nll')[[0, -1]])
  else:
    title = _went('Training NLL', *_smooth(nll)[[0, -1]])
  fig = make_figure(theme, title, height=5.2)
  top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
  for axes, values, label in ((top, nll, 'NLL\n(nats per token)'),
                              (bottom, objective, 'training loss\n'
                               '(weighted nats)')):
    style(axes, theme, y=label)
    axes.plot(steps, values, color=theme.before, lw=0.8, alpha=0.35)
    axes.plot(steps, _smooth(values), color=theme.before, lw=1.8)
  if validation:
    _draw_validation(top, validation, best_step, theme)
  # Side by side above the curves, whose ends may meet.
  low, high = top.get_ylim()
  top.set_ylim(low, high + 0.15 * (high - low))
  for x, name, color in ((0.98, 'training', theme.before),
                         (0.83, 'validation', theme.after))[:1 + bool(validation)]:
    top.text(x, 0.91, name, color=color, transform=top.transAxes, ha='right')
  bottom.set_xlabel('training step', color=theme.ink)
  return png(fig)


def _draw_validation(axes, rows, best_step, theme: Theme) -> None:
  steps, nll = _column(rows, 'step'), _column(rows, 'nll')
  axes.plot(steps, nll, color=theme.after, marker='o', ms=4, lw=1.8)
  if best_step in steps:
    best = nll[list(steps).index(best_step)]
    axes.plot(best_step, best, 'o', ms=11, mfc='none', mec=theme.ink)
    axes.annotate('best checkpoint', (best_step, best), (0, 10), color=theme.ink,
                  textcoords='offset points', fontsize=9, ha='center',
                  bbox=dict(fc=theme.paper, ec='none', alpha=0.8, pad=1))


def phi_histogram(corpus: results.Reference, theme: Theme) -> bytes:
  """Share of the reference solutions' tokens by phi, before and after training."""
  before, after = corpus.before.phi, corpus.after.phi
  closer = 'closer to' if abs(after) < abs(before) else 'not closer to'
  title = (f'Mean phi of the reference solutions went from {before:+.2f} to '
           f'{after:+.2f} nats: {closer} 0, the value of the model\'s own text')
  edges = np.asarray(corpus.before.histogram.edges)
  shares = {
      name: 100 * np.asarray(counts) / max(sum(counts), 1)
      for name, counts in (('before', corpus.before.histogram.counts),
                           ('after', corpus.after.histogram.counts))}
  fig = make_figure(theme, title, height=3.8)
  axes = fig.subplots()
  style(axes, theme, y='tokens per bin (%, log scale)')
  axes.set_yscale('log')
  for name, share in shares.items():
    color = getattr(theme, name)
    axes.stairs(share, edges, color=color, lw=1.8, baseline=None)
    mean = getattr(corpus, name).phi
    axes.axvline(mean, color=color, lw=1.2, ls='--')
  used = np.flatnonzero(shares['before'] + shares['after'])
  if used.size:
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
  axes.yaxis.set_major_formatter('{x:g}')
  axes.axvline(0, color=theme.ink, lw=0.8)
  # The two outlines cross; their names stand apart, in their colours.
  for name, y in (('before', 0.93), ('after', 0.85)):
    label = f'{name} training (dashed: mean {getattr(corpus, name).phi:+.2f})'
    axes.text(0.02, y, label, color=getattr(theme, name), fontsize=9,
              transform=axes.transAxes)
  axes.set_xlabel('phi (nats); left: surprises the model', color=theme.ink)
  return png(fig)


def accuracy(found: results.RunResults, theme: Theme) -> bytes:
  """Accuracy before and after per split, with 95 % intervals."""
  compared = run_words.comparisons(found)
  fig = make_figure(theme, run_words.headline(found), 1.6 + 0.55 * len(compared))
  axes = fig.subplots()
  style(axes, theme)
  for row, comparison in enumerate(compared):
    for name, dy in (('before', -0.13), ('after', 0.13)):
      measure, color = getattr(comparison, name), getattr(theme, name)
      value, low, high = (100 * x for x in measure)
      axes.plot([low, high], [row + dy] * 2, color=color, lw=2, alpha=0.6,
                solid_capstyle='butt')
      axes.plot(value, row + dy, 'o', color=color, ms=6)
      label = f'{value:.1f}' if row else f'{value:.1f} {name}'
      axes.annotate(label, (high, row + dy), (5, 0), color=color, fontsize=8.5,
                    textcoords='offset points', va='center')
    if comparison.split != compared[row - 1].split and row:
      axes.axhline(row - 0.5, color=theme.ink, lw=0.5, alpha=0.3)
  axes.set_yticks(range(len(compared)),
                  [f'{c.split}, {c.metric}' for c in compared])
  axes.set_ylim(len(compared) - 0.5, -0.5)
  axes.set_xlim(0, 112)  # Room for the number beside an interval ending at 100.
  axes.set_xticks(range(0, 101, 20))
  axes.set_xlabel('problems solved (%), with 95 % intervals', color=theme.ink)
  return png(fig)


def rounds(found: results.RunResults, theme: Theme) -> bytes:
  """pass@1 of each split after each round, with 95 % intervals."""
  measured = found.evaluation
  fig = make_figure(theme, 'Accuracy round by round', 3.4)
  axes = fig.subplots()
  style(axes, theme, 'pass@1 (%)')
  colors = theme.after, theme.before, theme.ink
  ends = []
  for i, split in enumerate(measured[0]):
    color = colors[i % len(colors)]
    values, lows, highs = (
        100 * np.array(column)
        for column in zip(*(m[split].pass_at_1 for m in measured), strict=True)
    )
    x = np.arange(len(measured)) + 0.02 * i  # so that bars do not hide bars
    axes.errorbar(x, values, [values - lows, highs - values], color=color,
                  marker='o', lw=1.5, elinewidth=1, alpha=0.9)
    ends.append((values[-1], split, color))
  lowest = -np.inf
  for value, split, color in sorted(ends):
    lowest = max(value, lowest + 6)  # labels do not overlap
    axes.annotate(f'{split} {value:.1f}', (len(measured) - 0.9, lowest),
                  color=color, fontsize=9, va='center')
  axes.set_xticks(range(len(measured)), ['before', *(
      f'after round {i}' for i in range(1, len(measured)))])
  axes.set_xlim(-0.2, len(measured) - 0.2)
  axes.set_ylim(0, 105)
  return png(fig)


def _went(what: str, first: float, last: float) -> str:
  if not np.isfinite(first + last):
    return f'{what} is not finite: training diverged'
  verb = 'fell' if last < first else 'rose' if last > first else 'stayed'
  return f'{what} {verb} from {first:.3f} to {last:.3f} nats per token'


def _column(rows: list[dict], name: str) -> np.ndarray:
  return np.array([row.get(name) for row in rows], float)  # None becomes NaN


def _smooth(values: np.ndarray) -> np.ndarray:
  """Mean over a window of a thirtieth of the curve, blind to NaN."""
  half = len(values) // 60
  windows = (values[max(i - half, 0):i + half + 1] for i in range(len(values)))
  return np.array([np.mean(finite) if (finite := w[np.isfinite(w)]).size
                   else np.nan for w in windows])


def make_figure(theme: Theme, title: str, height: float) -> figure.Figure:
  """An empty figure under its title."""
  # Not pyplot: its figures live in global state until they are closed.
  fig = figure.Figure((7.6, height), dpi=150, layout='constrained',
                      facecolor=theme.paper)
  backend_agg.FigureCanvasAgg(fig)
  fig.suptitle(textwrap.fill(title, 84), x=0.01, ha='left', color=theme.ink,
               fontsize=11, fontweight='bold', parse_math=False)
  return fig


def style(axes, theme: Theme, y: str = '') -> None:
  """Axes in the theme's colours."""
  axes.set_facecolor(theme.paper)
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(theme.ink)
  axes.tick_params(which='both', colors=theme.ink, labelsize=9)
  axes.set_ylabel(y, color=theme.ink)


def png(fig: figure.Figure) -> bytes:
  """The figure as a file."""
  buffer = io.BytesIO()
  fig.savefig(buffer, format='png')
  return buffer.getvalue()
