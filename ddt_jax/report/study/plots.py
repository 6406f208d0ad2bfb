"""Plots of the study. Each function returns a figure in the current style."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib import axes as mpl_axes
from matplotlib import figure
import numpy as np

from ddt_jax.report import style
from ddt_jax.report.study import finished

# A method keeps its marker and colour in all panels; both together tell methods
# apart in black and white, too, and each curve carries its name.
_MARKERS = 'osD^vP*X<>hp8d'
_COLORS = 6  # of the palette
_NEAR = 5  # points of accuracy up to which the scale of losses is linear
_LOST = (-5, -2, 0, 2, 5, 10, 20, 50, 100)  # its ticks


def look(methods: Sequence[str], method: str) -> dict[str, str]:
  """Colour and marker of a method among these."""
  i = list(methods).index(method)
  return dict(color=f'C{i % _COLORS}', marker=_MARKERS[i % len(_MARKERS)])


def curves(
    axes: mpl_axes.Axes, found: finished.Results, methods: Sequence[str],
    x: Callable, y: Callable, every: Sequence[str]
) -> dict[str, tuple[float, float]]:
  """A curve over the rates for each method, its seeds as a cloud.

  Args:
    axes: to draw in.
    found: the finished cells.
    methods: in this panel.
    x, y: cell -> number, or None where it was not measured.
    every: all methods, which decide about the looks.

  Returns:
    method -> its point at the chosen rate.
  """
  ends = {}
  for method in methods:
    points, looks = [], look(every, method)
    for rate in found.rates(method):
      some = [(x(cell), y(cell)) for cell in found.at(method, rate)]
      some = [p for p in some if None not in p]
      if not some:
        continue
      axes.plot(*zip(*some, strict=True), ls='', ms=3, alpha=0.35, **looks)
      points.append((*np.mean(some, 0), rate))
    if not points:
      continue
    xs, ys, rates = zip(*points, strict=True)
    axes.plot(xs, ys, lw=1.4, ms=5, alpha=0.9, **looks)
    # The marker is larger at the chosen rate, to which the name points.
    chosen = found.chosen.get(method)
    i = rates.index(chosen) if chosen in rates else len(rates) - 1
    axes.plot(xs[i], ys[i], ms=9, mec=style.ink(), **looks)
    ends[method] = xs[i], ys[i]
  return ends


def name_beside(
    axes: mpl_axes.Axes, points: Mapping[str, tuple[float, float]],
    colors: Mapping[str, str]
) -> None:
  """Writes names beside the axes, one below the other, each with a line to its point.

  Args:
    axes: with all that is to be drawn in it.
    points: name -> its point.
    colors: name -> of the text.
  """
  axes.autoscale_view()  # or the transform below would be of older limits
  to_axes = axes.transData + axes.transAxes.inverted()
  names = sorted(points, key=lambda name: points[name][1])
  # Names at the heights of their points would overlap: they are pushed apart.
  at = [float(to_axes.transform(points[name])[1]) for name in names]
  gap = 0.055
  for i in range(1, len(at)):
    at[i] = max(at[i], at[i - 1] + gap)
  over = max(at[-1] - 1.0, 0.0) if at else 0.0
  for i in range(len(at) - 1, -1, -1):
    highest = 1.0 if i == len(at) - 1 else at[i + 1] - gap
    at[i] = min(at[i], highest) if over else at[i]
  for name, y in zip(names, at, strict=True):
    axes.annotate(
        name, points[name], (1.03, y), textcoords='axes fraction', fontsize=8,
        va='center', color=colors[name], annotation_clip=False,
        arrowprops=dict(arrowstyle='-', lw=0.4, color=colors[name], shrinkB=4))


def panels(
    title: str, found: finished.Results, groups: Mapping[str, Sequence[str]],
    x: Callable, y: Callable, words: tuple[str, str], scales: tuple[str, str]
) -> figure.Figure:
  """`curves` for each group of methods, side by side on the same scales.

  Args:
    title: of the figure.
    found: the finished cells.
    groups: heading -> methods.
    x, y: see `curves`.
    words: names and units of both axes.
    scales: of both axes, see `_rescale`.
  """
  groups = {heading: [m for m in some if m in found.methods]
            for heading, some in groups.items()}
  groups = {heading: some for heading, some in groups.items() if some}
  every = [m for some in groups.values() for m in some]
  fig = style.make_figure(title, height=4.8, width=5.2 * max(len(groups), 2))
  named = []
  for axes, (heading, methods) in zip(
      np.atleast_1d(fig.subplots(1, len(groups), sharex=True, sharey=True)),
      groups.items(), strict=True):
    axes.axhline(0, color=style.ink(), lw=0.6)
    axes.set_title(heading, fontsize=10, loc='left')
    named.append((axes, curves(axes, found, methods, x, y, every)))
    axes.set_xlabel(words[0], fontsize=9)
  for axes in fig.axes:
    _rescale(axes, *scales)
  for axes, ends in named:  # once the shared limits hold all curves
    name_beside(axes, ends, {m: look(every, m)['color'] for m in ends})
  fig.axes[0].set_ylabel(words[1])
  return fig


def frontier(
    found: finished.Results, groups: Mapping[str, Sequence[str]]
) -> figure.Figure:
  """Target gain against retained loss; up and to the left is better."""
  return panels(
      'What a gain on the target costs elsewhere; each curve runs over learning'
      ' rates', found, groups, lambda c: _negative(found.gain(c, finished.RETAINED)),
      lambda c: found.gain(c, finished.TARGET),
      ('lost on retained tasks (points of pass@1)',
       'gained on the target (points of pass@1)'), ('lost', 'linear'))


def drift(
    found: finished.Results, groups: Mapping[str, Sequence[str]]
) -> figure.Figure:
  """Retained loss against the KL to the untouched model on its own samples."""
  return panels(
      'Forgetting against the distance from the untouched model', found, groups,
      lambda c: _kl(c, finished.RETAINED),
      lambda c: _negative(found.gain(c, finished.RETAINED)),
      ('KL to the untouched model on retained tasks (nats per token)',
       'lost on retained tasks (points of pass@1)'), ('log', 'lost'))


def costs(
    found: finished.Results, groups: Mapping[str, Sequence[str]]
) -> figure.Figure:
  """Target gain against the floating-point operations that it took."""
  return panels(
      'Gain on the target against the work it took', found, groups,
      lambda c: c.cost.flops / 1e12, lambda c: found.gain(c, finished.TARGET),
      ('10^12 floating-point operations, corpus and training',
       'gained on the target (points of pass@1)'), ('linear', 'linear'))


def phi(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> figure.Figure:
  """Mean phi of the training batches by step, at the chosen rates.

  Args:
    lines: method -> (steps, mean phi in nats per token).
  """
  fig = style.make_figure(
      'phi of the training data during training, first seed, chosen rates', 3.8)
  axes = fig.subplots()
  axes.axhline(0, color=style.ink(), lw=0.6)
  ends = {}
  for method, (steps, values) in lines.items():
    looks = look(list(lines), method)
    axes.plot(steps, values, lw=1.5, ms=4, markevery=max(len(steps) // 6, 1), **looks)
    ends[method] = steps[-1], values[-1]
  axes.margins(x=0.02)
  name_beside(axes, ends, {m: look(list(lines), m)['color'] for m in ends})
  axes.set_xlabel('training step')
  axes.set_ylabel('mean phi (nats per token)')
  return fig


def _rescale(axes: mpl_axes.Axes, x: str, y: str) -> None:
  """Scales both axes: 'linear', 'log', or 'lost' for points that a method loses."""
  for axis, kind, rescale in (
      (axes.xaxis, x, axes.set_xscale), (axes.yaxis, y, axes.set_yscale)):
    if kind == 'linear':
      continue
    if kind == 'log':
      rescale('log')
    else:  # wide near 0, where the models are that one would use
      rescale('symlog', linthresh=_NEAR, linscale=1.5)
    axes.autoscale(axis=axis.axis_name)
    if kind == 'lost':
      low, high = axis.get_view_interval()
      axis.set_ticks([point for point in _LOST if low <= point <= high])
    # 0.01, not 10^-2: mathematics is not parsed.
    axis.set_major_formatter('{x:g}')
    axis.set_minor_formatter('')


def _negative(value: float | None) -> float | None:
  return None if value is None else -value


def _kl(cell, split: str) -> float | None:
  found = cell.splits.get(split)
  return found and found.kl_to_base
