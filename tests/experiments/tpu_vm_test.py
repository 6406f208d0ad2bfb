"""Jobs on TPU VMs, with a gcloud that plays the platform on this machine."""

import json
import os
import signal
import subprocess
import tarfile
import threading
import time

import pytest

from experiments import tpu_vm
from tests.support import commands
from tests.support import fake_gcloud
from tests.support import paths

# Prints its steps and notes the finished ones, from which it resumes. The n-th start
# hangs at the n-th step of the last argument, until the machine is lost.
JOB = '''
import os, pathlib, sys, time
done, starts = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + '.starts')
first = os.environ['HOME'].endswith('-0')
start = len(starts.read_text()) if starts.exists() else 0
if first:
  starts.write_text('x' * (start + 1))
hangs = dict(enumerate(map(int, sys.argv[3].split(',')))) if sys.argv[3] else {}
print('hosts', os.environ['DDT_JAX_HOSTS'])
for step in range(int(done.read_text() if done.exists() else 0), int(sys.argv[2])):
  print('step', step)
  time.sleep(600 if hangs.get(start) == step else 0)
  if first:
    done.write_text(str(step + 1))
'''
ONE, TWO = 'v5litepod-8', 'v4-16'  # types with one host and with two


class Launcher:
  """Runs `tpu_vm` in this process against a fake of the platform."""

  def __init__(self, folder, monkeypatch, capfd):
    self.folder, self.capfd = folder, capfd
    self.done = folder / 'done'
    self._patch = monkeypatch
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))

  def platform(self, **state):
    self.environment = fake_gcloud.install(self.folder / 'fake', **state)
    for name, value in self.environment.items():
      self._patch.setenv(name, value)
    self._patch.setattr(fake_gcloud, 'FOLDER', self.folder / 'fake')

  def job(self, steps=2, hangs=''):
    return ['python', '-c', JOB, str(self.done), str(steps), hangs]

  def __call__(self, verb, *options, name='job', kind=ONE, command=()):
    """Exit status, standard output and standard error."""
    argv = [verb, '--name', name, '--zone', 'z', '--type', kind, '--poll=0.01']
    try:
      status = tpu_vm.main([*argv, *options, *(['--', *command] if command else [])])
    except SystemExit as e:
      status = e.code
    return status, *self.capfd.readouterr()

  def calls(self, words=''):
    """Argument lists that gcloud has received, as texts."""
    found = [' '.join(c) for c in fake_gcloud.load(self.folder / 'fake')['calls']]
    return [c for c in found if words in c]

  def resources(self):
    return fake_gcloud.load(self.folder / 'fake')['resources']


@pytest.fixture
def launch(tmp_path, monkeypatch, capfd):
  launcher = Launcher(tmp_path, monkeypatch, capfd)
  yield launcher
  if hasattr(launcher, 'environment'):
    for name, resource in launcher.resources().items():
      fake_gcloud.lose(name, resource)


def test_create_runs_on_every_host_and_deletes_on_success(launch):
  launch.platform(states=[['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']])
  status, out, err = launch(
      'create', '--spot', '--delete_on_success', kind=TWO, command=launch.job())
  assert (status, out) == (0, 'hosts 2\nstep 0\nstep 1\n')
  assert [s for s in err.splitlines() if s.startswith('job: ')] == [
      'job: WAITING_FOR_RESOURCES', 'job: PROVISIONING', 'job: ACTIVE']
  assert err.splitlines()[-1] == 'nothing is left of job'
  assert launch.resources() == {}
  for host in '01':  # each alone before all together
    assert len(launch.calls(f'--worker={host} --command=true')) == 1
  assert len(launch.calls('worker start')) == 1


def test_a_machine_stays_without_the_option_and_the_last_line_says_so(launch):
  launch.platform()
  status, _, err = launch('create', command=launch.job())
  assert status == 0 and set(launch.resources()) == {'job'}
  last = err.splitlines()[-1]
  assert 'job (v5litepod-8 in z) is ACTIVE and costs money' in last
  assert last.endswith(
      'python -m experiments.tpu_vm delete --name=job --zone=z --type=v5litepod-8')
  # The VM deletes itself, with or without us.
  script = launch.resources()['job']['flags']['startup']
  assert script.startswith('#!/bin/bash\nsystemd-run --on-active=86400s')
  assert 'queued-resources delete job --zone=z --force --quiet --async' in script


