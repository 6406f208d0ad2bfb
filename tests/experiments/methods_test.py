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
    'opsd': {'distill.responses': 'right', 'hint.analysis': 'model'},
    'psft': {'reference.every': 2},
}
# One of each kind is quick enough for every change.
METHODS = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('psft', 'dpo', 'sdft')),
    *(pytest.param(name, marks=pytest.mark.long) for name in (
        'idft', 'sft', 'dft', 'iw_sft', 'asft', 'eaft', 'phi_mask', 'chord', 'sft_kl',
        'rft', 'hd_sft', 'simpo', 'opsd', 'on_policy_distillation'))]


def start(name, workdir):
  options = TINY | ITS_OWN.get(name, {})
  return commands.start(
      'experiments.train', '--config', f'configs/{name}.py', f'--workdir={workdir}',
      *(f'--config.{k}={v}' for k, v in options.items()), start_new_session=True)


def files(workdir):
  """What a run has written so far, checkpoints and all."""
  try:
    return {f.relative_to(workdir) for f in workdir.rglob('*') if f.is_file()}
  except FileNotFoundError:  # a folder was renamed in between
    return set()


def finish(process):
  _, said = process.communicate(timeout=300)
  assert process.returncode == 0, said[-2000:]


@pytest.mark.parametrize('name', METHODS)
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path):
  whole, workdir = tmp_path / 'whole', tmp_path / 'cut'
  finish(start(name, whole))
  # A moment by the run's progress, since its speed differs from call to call; each
  # method has another one.
  chance = random.Random(name)
  moment = chance.randint(1, len(files(whole)) * 3 // 4)
  cut = start(name, workdir)
  while cut.poll() is None and len(files(workdir)) < moment:
    time.sleep(0.01)
  time.sleep(chance.uniform(0, 0.2))
  assert cut.poll() is None, cut.stderr.read()[-2000:]
  os.killpg(cut.pid, signal.SIGKILL)
  cut.wait()
  cut.stderr.close()
  print(f'{name}: killed with {len(files(workdir))} of {len(files(whole))} files')
  finish(start(name, workdir))
  found, expected = (pipeline_test.produced(f) for f in (workdir, whole))
  assert expected['metrics'] and expected['responses']
  for part, value in expected.items():
    assert found[part] == value, part


@pytest.mark.slow
def test_a_check_counts_the_teacher_and_refuses_a_wrong_one():
  flags = [f'--config.{k}={v}' for k, v in TINY.items()]
  done = commands.run(
      'experiments.train', '--config', 'configs/sdft.py', '--check', *flags)
  assert 'teacher   the model itself; rows of' in done.stdout
  wrong = commands.run(
      'experiments.train', '--config', 'configs/on_policy_distillation.py', '--check',
      '--config.distill.teacher=nowhere', *flags, check=False)
  assert wrong.returncode == 2 and "distill.teacher='nowhere'" in wrong.stderr
  assert 'Traceback' not in wrong.stderr
