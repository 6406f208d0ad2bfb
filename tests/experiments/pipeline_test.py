"""The commands a user types, end to end, as real processes where it matters."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import datasets
import jax
import numpy as np
import pytest

from ddt_jax import embedded
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import readers
from ddt_jax.embedded import problems
from ddt_jax.embedded import word_problems
from ddt_jax.rounds import answers
from ddt_jax.training import checkpoint
from ddt_jax.training import metrics
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments import export
from tests.support import commands

ROWS = [
    {'problem': 'What is 2 + 3?', 'solution': r'2+3=5. Answer: \boxed{5}.',
     'answer': '5'},
    {'problem': 'What is 7 - 4?', 'solution': r'7-4=3. Answer: \boxed{3}.',
     'answer': '3'},
    {'problem': 'What is 3 * 3?', 'solution': r'3*3=9. Answer: \boxed{9}.',
     'answer': '9'},
]

# A run of a few seconds that passes through every stage.
SHORT = {
    'evaluation.problems': 8, 'evaluation.samples': 1,
    'evaluation.max_new_tokens': 32, 'train.batch': 8, 'report.examples': 16,
    'validation.every': 4, 'validation.accuracy_every': 8,
    'validation.problems': 8, 'checkpoint.every': 4, 'log.every': 2,
}


def command(workdir, data='', **overrides):
  flags = [f'--config.{k}={v}' for k, v in (SHORT | overrides).items()]
  return [
      'experiments.train', '--config', 'configs/idft.py',
      f'--workdir={workdir}', f'--config.data.path={data}', *flags,
  ]


def call(*args, **kwargs):
  return commands.run(*command(*args, **kwargs), check=False)


def write_rows(path, rows=ROWS):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_three_rows_by_hand_train_and_a_second_call_resumes(tmp_path):
  data = write_rows(tmp_path / 'mine.jsonl')
  done = call(tmp_path / 'run', data, **{'train.epochs': 3})
  assert done.returncode == 0, done.stderr[-2000:]
  assert '3 problems: 3 train' in done.stdout
  assert '<|im_end|>' in done.stdout  # which token ends the turn is said
  assert 'attention: blocks' in done.stderr
  for name in ('report.md', 'report.html', 'plots/loss.png',
               'model/model.safetensors', 'model/tokenizer.json'):
    assert (tmp_path / 'run' / name).stat().st_size, name
  lines = metrics.read(tmp_path / 'run', 'train')
  assert lines[-1]['step'] == 2  # 3 rows, 3 epochs, batches of 8

  again = call(tmp_path / 'run', data, **{'train.epochs': 3})
  assert again.returncode == 0
  assert metrics.read(tmp_path / 'run', 'train') == lines
  # The finished run is reported; model and data are not read for it.
  report = done.stdout[done.stdout.index('Run idft'):]
  assert again.stdout.strip() == report.strip()
  other = call(tmp_path / 'run', data, **{'train.epochs': 4})
  assert other.returncode == 2
  assert 'config.train.epochs: 3 -> 4' in other.stderr


def test_a_row_without_an_answer_is_trained_on_and_not_verified(tmp_path):
  data = write_rows(
      tmp_path / 'mine.jsonl', [*ROWS, {**ROWS[0], 'problem': 'Why?', 'answer': ''}])
  done = commands.run(*command(tmp_path / 'run', data), '--check')
  assert '4 problems to train on' in done.stdout


def test_check_shows_counts_and_one_example_and_trains_nothing(tmp_path):
  data = write_rows(tmp_path / 'mine.jsonl')
  done = commands.run(*command(tmp_path / 'run', data), '--check')
  assert '3 problems to train on, 3 with an answer to verify' in done.stdout
  assert r'»2+3=5. Answer: \boxed{5}.<|im_end|>«' in done.stdout
  assert 'GiB a device' in done.stdout and 'attention blocks' in done.stdout
  assert not (tmp_path / 'run').exists()


def test_the_best_parameters_are_exported_where_asked_for(tmp_path):
  options = {
      'checkpoint.export': 'best', 'validation.every': 1, 'optim.lr': 0.03,
      'validation.accuracy_every': 1,
      'optim.warmup_ratio': 0.0, 'curate.per_round': 24, 'curate.samples': 0,
      'hint.enabled': False, 'rounds': 1, 'evaluation.problems': 0,
  }
  run = tmp_path / 'run'
  done = call(run, **options)
  assert done.returncode == 0, done.stderr[-2000:]
  accuracy = {
      line['step']: line['accuracy'] for line in metrics.read(run, 'validation')}
  best = max(accuracy, key=accuracy.get)  # the first of equals
  assert best < max(accuracy)  # so high a rate ruins the model at once
  config, exported = weights.load(run / 'model')
  shapes = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  target = checkpoint.abstract(shapes, sharding.tree_shardings(shapes, mesh))
  (restored, progress) = checkpoint.Checkpoints(run, 'best').restore(
      {'params': target})
  assert progress['best_step'] == best
  jax.tree.map(np.testing.assert_array_equal, exported, restored['params'])
  # The export command writes the same folder out of the checkpoint.
  export.run(run, tmp_path / 'out')
  names = {f.name for f in (run / 'model').iterdir()}
  assert names == {f.name for f in (tmp_path / 'out').iterdir()}
  for name in names:
    files = (folder / name for folder in (run / 'model', tmp_path / 'out'))
    assert len({f.read_bytes() for f in files}) == 1, name
  card = (run / 'model' / 'README.md').read_text()
  assert f'python -m experiments.train --config configs/idft.py --workdir={run}' in card
  assert f'after step {best}' in card and '## Reference solutions' in card


def test_periods_of_0_and_no_samples_are_off(tmp_path):
  data = write_rows(tmp_path / 'mine.jsonl', ROWS * 4)
  done = call(tmp_path / 'run', data, **{
      'validation.every': 0, 'checkpoint.every': 0, 'log.every': 0,
      'evaluation.samples': 0, 'data.evaluation': 0.3, 'data.validation': 0.3,
      'rounds': 1, 'kl_to_base.problems': 2, 'kl_to_base.max_new_tokens': 8,
  })
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'avg@' not in done.stdout.partition('pass@1: share')[0]
  lines = metrics.read(tmp_path / 'run')
  # At the end; accuracy before and after the round.
  assert [line['kind'] for line in lines] == ['evaluation', 'train', 'evaluation']
  # The distance from the base is in the metrics, on the screen and in the report.
  before, _, after = (line.get('evaluation_kl_to_base') for line in lines)
  assert before == 0 < after
  for text in (done.stdout, (tmp_path / 'run' / 'report.md').read_text()):
    assert 'KL to base' in text and f'{after:.4f}' in text


@pytest.mark.parametrize('rows, options, said', [
    (['{"problem": "x", "solution": '], {}, 'mine.jsonl:4: '),
    ([json.dumps({'problem': 'x', 'answer': '1'})], {}, 'solution'),
    ([json.dumps(ROWS[0] | {'solution': '1 ' * 50_000})],
     {'data.overlong': 'error'}, 'mine.jsonl:4: 1000'),
], ids=['broken', 'missing column', 'overlong'])
def test_a_bad_row_is_named_before_any_work(tmp_path, rows, options, said):
  data = write_rows(tmp_path / 'mine.jsonl')
  data.write_text(data.read_text() + ''.join(row + '\n' for row in rows))
  done = call(tmp_path / 'run', data, **options)
  assert done.returncode == 2
  assert said in done.stderr, done.stderr[-1000:]
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'run' / 'measured').exists()


def test_splits_of_the_embedded_world_share_no_problem(tmp_path):
  seen = {}
  for split in problems.SIZES:
    for p in word_problems.load(split, data_dir=str(tmp_path)):
      assert p.problem not in seen, (split, seen.get(p.problem))
      seen[p.problem] = split
  assert len(seen) == sum(problems.SIZES.values())


def _student(devices, **mesh):
  mesh = sharding.make_mesh(devices=jax.devices()[:devices], **mesh)
  config, params = weights.load(embedded.STUDENT, mesh=mesh)
  import transformers
  tokenizer = transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)
  return mesh, config, params, tokenizer


def _ten_steps(devices, **mesh):
  """Losses of ten steps, the first gradient, and answers to 16 problems."""
  mesh, config, params, tokenizer = _student(devices, **mesh)
  end = chat.turn_end(tokenizer, config.eos_ids)
  some = list(problems.problems('train', 80))
  fitted = lengths.prepare(tokenizer, some, end, 256)
  _, tx = optimizer.make(total_steps=10, lr=1e-3)
  found = answers.answer(
      params, config, tokenizer, some[:16], mesh=mesh, key=jax.random.key(0),
      max_new_tokens=48, eos_ids=config.eos_ids,
      verifier=dict(workers=2, timeout_s=5.0),
  )
  step = jax.jit(
      train_step.make_train_step(config, tx, name='idft', mesh=mesh))
  state = train_step.TrainState.create(params, tx)
  losses, first = [], None
  stream = batches.Stream(fitted.examples, batch=16, epochs=2, seed=0)
  for batch in stream:
    batch = batches.place(batch, mesh)
    if first is None:
      grad = jax.grad(lambda p, b: train_step.loss_sums(
          p, config, b, 'idft', mesh=mesh)[0])
      first = jax.device_get(grad(params, batch))
    state, m = step(state, batch)
    losses.append(float(m['loss'] / m['count']))
  return np.array(losses), first, found


@pytest.mark.slow
def test_1_2_and_8_devices_agree():
  losses, gradient, found = _ten_steps(1)
  norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
  for devices, mesh in [(2, dict(data=2, fsdp=1)), (8, dict(data=2, fsdp=4))]:
    others, other, their_answers = _ten_steps(devices, **mesh)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    apart = jax.tree.map(lambda a, b: ((a - b)**2).sum(), gradient, other)
    assert np.sqrt(sum(jax.tree.leaves(apart))) <= 1e-5 * norm
    assert [[r.tokens for r in row] for row in their_answers] == [
        [r.tokens for r in row] for row in found
    ]


# Two rounds of a few seconds.
TWO_ROUNDS = {
    'curate.per_round': 24, 'curate.shard': 8, 'curate.samples': 1,
    'evaluation.problems': 4, 'checkpoint.every': 2,
}


def produced(workdir):
  """All that a run made, without the times."""
  def untimed(file):
    found = json.loads(file.read_text())
    return {k: v for k, v in found.items() if k not in ('seconds', 'timings')}

  return {
      'parameters': hashlib.sha256(
          (workdir / 'model' / 'model.safetensors').read_bytes()).hexdigest(),
      'metrics': [
          {k: v for k, v in line.items() if k not in metrics.TIME_FIELDS}
          for line in metrics.read(workdir)],
      'measured': [untimed(f) for f in sorted(workdir.glob('measured/*.json'))],
      'summaries': [
          untimed(f) for f in sorted(workdir.glob('rounds/*/summary.json'))],
      # Distillation rewrites nothing, and shows nothing.
      'shown': [untimed(f) for f in workdir.glob('rounds/0/shown.json')],
      'corpora': [
          f.read_text() for f in sorted(workdir.glob('rounds/*/corpus.jsonl'))],
      'responses': {
          str(f.relative_to(workdir)): f.read_text().split('\n')[2:]
          for f in sorted(workdir.glob('rounds/*/*/0*.jsonl'))},
  }


def kill_at_random(workdir, kills, rng, options):
  """Starts the command so many times and kills its group while it works.

  Returns the number of files that were there at each kill.
  """
  found = []
  for _ in range(kills):
    process = commands.start(*command(workdir, **options), start_new_session=True)
    # Some bar is shown once the work begins.
    while (byte := process.stderr.read(1)) not in ('|', ''):
      pass
    if byte:
      time.sleep(rng.uniform(0.0, 5.0))
    if process.poll() is not None:
      assert process.returncode == 0, process.stderr.read()[-2000:]
      continue
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    found.append(sum(f.is_file() for f in workdir.rglob('*')))
  return found


def check_killed(tmp_path, kills, options):
  whole = call(tmp_path / 'whole', **options)
  assert whole.returncode == 0, whole.stderr[-2000:]
  workdir = tmp_path / 'killed'
  hits = kill_at_random(workdir, kills, random.Random(0), options)
  print(f'{len(hits)} of {kills} kills met the run at work; files: {hits}')
  # Most came before its end, and not all at one place.
  assert len(hits) > kills / 2 and len(set(hits)) > kills / 4
  done = call(workdir, **options)
  assert done.returncode == 0, done.stderr[-2000:]
  found, expected = produced(workdir), produced(tmp_path / 'whole')
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name] == value, name
  [shown] = expected['shown']
  assert shown['problems']
  for problem in shown['problems']:
    assert [a['kind'] for a in problem['answers']] == [
        'reference', 'wrong', 'rewritten']
  for file, lines in found['responses'].items():
    made = [json.loads(line) for line in lines[:-1]]
    assert not any('timeout' in r['reason'] for r in made), file  # by a time limit
    if '/sample/' in file:
      ids = [r['problem_id'] for r in made]
      assert len(ids) == len(set(ids)) * options['curate.samples'], file


@pytest.mark.slow
@pytest.mark.parametrize('kills,options', [
    (8, {}), (4, {'train.pack': True, 'train.batch': 4})])
def test_two_rounds_killed_at_random_moments_end_the_same(
    tmp_path, kills, options):
  check_killed(tmp_path, kills, TWO_ROUNDS | options)


@pytest.mark.long
def test_two_rounds_killed_thirty_times_end_the_same(tmp_path):
  check_killed(tmp_path, 30, TWO_ROUNDS | {
      'curate.per_round': 250, 'curate.shard': 50, 'curate.samples': 2,
      'evaluation.problems': 50, 'train.batch': 16,
  })


@pytest.mark.slow
def test_a_validation_that_is_asked_to_stop_is_repeated_by_the_next_call(tmp_path):
  options = TWO_ROUNDS | {
      'checkpoint.every': 1000, 'validation.every': 1, 'validation.accuracy_every': 1}
  whole, workdir = call(tmp_path / 'whole', **options), tmp_path / 'stopped'
  assert whole.returncode == 0, whole.stderr[-2000:]
  # Which validation of a call is stopped: after step 2, its repetition, and the one
  # at the end of the first round.
  for which, step in ((2, 2), (1, 2), (2, 3)):
    done = commands.run(
        'tests.support.stopping', str(which), *command(workdir, **options),
        check=False)
    assert done.returncode == 75, done.stderr[-2000:]
    saved = json.loads(
        (workdir / f'checkpoints/{step:08}/progress.json').read_text())
    assert saved['unvalidated'] == 'accuracy'
  done = call(workdir, **options)
  assert done.returncode == 0, done.stderr[-2000:]
  assert produced(workdir) == produced(tmp_path / 'whole')


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_and_resumes(tmp_path):
  options = TWO_ROUNDS | {'checkpoint.every': 1000}
  whole = call(tmp_path / 'whole', **options)
  assert whole.returncode == 0, whole.stderr[-2000:]
  workdir = tmp_path / 'stopped'
  stops = 0
  for place, how in (
      ('measured/0.json', signal.SIGTERM),
      ('rounds/0/summary.json', signal.SIGINT),
  ):
    process = commands.start(*command(workdir, **options))
    while not (workdir / place).exists():
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(how)
    asked = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert process.returncode == 75, said[-2000:]
    assert 'the same command resumes' in said
    stops += 1
  assert stops == 2
  done = call(workdir, **options)
  assert done.returncode == 0, done.stderr[-2000:]
  assert produced(workdir)['parameters'] == produced(tmp_path / 'whole')['parameters']


def test_the_curate_command_writes_chats_that_others_read(tmp_path):
  out = tmp_path / 'corpus.jsonl'
  done = commands.run(
      'experiments.curate', '--config', 'configs/idft.py', f'--out={out}',
      '--config.curate.per_round=12')
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert len(rows) == 12
  assert f'{out}: 12 of 12 problems' in done.stdout
  for row in rows:
    assert [t['role'] for t in row['messages']] == ['user', 'assistant']
    assert '\\boxed{' in row['messages'][1]['content']
  table = datasets.load_dataset(
      'json', data_files=str(out), cache_dir=str(tmp_path), split='train')
  assert table['messages'][0] == rows[0]['messages']
  problems, bad = readers.read(str(out))
  assert len(problems) == 12 and not bad
  assert [p.id for p in problems] == [row['id'] for row in rows]


def start_together(workdir):
  """Starts two rounds as one run of two processes."""
  return commands.start_together(*command(workdir, **TWO_ROUNDS))


def test_a_round_without_any_accepted_response_is_explained(tmp_path):
  rows = [row | {'answer': '1000001'} for row in ROWS]
  data = write_rows(tmp_path / 'mine.jsonl', rows)
  done = call(tmp_path / 'run', data, **{
      'hint.enabled': False, 'curate.fallback': 'drop', 'rounds': 1,
  })
  assert done.returncode == 2
  assert 'round 1 has nothing to train on' in done.stderr
  assert 'Traceback' not in done.stderr


@contextlib.contextmanager
def small_disk(folder, megabytes):
  """A file system of its own."""
  folder.mkdir()
  mounted = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m', 'tmpfs', str(folder)],
      capture_output=True, text=True,
  )
  if mounted.returncode:
    pytest.skip(f'no file system can be mounted here: {mounted.stderr.strip()}')
  try:
    yield
  finally:
    subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_in_words_and_the_run_resumes_with_room(tmp_path):
  whole = call(tmp_path / 'whole', **TWO_ROUNDS)
  assert whole.returncode == 0, whole.stderr[-2000:]
  disk = tmp_path / 'disk'
  with small_disk(disk, 1):  # a checkpoint takes more
    for megabytes in (1, 8, 16):
      grown = f'remount,size={megabytes}m'
      subprocess.run(['mount', '-o', grown, str(disk)], check=True)
      done = call(disk / 'run', **TWO_ROUNDS)
      assert done.returncode == 74, (megabytes, done.stderr[-2000:])
      assert 'no space is left' in done.stderr
      assert 'Traceback' not in done.stderr
    subprocess.run(['mount', '-o', 'remount,size=200m', str(disk)], check=True)
    done = call(disk / 'run', **TWO_ROUNDS)
    assert done.returncode == 0, done.stderr[-2000:]
    assert produced(disk / 'run') == produced(tmp_path / 'whole')


@pytest.mark.long
def test_a_run_of_two_processes_is_killed_stopped_and_resumes(tmp_path):
  whole, workdir = tmp_path / 'whole', tmp_path / 'cut'
  for said, status in commands.finish(start_together(whole)):
    assert status == 0, said[-2000:]
  for place, how, expected in [
      ('rounds/0/sample/00000.jsonl', signal.SIGKILL, -signal.SIGKILL),
      (f'checkpoints/00000002/{storage.SEAL}', signal.SIGKILL, -signal.SIGKILL),
      ('rounds/1/sample/00001.jsonl', signal.SIGTERM, 75),
  ]:
    started = start_together(workdir)
    while not (workdir / place).exists():
      assert {p.poll() for p in started} == {None}
      time.sleep(0.01)
    if how == signal.SIGKILL:
      for p in started:
        os.killpg(p.pid, how)
    else:
      started[1].send_signal(how)  # to one of them
    for said, status in commands.finish(started):
      assert status == expected, said[-2000:]
  for said, status in commands.finish(start_together(workdir)):
    assert status == 0, said[-2000:]
  assert produced(workdir) == produced(whole)
  # One process takes the same steps.
  alone = call(tmp_path / 'alone', **TWO_ROUNDS)
  assert alone.returncode == 0, alone.stderr[-2000:]
  one, two = losses(tmp_path / 'alone'), losses(whole)
  assert one.keys() == two.keys()
  for step, loss in one.items():
    assert two[step] == pytest.approx(loss, rel=1e-5), step


def losses(workdir):
  return {line['step']: line['loss'] for line in metrics.read(workdir, 'train')}


@pytest.mark.slow
def test_a_run_of_8_devices_resumes_on_2_and_on_1(tmp_path):
  options = {
      'train.batch': 8, 'curate.per_round': 160, 'curate.samples': 0,
      'hint.enabled': False, 'rounds': 1, 'evaluation.problems': 0,
      'validation.every': 1000, 'checkpoint.every': 10, 'log.every': 1,
  }

  def start(workdir, devices):
    return commands.start(
        *command(workdir, **options), devices=devices, start_new_session=True)

  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  process = start(whole, 8)
  saved = whole / 'checkpoints' / '00000010' / storage.SEAL
  while not saved.exists():
    assert process.poll() is None
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGSTOP)  # the folder holds still
  shutil.copytree(whole, cut)
  os.killpg(process.pid, signal.SIGCONT)
  assert process.wait(timeout=300) == 0, process.stderr.read()[-2000:]
  expected = losses(whole)
  assert len(expected) == 20
  for devices in (2, 1):
    workdir = tmp_path / str(devices)
    shutil.copytree(cut, workdir)
    process = start(workdir, devices)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-2000:]
    found = losses(workdir)
    assert found.keys() == expected.keys()
    for step in range(11, 21):
      assert found[step] == pytest.approx(expected[step], rel=1e-5), step
