"""Looks of the plots: a light and a dark style, and figures as PNG.

A plot is a function that returns a figure; `draw` calls it once in each style.
Colours are those of Okabe and Ito, which colour-blind readers can distinguish.
In both styles 'C0' (blue) is the model after training or the first corpus, and
'C1' (orange) the model before training or the second corpus.
"""

from collections.abc import Callable
import io
import textwrap
from typing import Any, NamedTuple

import cycler
import matplotlib
from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image

AFTER, BEFORE = 'C0', 'C1'
_PALETTE = 128  # colours of a picture: enough for the edges of five and their shades


class Picture(NamedTuple):
  """One plot as PNG, for light and for dark screens."""

  light: bytes
  dark: bytes


def _style(paper: str, ink: str, *colors: str) -> dict[str, Any]:
  """Matplotlib's settings for a background, a text colour and lines."""
  text = ('text.color', 'axes.labelcolor', 'axes.titlecolor', 'axes.edgecolor',
          'xtick.color', 'ytick.color')
  ground = ('figure.facecolor', 'axes.facecolor', 'savefig.facecolor')
  return {
      **dict.fromkeys(text, ink), **dict.fromkeys(ground, paper),
      'axes.prop_cycle': cycler.cycler(color=[*colors, '#009e73', '#cc79a7', ink]),
      'axes.spines.top': False, 'axes.spines.right': False,
      'xtick.labelsize': 9, 'ytick.labelsize': 9,
      # Names of corpora come from users: '$' is no mathematics.
      'text.parse_math': False,
  }


# The first two colours differ by background: orange has to be darker on white to be
# read, blue lighter on black.
LIGHT = _style('#ffffff', '#22262b', '#0072b2', '#b34f00')
DARK = _style('#15181c', '#e4e6e9', '#56b4e9', '#e69f00')


def draw(plot: Callable[..., figure.Figure], *args: Any) -> Picture:
  """The figure of `plot(*args)` in both styles."""
  pictures = []
  # A figure takes its colours when it is made, so each style needs a figure of its
  # own.
  for style in (LIGHT, DARK):
    with matplotlib.rc_context(style):
      pictures.append(_png(plot(*args)))
  return Picture(*pictures)


def _png(fig: figure.Figure) -> bytes:
  """The figure as PNG with a palette, about a third of the size in true colour."""
  fig.canvas.draw()
  pixels = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert('RGB')
  buffer = io.BytesIO()
  pixels.quantize(_PALETTE).save(buffer, 'png', optimize=True)
  return buffer.getvalue()


def ink() -> str:
  """Colour of text and rules in the current style."""
  return matplotlib.rcParams['text.color']


def paper() -> str:
  """Colour of the background in the current style."""
  return matplotlib.rcParams['axes.facecolor']


def make_figure(
    title: str, height: float, width: float = 7.6
) -> figure.Figure:
  """An empty figure under its title; sizes in inches."""
  # Not pyplot: its figures live in global state until they are closed.
  fig = figure.Figure((width, height), dpi=150, layout='constrained')
  backend_agg.FigureCanvasAgg(fig)
  fig.suptitle(textwrap.fill(title, int(11 * width)), x=0.01, ha='left', fontsize=11,
               fontweight='bold')
  return fig
