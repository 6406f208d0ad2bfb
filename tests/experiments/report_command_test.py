"""The report command: a run's page anew, and several runs on one page."""

import json

from ddt_jax.training import metrics
from tests.support import commands
from tests.support import run_folders

CONFIG = run_folders.CONFIG | {'name': 'a'}


def workdir(folder):
  with metrics.Writer(folder, tensorboard=False) as writer:
    writer.write(3, 'train', {'nll': 0.5, 'loss': 0.1})
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  (folder / 'results.json').write_text(run_folders.run_results().to_json())
  return folder


def test_one_run_several_runs_and_none(tmp_path):
  one, two = workdir(tmp_path / 'one'), workdir(tmp_path / 'two')
  done = commands.run('experiments.report', f'--workdir={one}')
  assert (one / 'report.html').exists() and f'Report: {one}' in done.stdout
  out = tmp_path / 'both.html'
  done = commands.run(
      'experiments.report', f'--workdir={one},{two}', f'--out={out}')
  assert out.exists() and 'before training' in done.stdout
  wrong = commands.run('experiments.report', f'--workdir={tmp_path}', check=False)
  assert wrong.returncode == 2 and 'no config.json' in wrong.stderr