def test_a_spot_slice_that_is_preempted_twice_ends_with_the_run_finished(launch):
  launch.platform(preempt=['step 1', 'step 3'])
  status, out, err = launch(
      'create', '--spot', '--delete_on_success', kind=TWO,
      command=launch.job(5, hangs='1,3'))
  assert status == 0 and launch.done.read_text() == '5'
  # A step that was not noted before the machine was lost is repeated.
  assert [int(s.split()[1]) for s in out.splitlines() if s.startswith('step')] == [
      0, 1, 1, 2, 3, 3, 4]
  assert err.count('the run resumes on a new machine') == 2
  assert len(launch.calls('queued-resources create job')) == 3
  assert launch.calls('queued-resources delete') == [
      'compute tpus queued-resources delete job --zone=z --force --quiet'] * 3
  assert launch.resources() == {}
  assert err.splitlines()[-1] == 'nothing is left of job'


def test_a_preemption_that_ends_the_run_before_the_machine(launch):
  launch.platform(preempt=['step 1'], late=2)
  status, out, err = launch(
      'create', '--spot', '--delete_on_success', command=launch.job(9, hangs='1'))
  assert status == 0 and out.endswith('step 8\n')
  assert err.count('the run resumes on a new machine') == 1


def test_preempted_before_it_is_active(launch):
  launch.platform(states=[['PROVISIONING', 'SUSPENDING', 'SUSPENDED'], ['ACTIVE']])
  status, out, _ = launch('create', '--spot', command=launch.job())
  assert status == 0 and out.endswith('step 1\n')
  assert len(launch.calls('queued-resources create')) == 2


def test_run_does_not_create_a_machine_that_was_preempted(launch):
  launch.platform(preempt=['step 0'])
  assert launch('create')[0] == 0
  status, _, err = launch('run', command=launch.job(9, hangs='0'))
  assert status == 2 and 'was preempted. Create it again' in err
  assert 'SUSPENDED and costs nothing' in err.splitlines()[-1]
  # Another create begins with what is left of it.
  status, out, _ = launch('create', command=launch.job(9))
  assert status == 0 and out.endswith('step 8\n')


def test_a_request_that_fails(launch):
  launch.platform(states=[['WAITING_FOR_RESOURCES', 'FAILED'], ['ACTIVE']])
  status, _, err = launch('create')
  assert status == 2 and 'no more capacity in the zone' in err
  assert 'job is FAILED and costs nothing' in err.splitlines()[-1]
  assert launch('create')[0] == 0  # what failed is deleted first


def test_flex_ends_by_itself_and_is_not_created_again(launch):
  launch.platform(preempt=['step 1'])
  status, _, err = launch(
      'create', '--flex', '--max_duration=90m', command=launch.job(5, hangs='1'))
  assert status == 75 and 'its maximum duration is over' in err
  assert len(launch.calls('create')) == 1 and launch.resources() == {}
  assert '--max-run-duration=90m' in launch.calls('alpha')[0]


def test_the_maximum_duration_holds_while_the_log_is_shown(launch):
  launch.platform()
  status, _, err = launch('create', '--max_duration=1s', command=launch.job(hangs='0'))
  assert status == 75 and launch.resources() == {}
  assert err.splitlines()[-1] == 'nothing is left of job'


def test_somebody_deletes_the_machine(launch):
  launch.platform(fail=[['worker follow', [1], 255, 'lost'],
                        ['describe job', [3, 4], 1, 'NOT_FOUND']])
  status, _, err = launch('create', command=launch.job())
  assert status == 75 and 'or it was deleted' in err


@pytest.mark.parametrize('words, numbers, status, message', [
    ('describe', [2, 3], 1, 'the network is away'),
    ('--command=true', [1], 1, 'the key is not there yet'),
    ('--command=true', [1], 255, 'sshd does not run yet'),
    ('scp', [1], 255, ''),
    ('install.sh', [1], 255, ''),
    ('worker start', [1], 255, ''),
    ('worker follow', [1, 2], 255, ''),
    ('worker state', [2], 255, ''),
])
def test_a_call_that_fails_once_is_made_again(launch, words, numbers, status, message):
  launch.platform(fail=[[words, numbers, status, message]])
  assert launch('create', '--delete_on_success', command=launch.job())[:2] == (
      0, 'hosts 1\nstep 0\nstep 1\n')


