"""The benchmark of the start: its figures are there, and tokens are kept."""

from tests.support import bench_runs


def test_a_small_run(tmp_path):
  found = bench_runs.figures(
      'bench.startup', '--rows=1100', '--model=embedded', '--longest=256',
      f'--file={tmp_path / "rows.parquet"}')
  first, second = found['first start'], found['second start']
  assert first['tokens'] == second['tokens'] > 1e5
  assert first['steps'] == second['steps']
  assert second['read and tokenised'] > 0 and second['peak GB'] > 0
  assert [start['files of kept tokens'] for start in (first, second)] == [0, 1]
