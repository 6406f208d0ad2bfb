"""Plots of exact projection."""

from collections.abc import Mapping

from matplotlib import figure
from matplotlib import ticker
import numpy as np

from ddt_jax.report import style


def distributions(
    groups: Mapping[str, Mapping[str, np.ndarray]], measures: Mapping[str, str]
) -> figure.Figure:
  """Cumulative distributions of each measure, a panel each.

  Args:
    groups: name -> measure -> [texts]; the first is the yardstick.
    measures: measure -> its name and unit.
  """
  fig = style.make_figure(
      'Projected texts follow the model\'s own right samples', height=3.2, width=9)
  for axes, (measure, words) in zip(
      fig.subplots(1, len(measures), sharey=True), measures.items(), strict=True):
    for i, (name, values) in enumerate(groups.items()):
      x = np.sort(values[measure])
      axes.step(
          x, np.arange(1, len(x) + 1) / len(x), where='post', label=name,
          linewidth=4 if i == 0 else 1.6, alpha=0.35 if i == 0 else 1,
          color=('C2', style.BEFORE, style.AFTER)[i])
    everything = np.concatenate([values[measure] for values in groups.values()])
    axes.set_xlim(*np.quantile(everything, [0.002, 0.998]))
    axes.set_xlabel(words)
    # The default number of ticks runs into each other on narrow panels.
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
  fig.axes[0].set_ylabel('share of texts')
  fig.axes[0].legend(frameon=False, fontsize=8)
  return fig
