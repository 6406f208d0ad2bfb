"""The plot of exact projection."""

import numpy as np

from ddt_jax.report import projection_plots
from ddt_jax.report import style


def test_each_group_is_a_line_in_each_panel():
  rng = np.random.default_rng(0)
  groups = {name: {'phi': rng.normal(size=9), 'length': rng.normal(size=9)}
            for name in ('own', 'rewritten', 'projected')}
  measures = {'phi': 'mean phi', 'length': 'length, tokens'}
  fig = projection_plots.distributions(groups, measures)
  assert [a.get_xlabel() for a in fig.axes] == list(measures.values())
  for axes, measure in zip(fig.axes, measures, strict=True):
    for line, values in zip(axes.lines, groups.values(), strict=True):
      assert line.get_xdata().tolist() == sorted(values[measure])
      assert line.get_ydata()[-1] == 1
  assert style.draw(
      projection_plots.distributions, groups, measures).light.startswith(b'\x89PNG')
