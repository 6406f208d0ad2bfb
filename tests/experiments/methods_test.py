"""Every method's config is run, killed once at a random moment, and resumed."""

import os
import random
import signal
import time

import pytest

from tests.experiments import pipeline_test
from tests.support import commands

# A run of a few seconds of work: two or three steps on a dozen problems.
TINY = {
    'rounds': 1, 'curate.per_round': 12, 'curate.max_new_tokens': 96,
    'train.batch': 4, 'hint.max_analysis_tokens': 160, 'evaluation.problems': 2,
    'evaluation.samples': 0, 'evaluation.max_new_tokens': 16, 'report.examples': 4,
    'validation.every': 0, 'checkpoint.every': 1, 'log.every': 1,
    'log.tensorboard': False,
}
ITS_OWN = {  # what a config needs on a dozen easy problems
    'dpo': {'curate.samples': 4}, 'simpo': {'curate.samples': 4},
    'on_policy_distillation': {'distill.teacher': 'embedded', 'distill.hint': True},
    'sdft': {'distill.every': 2},  # a kill between two draws, too
    'opsd': {'distill.responses': 'right'},
    'psft': {'reference.every': 2},
}
METHODS = (
    'idft', 'sft', 'dft', 'psft', 'iw_sft', 'asft', 'eaft', 'phi_mask', 'chord',
    'sft_kl', 'rft', 'hd_sft', 'dpo', 'simpo', 'sdft', 'opsd',
    'on_policy_distillation')


def start(name, workdir):
  options = TINY | ITS_OWN.get(name, {})
  return commands.start(
      'experiments.train', '--config', f'configs/{name}.py', f'--workdir={workdir}',
      *(f'--config.{k}={v}' for k, v in options.items()), start_new_session=True)


def at_work(process):
  """Waits until a bar is shown; returns the time then."""
  while process.stderr.read(1) not in ('|', ''):
    pass
  return time.monotonic()


def finish(process):
  _, said = process.communicate(timeout=300)
  assert process.returncode == 0, said[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path):
  whole = start(name, tmp_path / 'whole')
  began = at_work(whole)
  finish(whole)
  lasted = time.monotonic() - began
  cut = start(name, tmp_path / 'cut')
  at_work(cut)
  # One moment for each method; another machine's speed makes it another one.
  time.sleep(random.Random(name).uniform(0.1, 0.7) * lasted)
  assert cut.poll() is None, cut.stderr.read()[-2000:]
  os.killpg(cut.pid, signal.SIGKILL)
  cut.wait()
  cut.stderr.close()
  made = sorted(
      str(f.relative_to(tmp_path / 'cut')) for f in (tmp_path / 'cut').rglob('*')
      if f.is_file())
  print(f'{name}: killed after {len(made)} files, the last of them {made[-1:]}')
  finish(start(name, tmp_path / 'cut'))
  found, expected = (
      pipeline_test.produced(tmp_path / folder) for folder in ('cut', 'whole'))
  assert expected['metrics'] and expected['responses']
  for part, value in expected.items():
    assert found[part] == value, part
