"""The score command as a user calls it: whole, killed, on many devices."""

import json
import signal
import time

import numpy as np
import pytest

from ddt_jax import embedded
from ddt_jax.embedded import problems
from tests.support import commands


def write(path, n=40):
  """Reference solutions of three sources, two rows of them bad."""
  rows = [
      {'problem': p.problem, 'solution': p.solution, 'source': f'source {i % 3}'}
      for i, p in enumerate(problems.problems('test', n))
  ]
  rows[3]['solution'] = ''
  path.write_text(''.join(json.dumps(r) + '\n' for r in rows) + '{"problem\n')
  return path


def command(workdir, paths, **overrides):
  options = {
      'data.paths': paths, 'data.bad_rows': 'skip', 'shard': 10,
      'own.samples': 30, 'own.max_new_tokens': 60, 'report.examples': 12,
  } | overrides
  return [
      'experiments.score', '--config', 'configs/score.py',
      f'--workdir={workdir}', *(f'--config.{k}={v}' for k, v in options.items()),
  ]


def call(*args, devices=1, **kwargs):
  return commands.run(*command(*args, **kwargs), check=False, devices=devices)


def scores(workdir):
  return {
      str(f.relative_to(workdir)): [
          json.loads(line) for line in f.read_text().split('\n')[:-1]]
      for f in sorted(workdir.glob('*/0*.jsonl')) if 'drawn' not in str(f)
  }


def same(found, expected):
  """But for rounding: PIT and its tests see ranks of close probabilities."""
  assert found.keys() == expected.keys() and found
  for name, rows in expected.items():
    assert len(found[name]) == len(rows)
    for row, other in zip(found[name], rows, strict=True):
      assert row.keys() == other.keys()
      for key, value in other.items():
        if isinstance(value, str | bool | int) or key == 'ddt_token_ids':
          assert row[key] == value, key
        else:
          np.testing.assert_allclose(
              row[key], value, rtol=2e-3, atol=2e-4, err_msg=f'{name} {key}')


def test_two_corpora_side_by_side_and_a_second_call_resumes(tmp_path):
  data = write(tmp_path / 'mine.jsonl')
  done = call(tmp_path / 'run', f'{data},own')
  assert done.returncode == 0, done.stderr[-2000:]
  said = ' '.join(done.stdout.split())
  assert "mine.jsonl is off-policy for embedded (this project's toy model" in said
  assert 'mean phi -0.1' in said
  assert 'own is on-policy, as own samples must be, for embedded' in said
  assert 'scoring takes 0.' in done.stderr.split('score ')[0]
  assert 'mine.jsonl: source 2' in said and "'solution' is empty" in said
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  assert summary['corpora']['mine.jsonl']['responses'] == 39
  assert summary['corpora']['mine.jsonl']['skipped'] == 2
  found = summary['auroc']['mine.jsonl']
  assert found['phi'] > 0.9 and found['phi'] > found['log-likelihood']
  for name in ('report.html', 'plots/qq.png', '0-mine/00000.parquet'):
    assert (tmp_path / 'run' / name).stat().st_size, name
  before = {f: f.stat().st_mtime_ns
            for f in (tmp_path / 'run').glob('[0o]*/*') if f.is_file()}
  again = call(tmp_path / 'run', f'{data},own')
  assert again.returncode == 0
  # The first call also says how much memory drawing takes.
  assert again.stdout.split('These are')[1] == done.stdout.split('These are')[1]
  for file, written in before.items():
    assert file.stat().st_mtime_ns == written, file


@pytest.mark.parametrize('paths, options, said', [
    ('', {}, 'nothing to score'),
    ('absent.jsonl', {}, 'no such file'),
    ('{data}', {'data.bad_rows': 'error'}, "mine.jsonl:4: 'solution' is empty"),
    ('{data}', {'temperature': 0.0}, 'temperature must be positive'),
    ('own', {'model.path': str(embedded.STUDENT)}, 'name a file'),
    ('nobody/nothing', {}, "'nobody/nothing' is no file, and as a data set of the"),
])
def test_what_is_wrong_is_said_in_words(tmp_path, monkeypatch, paths, options, said):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')  # no retries of the hub, half a minute
  data = write(tmp_path / 'mine.jsonl')
  done = call(tmp_path / 'run', paths.format(data=data), **options)
  assert done.returncode == 2
  assert said in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.slow
def test_a_call_that_is_killed_or_stopped_ends_the_same(tmp_path):
  data = write(tmp_path / 'mine.jsonl')
  whole = call(tmp_path / 'whole', f'{data},own')
  assert whole.returncode == 0, whole.stderr[-2000:]
  workdir = tmp_path / 'cut'
  for place, how, status in [
      ('0-mine/00001.json', signal.SIGKILL, -signal.SIGKILL),
      ('drawn-30/00000.jsonl', signal.SIGTERM, 75),
      ('own/00000.json', signal.SIGKILL, -signal.SIGKILL),
      ('summary.json', signal.SIGKILL, -signal.SIGKILL),
  ]:
    process = commands.start(*command(workdir, f'{data},own'))
    while not (workdir / place).exists():
      assert process.poll() is None
      time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err[-2000:]
  done = call(workdir, f'{data},own')
  assert done.returncode == 0, done.stderr[-2000:]
  assert scores(workdir) == scores(tmp_path / 'whole')
  # Drawing, which the resumed call had behind it, says how much memory it takes.
  shown, expected = (
      x.stdout.split('Report')[0].split('These are')[1] for x in (done, whole))
  assert shown == expected


@pytest.mark.slow
def test_8_devices_and_2_processes_write_the_same_scores(tmp_path):
  data = write(tmp_path / 'mine.jsonl')
  one = call(tmp_path / 'one', data)
  assert one.returncode == 0, one.stderr[-2000:]
  expected = scores(tmp_path / 'one')
  for name, mesh in [('fsdp', {'mesh.data': 2}),
                     ('tensor', {'mesh.data': 4, 'mesh.tensor': 2})]:
    many = call(tmp_path / name, data, devices=8, **mesh)
    assert many.returncode == 0, many.stderr[-2000:]
    same(scores(tmp_path / name), expected)
  started = commands.start_together(*command(tmp_path / 'two', data))
  for said, status in commands.finish(started):
    assert status == 0, said[-2000:]
  same(scores(tmp_path / 'two'), expected)


@pytest.mark.slow
def test_the_self_test_passes_and_counts_false_positives(tmp_path):
  done = call(tmp_path / 'run', '', **{
      'calibrate': True, 'calibration.samples': 1000, 'own.max_new_tokens': 128,
      'calibration.lengths': '(16,128)', 'calibration.controls': True,
  })
  assert done.returncode == 0, done.stdout + done.stderr[-2000:]
  assert 'The scores can be trusted' in done.stdout
  size, self_test = done.stdout.split("Self-test on the model's own samples")
  assert 'Self-test: 1,000 own samples of 128 tokens; expected to take' in size
  self_test, controls = self_test.split('Controls, which the self-test has to tell')
  assert self_test.count('yes') == 3 and 'NO' not in self_test
  assert controls.count('yes') == 2 and 'too weak' not in controls