@pytest.mark.parametrize('words, exists', [
    ('describe', None), ('queued-resources create', False), ('scp', True),
    ('install.sh', True), ('worker start', True), ('worker state', True),
    ('--command=true', True), ('queued-resources delete', True),
])
def test_a_call_that_keeps_failing_ends_with_a_line_of_what_remains(
    launch, words, exists
):
  launch.platform(fail=[[words, list(range(99)), 1, 'permission denied']])
  status, _, err = launch('create', '--delete_on_success', command=launch.job(1))
  assert status == 2 and 'permission denied' in err
  assert [s for s in err.splitlines() if s.startswith('error: gcloud compute tpus')]
  assert {
      None: 'job may still run', False: 'nothing is left of job',
      True: 'is ACTIVE and costs money',
  }[exists] in err.splitlines()[-1]
  if exists is not False:
    assert 'experiments.tpu_vm delete --name=job' in err.splitlines()[-1]


def test_a_run_that_fails_keeps_its_machine_and_its_status(launch):
  launch.platform()
  command = ['python', '-c', 'import sys; print("no"); sys.exit(7)']
  status, out, err = launch(
      'create', '--delete_on_success', kind=TWO, command=command)
  assert (status, out) == (7, 'no\n') and set(launch.resources()) == {'job'}
  assert "--worker=all '--command=tail -n 20 ddt_jax_run/log'" in err


def test_a_program_that_does_not_exist(launch):
  launch.platform()
  status, out, _ = launch('create', command=['no such program'])
  assert status == 127 and 'no such program' in out


def test_hostile_names_and_arguments_arrive_as_they_are(launch):
  launch.platform()
  name = 'a b\';"$(touch x);\\\n`touch y`'
  words = ['', 'a b', "it's", '"', '; touch z', '$(touch z)', '`touch z`', '*', '\\',
           '--', '-x', 'two\nlines', '{}', 'ä']
  command = ['python', '-c', 'import json, sys; print(json.dumps(sys.argv[1:]))', *words]
  status, out, _ = launch('create', '--delete_on_success', name=name, command=command)
  assert status == 0 and json.loads(out) == words
  assert launch.resources() == {}
  for letter in 'xyz':
    assert not list(launch.folder.rglob(letter))


def test_logs_status_and_stop(launch):
  launch.platform()
  assert launch('status')[1] == 'job: does not exist\n'
  assert launch('logs')[0] == 2
  assert launch('create')[0] == 0
  assert launch('status')[1] == 'job: ACTIVE\nrun: none\n'
  assert 'no run was started' in launch('logs')[2]
  # A run that ends when it is told to, as ours do: saved, status 75.
  code = ('import signal, sys, time\n'
          'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
          'print("up")\ntime.sleep(60)')
  started = commands.start(
      'experiments.tpu_vm', 'run', '--name=job', '--zone=z', f'--type={ONE}',
      '--poll=0.01', '--', 'python', '-c', code, stdout=subprocess.PIPE,
      **launch.environment)
  assert started.stdout.readline() == 'up\n'
  _, out, _ = launch('status')
  assert out.startswith('job: ACTIVE\nrun: running: python -c ')
  # A second command has to wait; the same one is followed.
  assert 'runs another command' in launch('run', command=['true'])[2]
  assert 'is busy with a run' in launch('create')[2]
  assert launch('stop')[0] == 0
  _, said = started.communicate(timeout=60)
  assert started.returncode == 75, said
  assert 'run: ended, exit status 75' in launch('status')[1]
  assert launch('logs')[:2] == (75, 'up\n')
  assert launch('delete')[0] == 0 and launch('delete')[0] == 0
  assert launch.resources() == {}


