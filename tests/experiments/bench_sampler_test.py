"""The benchmark of the sampler: what it keeps is what a sort keeps."""

from tests.support import bench_runs


def test_a_small_run():
  found = bench_runs.figures('bench.sampler', '--shape=3x700', '--rounds=3')
  for name in ('bisection', 'sort'):
    key = f'{name}: tokens kept or dropped otherwise than in float64'
    assert found[key]['tokens'] == 0
    assert found[f'{name}, temporaries in MB']['MB'] > 0
  kept = found['tokens kept in a row']
  assert 1 <= kept['fewest'] < kept['most'] < 700
  assert found['sort / bisection']['rounds'] == 3
