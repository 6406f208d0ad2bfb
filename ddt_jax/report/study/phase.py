"""The phase diagram: how far off-policy the data are, against the learning rate."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import colors
from matplotlib import figure
import numpy as np

from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.report.study import finished

LEVELS = (0.25, 0.5, 0.75)  # of SFT's largest gain on the target
_ENDS = ('#d55e00', '#0072b2')  # SFT is better, IDFT is better


class Row(NamedTuple):
  """SFT and IDFT on one corpus.

  Attributes:
    sft, idft: names of the methods.
    phi: mean phi of the corpus under the untouched model, nats per token.
    rates: that both have, rising.
    target, retained: [rates], pass@1 of IDFT minus that of SFT, in points.
  """

  sft: str
  idft: str
  phi: float
  rates: list[float]
  target: list[float]
  retained: list[float]


def rows(
    found: finished.Results, pairs: Sequence[tuple[str, str]]
) -> list[Row]:
  """The corpora that have cells of both, from on-policy to far off.

  Args:
    found: the finished cells.
    pairs: (SFT, IDFT) on the same corpus.
  """
  made = []
  for sft, idft in pairs:
    rates = [r for r in found.rates(sft) if found.at(idft, r)]
    if not rates:
      continue
    differences = {
        split: [_points(found, sft, idft, rate, split) for rate in rates]
        for split in (finished.TARGET, finished.RETAINED)}
    phi = np.mean([x.data_before.phi for x in found.at(sft, rates[0])])
    made.append(Row(sft, idft, float(phi), rates, *differences.values()))
  return sorted(made, key=lambda row: -row.phi)


def diagram(some: Sequence[Row]) -> figure.Figure:
  """IDFT minus SFT on target and on retained, by corpus and rate.

  The numbers stand in the fields, so that they need no colour.
  """
  rates = sorted({rate for row in some for rate in row.rates})
  fig = style.make_figure(
      'IDFT minus SFT at equal rate (points of pass@1)', 1.8 + 0.45 * len(some),
      width=9)
  shades = colors.LinearSegmentedColormap.from_list(
      'difference', [_ENDS[0], style.paper(), _ENDS[1]])
  for axes, split in zip(
      fig.subplots(1, 2, sharey=True), ('target', 'retained'), strict=True):
    grid = np.full((len(some), len(rates)), np.nan)
    for i, row in enumerate(some):
      for rate, value in zip(row.rates, getattr(row, split), strict=True):
        grid[i, rates.index(rate)] = value
        axes.text(
            rates.index(rate), i, f'{round(value, 1) + 0.0:+.1f}', ha='center',
            va='center', fontsize=9)
    limit = max(np.nanmax(np.abs(grid)), 1.0)
    # The text stays readable: the ends are not reached.
    axes.imshow(grid, cmap=shades, vmin=-1.6 * limit, vmax=1.6 * limit, aspect='auto')
    axes.set_xticks(range(len(rates)), [f'{rate:g}' for rate in rates])
    axes.set_yticks(range(len(some)), [f'{row.phi:+.2f}' for row in some])
    axes.set_title(split, fontsize=10, loc='left')
    axes.set_xlabel('learning rate')
  fig.axes[0].set_ylabel('mean phi of the corpus\n(nats per token)')
  return fig


def at_equal_gain(
    found: finished.Results, some: Sequence[Row]
) -> table.Table:
  """Retained change of both methods where both have gained the same on the target.

  A curve runs over the rates from the untouched model. Its first crossing of a
  level counts, linear between two rates. A level is a share of SFT's largest gain.
  """
  body = []
  for row in some:
    curves = {m: _curve(found, m) for m in (row.sft, row.idft)}
    most = max(gain for gain, _ in curves[row.sft])
    for level in LEVELS:
      at = [crossing(curves[m], level * most) for m in (row.sft, row.idft)]
      body.append([
          f'{row.phi:+.2f}', f'{level * most:.1f}', *(_number(x) for x in at),
          '' if None in at else f'{at[1] - at[0]:+.1f}'])
  return table.Table(
      ['mean phi of the corpus', 'gain on the target', 'retained, SFT',
       'retained, IDFT', 'IDFT - SFT'], body)


def crossing(
    curve: Sequence[tuple[float, float]], level: float
) -> float | None:
  """Second value where the first one reaches a level for the first time.

  Args:
    curve: points in order; it begins at (0, 0).
    level: of the first value.

  Returns:
    None where the level is not reached.

  Example:
    >>> crossing([(10.0, -1.0), (30.0, -3.0)], 20.0), crossing([(10.0, -1.0)], 20.0)
    (-2.0, None)
  """
  before = (0.0, 0.0)
  for x, y in curve:
    if x >= level:
      share = (level - before[0]) / (x - before[0]) if x > before[0] else 1.0
      return before[1] + share * (y - before[1])
    before = x, y
  return None


def _curve(found: finished.Results, method: str) -> list[tuple[float, float]]:
  """(gain on the target, change on retained) by rate, means over the seeds."""
  points = []
  for rate in found.rates(method):
    some = [(found.gain(x, finished.TARGET), found.gain(x, finished.RETAINED))
            for x in found.at(method, rate)]
    if some := [p for p in some if None not in p]:
      points.append(tuple(np.mean(some, 0).tolist()))
  return points or [(0.0, 0.0)]


def _points(found, sft: str, idft: str, rate: float, split: str) -> float:
  difference = found.paired((sft, rate), (idft, rate), split)
  return float('nan') if difference is None else 100 * float(difference.mean())


def _number(value: float | None) -> str:
  return 'not reached' if value is None else f'{value:+.1f}'
