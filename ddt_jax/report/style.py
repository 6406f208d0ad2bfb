"""Looks of the plots: a light and a dark style, and figures as PNG.

A plot is a function that returns a figure; `draw` calls it once in each style.
A colour means one thing on a page. Orange and blue are phi below and above 0, in
heat maps alone, see `page`. The lines of plots have other colours: green and purple
are ColorBrewer's PRGn pair, which colour-blind readers can distinguish.
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

# Of a run's page. Several corpora or runs take the colours in their order.
AFTER, BEFORE = 'C0', 'C1'  # the model after and before training
TRAINING, VALIDATION = 'C2', 'C3'
RIGHT, WRONG = 'C5', 'C4'  # answers of pairs
COLORS = 5  # that many corpora or runs have a colour of their own
_DPI, _CSS = 200, 115  # pixels of a file, and CSS pixels of a page, an inch
_NAME = 20  # characters of a name
_PALETTE = 128  # colours of a picture: enough for the edges of five and their shades


class Picture(NamedTuple):
  """One plot as PNG, for light and for dark screens.

  Attributes:
    light, dark: the files.
    width: on a page, in CSS pixels. The files have about 1.5 times as many, for
      dense screens.
  """

  light: bytes
  dark: bytes
  width: int


def _style(paper: str, ink: str, *colors: str) -> dict[str, Any]:
  """Matplotlib's settings for a background, a text colour and lines."""
  text = ('text.color', 'axes.labelcolor', 'axes.titlecolor', 'axes.edgecolor',
          'xtick.color', 'ytick.color')
  ground = ('figure.facecolor', 'axes.facecolor', 'savefig.facecolor')
  return {
      **dict.fromkeys(text, ink), **dict.fromkeys(ground, paper),
      'axes.prop_cycle': cycler.cycler(color=colors),
      'axes.spines.top': False, 'axes.spines.right': False,
      'xtick.labelsize': 9, 'ytick.labelsize': 9,
      # Names of corpora come from users: '$' is no mathematics.
      'text.parse_math': False,
  }


# Dark on white and light on black, so that words in these colours can be read.
LIGHT = _style('#ffffff', '#22262b', '#00803c', '#8338a3', '#7d6600', '#c2417a',
               '#7a5230', '#5b6470')
DARK = _style('#15181c', '#e4e6e9', '#55c98c', '#c99be6', '#d6bc45', '#f28ab2',
              '#c9a27e', '#a3abb5')


def draw(plot: Callable[..., figure.Figure], *args: Any) -> Picture:
  """The figure of `plot(*args)` in both styles."""
  pictures, width = [], 0
  # A figure takes its colours when it is made, so each style needs a figure of its
  # own.
  for style in (LIGHT, DARK):
    with matplotlib.rc_context(style):
      fig = plot(*args)
      pictures.append(_png(fig))
      width = round(_CSS * fig.get_figwidth())
  return Picture(*pictures, width)


def _png(fig: figure.Figure) -> bytes:
  """The figure as PNG with a palette, about a third of the size in true colour."""
  fig.canvas.draw()
  pixels = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert('RGB')
  buffer = io.BytesIO()
  pixels.quantize(_PALETTE).save(buffer, 'png', optimize=True)
  return buffer.getvalue()


def short(name: str, number: int) -> str:
  """A name as plots show it; a long one is cut in its middle and numbered.

  Example:
    >>> short('own', 1), short('a-very-long-name-of-a-corpus.jsonl', 2)
    ('own', '2: a-very-l\u2026pus.jsonl')
  """
  if len(name) <= _NAME:
    return name
  half = _NAME // 2 - 1
  return f'{number}: {name[:half - 1]}\u2026{name[-half:]}'


def ink() -> str:
  """Colour of text and rules in the current style."""
  return matplotlib.rcParams['text.color']


def paper() -> str:
  """Colour of the background in the current style."""
  return matplotlib.rcParams['axes.facecolor']


def make_figure(
    title: str, height: float, width: float = 5.2
) -> figure.Figure:
  """An empty figure under its title; sizes in inches.

  It is narrow, so that its text of 9 points is still read on a phone's 360 pixels.
  """
  # Not pyplot: its figures live in global state until they are closed.
  fig = figure.Figure((width, height), dpi=_DPI, layout='constrained')
  backend_agg.FigureCanvasAgg(fig)
  fig.suptitle(textwrap.fill(title, int(11.5 * width)), x=0.01, ha='left',
               fontsize=10.5, fontweight='bold')
  return fig
