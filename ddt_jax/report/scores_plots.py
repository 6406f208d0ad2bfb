"""Plots of scored corpora, as PNG bytes. A title says what there is to see."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddt_jax.report import run_plots

Theme = run_plots.Theme
_MORE = ('#009e73', '#cc79a7')  # Okabe and Ito's, for a third and fourth corpus


def token_phi(corpora: Mapping[str, Any], theme: Theme) -> bytes:
  """Share of the tokens by phi."""
  means = ', '.join(f'{name} {n["phi"]:+.3f}' for name, n in corpora.items())
  title = f'The model\'s own tokens have a mean phi of 0: {means}'
  return _histograms(
      corpora, 'token_phi', 'phi of a token (nats); left: surprises the model',
      'tokens per bin (%, log scale)', title, theme, log=True)


def response_phi(corpora: Mapping[str, Any], theme: Theme) -> bytes:
  """Share of the responses by mean phi."""
  rejected = ', '.join(
      f'{name} {n["rejected"]:.1%}' for name, n in corpora.items())
  return _histograms(
      corpora, 'response_phi', 'mean phi of a response (nats per token)',
      'responses per bin (%)', f'Responses rejected by the PIT test: {rejected}',
      theme)


def qq(corpora: Mapping[str, Any], theme: Theme) -> bytes:
  """Quantiles of z against the standard normal's."""
  variances = ', '.join(
      f'{name} {n["z_variance"]:.2f}' for name, n in corpora.items())
  fig = run_plots.make_figure(
      theme, f'Variance of z, which is 1 under the model: {variances}', height=4.6)
  axes = fig.subplots()
  run_plots.style(axes, theme, y='quantiles of z')
  for n, color in zip(corpora.values(), _colors(theme), strict=False):
    normal, z = n['z_quantiles']
    axes.plot(normal, z, color=color, marker='o', ms=2.5, lw=1)
  axes.plot([-3, 3], [-3, 3], color=theme.ink, lw=0.8, ls='--')
  lowest = min(min(n['z_quantiles'][1]) for n in corpora.values())
  axes.set_ylim(max(lowest - 0.5, -12), 4.5)
  axes.set_xlabel('quantiles of the standard normal', color=theme.ink)
  _names(axes, corpora, theme)
  return run_plots.png(fig)


def pit(corpora: Mapping[str, Any], theme: Theme) -> bytes:
  """The tokens' randomised probability integral transform."""
  fig = run_plots.make_figure(
      theme, 'Under the model u is uniform; near 1 are tokens it did not expect',
      height=3.4)
  axes = fig.subplots()
  run_plots.style(axes, theme, y='tokens (% of uniform)')
  for n, color in zip(corpora.values(), _colors(theme), strict=False):
    counts = np.asarray(n['pit_histogram'], float)
    share = 100 * counts / max(counts.mean(), 1e-9)
    axes.stairs(share, np.linspace(0, 1, len(counts) + 1), color=color, lw=1.8)
  axes.axhline(100, color=theme.ink, lw=0.8, ls='--')
  axes.set_ylim(bottom=0)
  axes.set_xlabel('u = P(p_v > p_x) + U P(p_v = p_x)', color=theme.ink)
  _names(axes, corpora, theme)
  return run_plots.png(fig)


def _histograms(corpora, key, x, y, title, theme, log=False) -> bytes:
  fig = run_plots.make_figure(theme, title, height=3.8)
  axes = fig.subplots()
  run_plots.style(axes, theme, y=y)
  if log:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
  used = []
  for n, color in zip(corpora.values(), _colors(theme), strict=False):
    edges, counts = (np.asarray(n[key][k], float) for k in ('edges', 'counts'))
    share = 100 * counts / max(counts.sum(), 1)
    axes.stairs(share, edges, color=color, lw=1.8, baseline=None if log else 0)
    used += [edges[i] for i in np.flatnonzero(counts)]
  if used:
    axes.set_xlim(min(used), max(used) + edges[1] - edges[0])
  axes.axvline(0, color=theme.ink, lw=0.8)
  axes.set_xlabel(x, color=theme.ink)
  _names(axes, corpora, theme)
  return run_plots.png(fig)


def _colors(theme: Theme) -> tuple[str, ...]:
  return theme.after, theme.before, *_MORE, theme.ink


def _names(axes, corpora, theme) -> None:
  """The curves cross; their names stand apart, in their colours."""
  for i, (name, color) in enumerate(
      zip(corpora, _colors(theme), strict=False)
  ):
    axes.text(0.02, 0.93 - 0.08 * i, name, color=color, fontsize=9,
              transform=axes.transAxes, parse_math=False)
