"""Plots that only a notebook has. Their titles state the result.

Each function returns a figure in the current style; `style.draw` calls it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure
from matplotlib import patches
import numpy as np

from ddt_jax.report import style
from ddt_jax.report import table

COLUMNS = 16  # tokens in a line of `trace`
_LONGEST = 7  # characters of a token that fit its column
_LAM, _CELL, _GAP = 2.1, 0.9, 0.3  # heights of the rows
_HEIGHT = 0.24  # inches of a height of 1
_LEAST = 0.005  # probability from which a token is shown
HINTED, STUDENT, WEIGHT = 'C1', 'C0', 'C2'


def trace(steps: Any) -> figure.Figure:
  """Both streams' likeliest tokens and lam at every token.

  Args:
    steps: a `trace.Trace` with tokens.
  """
  count, most = len(steps.tokens), len(steps.hinted_top[0])
  # From top to bottom: lam, the token, the hinted stream, the student.
  line = _LAM + (1 + 2 * most) * _CELL + 4 * _GAP
  lines = -(-count // COLUMNS)
  differ = steps.differs()
  fig = style.make_figure(
      f'{sum(differ)} of {count} tokens, those in grey: hint and student would'
      ' write different ones', 0.45 + _HEIGHT * line * lines, width=9.6)
  axes = fig.subplots()
  axes.set_axis_off()
  axes.set_xlim(-1.6, COLUMNS)
  axes.set_ylim(lines * line, 0)
  for first in range(0, count, COLUMNS):
    top = first // COLUMNS * line
    _draw_labels(axes, top, most)
    for i in range(first, min(first + COLUMNS, count)):
      if differ[i]:
        axes.add_patch(patches.Rectangle(
            (i - first, top), 1, line - 2 * _GAP, color=style.ink(), alpha=0.08, lw=0))
      _draw_step(axes, i - first, top, steps, i)
  return fig


def by_source(phi: Mapping[str, Sequence[float]]) -> figure.Figure:
  """Mean phi of each response, by who wrote it.

  Args:
    phi: source -> mean phi of its responses, nats.
  """
  means = ', '.join(f'{name} {np.mean(x):+.3f}' for name, x in phi.items())
  fig = style.make_figure(
      f'Mean phi, 0 for the model\'s own text: {means}', 1.3 + 0.6 * len(phi))
  axes = fig.subplots()
  # Dots of one value would hide each other; the shifts mean nothing.
  rng = np.random.default_rng(0)
  for row, x in enumerate(phi.values()):
    shift = rng.uniform(-0.28, 0.28, len(x))
    axes.plot(x, row + shift, 'o', ms=2.5, alpha=0.5, mew=0, color=f'C{row}')
    axes.plot([np.mean(x)] * 2, [row - 0.4, row + 0.4], lw=2, color=f'C{row}')
  axes.axvline(0, color=style.ink(), lw=0.8)
  axes.set_yticks(range(len(phi)), [f'{name} ({len(x):,})'
                                    for name, x in phi.items()])
  axes.set_ylim(len(phi) - 0.5, -0.5)
  axes.set_xlabel('mean phi of a response (nats per token); bars: mean of all')
  return fig


def _draw_labels(axes, top: float, most: int) -> None:
  """Names of the rows of one line of tokens."""
  y = top + _LAM / 2
  for height, name, color in (
      (_LAM / 2 + _CELL / 2, 'lam', WEIGHT),
      (_CELL / 2 + _GAP + most * _CELL / 2, 'drawn', style.ink()),
      (most * _CELL + _GAP, 'hint p', HINTED), (0, 'student q', STUDENT)):
    axes.text(-0.12, y, name, color=color, fontsize=8, ha='right', va='center',
              fontweight='bold')
    y += height


def _draw_step(axes, x: float, top: float, steps: Any, i: int) -> None:
  """One column: lam, the token drawn, the likeliest tokens of both streams."""
  bottom = top + _LAM - 0.1
  height = (_LAM - 0.8) * steps.lam[i]
  axes.add_patch(patches.Rectangle(
      (x + 0.15, bottom - height), 0.7, height, color=WEIGHT, lw=0))
  axes.plot([x + 0.1, x + 0.9], [bottom] * 2, color=WEIGHT, lw=0.6)
  axes.text(x + 0.5, bottom - height - 0.05, f'{steps.lam[i]:.2f}', fontsize=6,
            ha='center', va='bottom', color=style.ink())
  y = top + _LAM
  axes.text(x + 0.5, y + _CELL / 2, _shown(steps.tokens[i]), fontsize=8,
            ha='center', va='center', fontweight='bold', color=style.ink())
  y += _CELL + _GAP
  for tops, color in ((steps.hinted_top, HINTED), (steps.student_top, STUDENT)):
    for row, (token, p) in enumerate(tops[i]):
      if p < _LEAST:
        continue
      corner = x + 0.04, y + row * _CELL + 0.04
      axes.add_patch(patches.Rectangle(
          corner, 0.92, _CELL - 0.08, facecolor=color, alpha=0.05 + 0.6 * p, lw=0))
      if token == steps.tokens[i]:
        axes.add_patch(patches.Rectangle(
            corner, 0.92, _CELL - 0.08, fill=False, lw=1, edgecolor=style.ink()))
      axes.text(x + 0.5, y + (row + 0.5) * _CELL, _shown(token), fontsize=7.5,
                ha='center', va='center', color=style.ink())
    y += len(tops[i]) * _CELL + _GAP


def _shown(token: str) -> str:
  """The token as its cell shows it: blanks as dots, cut where it is too long."""
  text = table.visible(token).replace(' ', '\u00b7')
  return text if len(text) <= _LONGEST else text[:_LONGEST - 1] + '\u2026'