@pytest.fixture
def ctrl_c():
  """Lets processes be interrupted even if the shell starts us in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_after_ctrl_c_the_run_continues_and_the_same_command_follows_it(launch, ctrl_c):
  launch.platform()
  options = ['create', '--name=job', '--zone=z', f'--type={ONE}', '--poll=0.01']
  go = launch.folder / 'go'
  code = (f'import pathlib, time\nprint("step 1")\n'
          f'while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)\n'
          'print("step 2")')
  command = ['python', '-c', code]
  said = launch.folder / 'said'
  # To a file: the other end of the connection keeps a pipe open for a while.
  with said.open('w') as stderr:
    started = commands.start(
        'experiments.tpu_vm', *options, '--', *command, stdout=subprocess.PIPE,
        stderr=stderr, start_new_session=True, **launch.environment)
  while started.stdout.readline() != 'step 1\n':
    assert started.poll() is None
  os.killpg(started.pid, signal.SIGINT)  # as a terminal does
  assert started.wait(timeout=60) == 130
  err = said.read_text()
  assert 'A run that was started continues' in err
  assert 'costs money' in err.splitlines()[-1]
  assert 'run: running' in launch('status')[1]
  # The log is shown from its beginning; the run ends while it is followed.
  threading.Timer(1.0, go.touch).start()
  status, out, err = launch('create', '--delete_on_success', command=command)
  assert status == 0 and 'the run is in progress' in err
  assert out == 'step 1\nstep 2\n'
  assert len(launch.calls('worker start')) == 1


def test_ctrl_c_while_the_machine_is_awaited(launch, ctrl_c):
  launch.platform(states=[['WAITING_FOR_RESOURCES']])
  started = commands.start(
      'experiments.tpu_vm', 'create', '--name=job', '--zone=z', f'--type={ONE}',
      '--poll=0.01', start_new_session=True, **launch.environment)
  while not launch.calls('create'):
    time.sleep(0.05)
  os.killpg(started.pid, signal.SIGINT)
  _, err = started.communicate(timeout=60)
  assert started.returncode == 130
  assert 'is WAITING_FOR_RESOURCES and costs money while' in err.splitlines()[-1]


@pytest.mark.parametrize('options, message', [
    (['create', '--type=v5e-16'], 'did you mean v5litepod-16?'),
    (['create', '--type=tpu7x-8'], 'add --api=compute'),
    (['create', '--type=v6e-8', '--api=compute'], 'add --dry_run'),
    (['create', '--type=v4-8', '--api=compute', '--dry_run'], 'v6e and tpu7x alone'),
    (['create', '--type=v4-8', '--max_duration=1 day'], 'e.g. 90m, 24h or 7d'),
    (['run', '--type=v4-8'], 'run needs a command'),
    (['logs', '--type=v4-8', '--', 'x'], 'takes no command'),
    (['create', '--type=v4-16', '--', 'python', '-m', 'experiments.train'],
     'v4-16 has 2 hosts, which must see one folder'),
    (['create', '--type=v4-16', '--', 'python', '-m', 'experiments.train',
      '--workdir', 'runs/x'], 'instead of --workdir=runs/x'),
    (['create', '--type=v4-16', '--', 'python', '-m', 'experiments.curate',
      '--out=c.jsonl'], '--out=gs://BUCKET/PATH'),
])
def test_mistakes_end_before_gcloud_is_called(options, message, capsys, monkeypatch):
  monkeypatch.setenv('PATH', '')
  with pytest.raises(SystemExit) as ended:
    tpu_vm.main([options[0], '--name=n', '--zone=z', *options[1:]])
  assert ended.value.code == 2
  assert message in capsys.readouterr().err


def test_without_gcloud(capfd, monkeypatch):
  monkeypatch.setenv('PATH', '')
  with pytest.raises(SystemExit):
    tpu_vm.main(['status', '--name=n', '--zone=z', '--type=v4-8'])
  assert 'gcloud is not on the PATH' in capfd.readouterr().err


def test_the_package_is_installed_by_uv_with_a_python_of_its_own(launch):
  launch.platform()
  assert launch('create', kind=TWO)[0] == 0
  for host in range(2):
    calls = (fake_gcloud.home('job', host) / 'uv_calls').read_text()
    assert calls.splitlines() == [
        'venv --quiet --python 3.12 .venv',
        'pip install --quiet --python .venv/bin/python -e .[tpu,gcs]']


@pytest.mark.skipif(not (paths.ROOT / '.git').exists(), reason='not a checkout')
def test_git_archives_what_the_hosts_need(tmp_path, capsys):
  assert tpu_vm.main(
      ['run', '--name=n', '--zone=z', '--type=v4-8', '--dry_run', '--', 'x']) == 0
  line, = [s for s in capsys.readouterr().out.splitlines() if s.startswith('git ')]
  archive = tmp_path / 'checkout.tar.gz'
  words = [f'--output={archive}' if w.startswith('--output=') else w
           for w in line.split()]
  subprocess.run(words, cwd=paths.ROOT, check=True)
  assert {'setup.py', 'configs/idft.py', 'experiments/train.py',
          'ddt_jax/__init__.py'} <= set(tarfile.open(archive).getnames())
