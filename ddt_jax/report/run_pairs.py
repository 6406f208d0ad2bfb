"""The plot of a run on pairs: rewards of right and wrong answers, by step."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure

from ddt_jax.report import run_plots
from ddt_jax.report import style


def logged(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """The lines of metrics.jsonl that have rewards; none where no pairs are trained."""
  return [line for line in lines if 'rewards/margins' in line]


def rewards(lines: Sequence[Mapping[str, Any]]) -> figure.Figure:
  """Mean rewards of both sides, and the share of pairs ranked right.

  Args:
    lines: of metrics.jsonl; at least one with rewards.
  """
  train = logged(lines)
  margins = run_plots.smooth(run_plots.column(train, 'rewards/margins'))
  fig = style.make_figure(_title(margins[0], margins[-1]), height=4.6)
  top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
  top.set_ylabel('mean reward')
  for name, word, color, y in (
      ('rewards/chosen', 'right answers', style.RIGHT, 0.92),
      ('rewards/rejected', 'wrong answers', style.WRONG, 0.82)):
    run_plots.draw_curve(top, train, name, color=color)
    top.text(0.02, y, word, color=color, fontsize=9, transform=top.transAxes)
  # The labels stand above the curves.
  low, high = top.get_ylim()
  top.set_ylim(low, high + 0.3 * (high - low))
  bottom.set_ylabel('pairs ranked\nright (%)')
  run_plots.draw_curve(
      bottom, train, 'rewards/accuracies', color=style.ink(), scale=100)
  bottom.set_ylim(-3, 103)
  bottom.set_xlabel('training step')
  bottom.xaxis.get_major_locator().set_params(integer=True)
  return fig


def _title(first: float, last: float) -> str:
  verb = 'rose' if last > first else 'fell' if last < first else 'stayed'
  return (
      f'The margin of right over wrong answers {verb} from {first:.2f} to {last:.2f}')
