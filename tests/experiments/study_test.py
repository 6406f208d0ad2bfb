"""The study's cells: a mean over seeds with Student's interval."""

import pytest

from ddt_jax import significance
from ddt_jax.report import results
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import text_stats
from experiments import study


@pytest.mark.parametrize('shares, cell', [
    # Student's t for 1 and 2 degrees of freedom: 12.706 and 4.303.
    ([0.5, 0.6], '55.0 ± 63.5'), ([0.1, 0.2, 0.3], '20.0 ± 24.8'),
    ([0.25] * 9, '25.0 ± 0.0'), ([0.5], '50.0'),
])
def test_an_interval_over_seeds(shares, cell):
  assert study.interval(shares) == cell


def run(share):
  """Results of a run that solves this share of each split, before any round."""
  some = significance.Interval(share, 0.0, 1.0)
  split = evaluate.SplitAccuracy(
      problems=10, samples=2, pass_at_1=some,
      avg_at_k=significance.Interval(share / 2, 0.0, 1.0), abstained=0,
      mean_tokens=50.0, unfinished=0, skipped=0)
  texts = text_stats.TextStats(
      nll=0.296, phi=-0.119, entropy=0.2, weight=0.9, ess=0.9, clipped=None,
      tokens=100, examples=10, histogram=text_stats.Histogram(
          edges=(-1.0, 1.0), counts=(100,)))
  return results.RunResults(
      name='sft', seed=0, evaluation=({s: split for s in study.SPLITS},), rounds=(),
      corpus=results.Reference(texts, texts),
      data=results.Data(10, 0, 0, 0, 0, '<|im_end|>'),
      training=results.Training(
          4, 100, 1.0, 0, None, None, None, parameters=10, weight=None, ess=None),
      timings={}, examples=(), status=None)


def test_a_row_has_a_cell_for_every_column_of_the_table():
  assert study.row('sft', '3e-4', [run(0.8), run(0.8)], 'after') == (
      '| sft | 3e-4 | 80.0 ± 0.0 | 80.0 ± 0.0 | 80.0 ± 0.0 | 40.0 ± 0.0 |'
      ' 40.0 ± 0.0 | 40.0 ± 0.0 | 0.30 | -0.12 |')
