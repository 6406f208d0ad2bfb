"""Plots of scored corpora. Their titles state the result.

Each function takes corpora by name and returns a figure in the current style;
`style.draw` calls it.
"""

from collections.abc import Mapping

from matplotlib import figure
from matplotlib import lines
import numpy as np

from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import text_stats

Corpora = Mapping[str, corpus_summary.Numbers]
_LINEAR = (-12, 8)  # z drawn on a linear axis; a wider range on a logarithmic one
_Z_TICKS = (-1000, -300, -100, -30, -10, -3, 0, 3, 10, 30, 100)


def token_phi(corpora: Corpora) -> figure.Figure:
  """Share of the tokens by phi."""
  means = ', '.join(f'{name} {n.phi:+.3f}' for name, n in corpora.items())
  fig = style.make_figure(
      f'Mean phi of a token, 0 for the model\'s own text: {means}', height=3.8)
  axes = fig.subplots()
  axes.set_yscale('log')
  axes.yaxis.set_major_formatter('{x:g}')
  axes.set_xlabel('phi of a token (nats); left: surprises the model')
  axes.set_ylabel('tokens per 0.2 nats (%, log scale)')
  _histograms(axes, {name: n.token_phi for name, n in corpora.items()}, None)
  _label(axes, corpora)
  return fig


def response_phi(corpora: Corpora) -> figure.Figure:
  """Share of the responses by mean phi."""
  width = max(_width(n.response_phi) for n in corpora.values())
  rejected = ', '.join(
      f'{name} {table.percent(n.rejected)}' for name, n in corpora.items())
  fig = style.make_figure(
      f'Responses rejected by the PIT test: {rejected}', height=3.8)
  axes = fig.subplots()
  axes.set_xlabel('mean phi of a response (nats per token)')
  axes.set_ylabel(f'responses per {width:g} nats (%)')
  _histograms(
      axes, {name: _coarser(n.response_phi, width) for name, n in corpora.items()},
      0)
  _label(axes, corpora)
  return fig


def qq(corpora: Corpora) -> figure.Figure:
  """Quantiles of z against those of the standard normal."""
  variances = ', '.join(
      f'{name} {n.z_variance:.2f}' for name, n in corpora.items())
  fig = style.make_figure(
      f'Variance of z, 1 for the model\'s own text: {variances}', height=4.6)
  axes = fig.subplots()
  axes.set_ylabel('quantiles of z')
  for n in corpora.values():
    axes.plot(*n.z_quantiles, marker='o', ms=2.5, lw=1)
  axes.plot([-3, 3], [-3, 3], color=style.ink(), lw=0.8, ls='--')
  ends = [z for n in corpora.values() for z in n.z_quantiles[1]]
  # A corpus far below would flatten all curves that are near the normal one.
  if min(ends) < _LINEAR[0] or max(ends) > _LINEAR[1]:
    axes.set_yscale('symlog', linthresh=4, linscale=2)
    axes.set_yticks(_Z_TICKS, labels=[f'{z:g}' for z in _Z_TICKS])
    axes.minorticks_off()
  axes.set_ylim(1.1 * min(*ends, -3), 1.1 * max(*ends, 3))
  axes.set_xlabel('quantiles of the standard normal')
  _label(axes, corpora)
  return fig


def pit(corpora: Corpora) -> figure.Figure:
  """Tokens by their randomised probability integral transform u."""
  fig = style.make_figure(
      'u is uniform for the model\'s own text; near 1: tokens it did not expect',
      height=3.4)
  axes = fig.subplots()
  axes.set_ylabel('tokens (% of uniform)')
  for i, n in enumerate(corpora.values()):
    counts = np.asarray(n.pit_histogram, float)
    share = 100 * counts / max(counts.mean(), 1e-9)
    axes.stairs(share, np.linspace(0, 1, len(counts) + 1), color=f'C{i}', lw=1.8)
  axes.axhline(100, color=style.ink(), lw=0.8, ls='--')
  # From 0, since the distance to the uniform distribution is what counts.
  axes.set_ylim(bottom=0)
  axes.set_xlabel('u; 0: the likeliest tokens, 1: the most surprising ones')
  _label(axes, corpora)
  return fig


def _histograms(
    axes, histograms: Mapping[str, text_stats.Histogram], baseline: int | None
) -> None:
  used = [0.0]
  for i, histogram in enumerate(histograms.values()):
    edges, counts = np.array(histogram.edges), np.array(histogram.counts)
    share = 100 * counts / max(counts.sum(), 1)
    axes.stairs(share, edges, color=f'C{i}', lw=1.8, baseline=baseline)
    width = edges[1] - edges[0]
    # `edges` has left ends; one width is added at the right.
    filled = edges[np.flatnonzero(counts)]
    used += [*filled, *(filled + width)]
  # Bins that some corpus fills, and 0, where the model's own text is.
  margin = 0.03 * (max(used) - min(used)) or 1.0
  axes.set_xlim(min(used) - margin, max(used) + margin)
  axes.axvline(0, color=style.ink(), lw=0.8)


def _width(histogram: text_stats.Histogram) -> float:
  return round(histogram.edges[1] - histogram.edges[0], 2)


def _coarser(
    histogram: text_stats.Histogram, width: float
) -> text_stats.Histogram:
  """The histogram in bins of a multiple of its width, with edges k * width."""
  edges, counts = np.array(histogram.edges), np.array(histogram.counts)
  middles = (edges[:-1] + edges[1:]) / 2
  bins = np.floor(middles / width).astype(int)
  found = np.bincount(bins - bins[0], counts)
  return text_stats.Histogram(
      tuple((width * np.arange(bins[0], bins[0] + len(found) + 1)).tolist()),
      tuple(found.tolist()))


def _label(axes, corpora: Corpora) -> None:
  """Names in the curves' colours, above the axes: inside they could hide a curve."""
  handles = [
      lines.Line2D([], [], color=f'C{i}') for i, _ in enumerate(corpora)]
  axes.legend(
      handles, list(corpora), loc='lower left', bbox_to_anchor=(0, 1), ncols=3,
      frameon=False, labelcolor='linecolor', handlelength=0, handletextpad=0,
      fontsize=9)
