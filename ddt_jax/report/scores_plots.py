"""Plots of scored corpora. Their titles state the result.

Each function takes corpora by name and returns a figure in the current style;
`style.draw` calls it.
"""

from collections.abc import Mapping

from matplotlib import figure
import numpy as np

from ddt_jax.report import style
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import text_stats

Corpora = Mapping[str, corpus_summary.Numbers]


def token_phi(corpora: Corpora) -> figure.Figure:
  """Share of the tokens by phi."""
  means = ', '.join(f'{name} {n.phi:+.3f}' for name, n in corpora.items())
  fig = style.make_figure(
      f'Mean phi of a token, 0 for the model\'s own text: {means}', height=3.8)
  axes = fig.subplots()
  axes.set_yscale('log')
  axes.yaxis.set_major_formatter('{x:g}')
  axes.set_xlabel('phi of a token (nats); left: surprises the model')
  axes.set_ylabel('tokens per bin (%, log scale)')
  _histograms(axes, {name: n.token_phi for name, n in corpora.items()}, None)
  _label(axes, corpora)
  return fig


def response_phi(corpora: Corpora) -> figure.Figure:
  """Share of the responses by mean phi."""
  rejected = ', '.join(f'{name} {n.rejected:.1%}' for name, n in corpora.items())
  fig = style.make_figure(
      f'Responses rejected by the PIT test: {rejected}', height=3.8)
  axes = fig.subplots()
  axes.set_xlabel('mean phi of a response (nats per token)')
  axes.set_ylabel('responses per bin (%)')
  _histograms(axes, {name: n.response_phi for name, n in corpora.items()}, 0)
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
  # Cut at -12: a few very low z would flatten all other curves.
  lowest = min(min(n.z_quantiles[1]) for n in corpora.values())
  axes.set_ylim(max(lowest - 0.5, -12), 4.5)
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
  axes.set_xlabel('u = P(p_v > p_x) + U P(p_v = p_x)')
  _label(axes, corpora)
  return fig


def _histograms(
    axes, histograms: Mapping[str, text_stats.Histogram], baseline: int | None
) -> None:
  used = []
  for i, histogram in enumerate(histograms.values()):
    edges, counts = np.array(histogram.edges), np.array(histogram.counts)
    share = 100 * counts / max(counts.sum(), 1)
    axes.stairs(share, edges, color=f'C{i}', lw=1.8, baseline=baseline)
    used += [edges[i] for i in np.flatnonzero(counts)]
  if used:
    # Only bins that some corpus fills. `used` has left edges, so one width is
    # added.
    axes.set_xlim(min(used), max(used) + edges[1] - edges[0])
  axes.axvline(0, color=style.ink(), lw=0.8)


def _label(axes, corpora: Corpora) -> None:
  """Names in the curves' colours, apart from the curves, which cross."""
  for i, name in enumerate(corpora):
    axes.text(0.02, 0.93 - 0.08 * i, name, color=f'C{i}', fontsize=9,
              transform=axes.transAxes)
