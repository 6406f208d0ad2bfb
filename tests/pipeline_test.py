"""The commands a user types, end to end, as real processes where it matters."""

import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ddt_jax import batches
from ddt_jax import embedded
from ddt_jax import evaluate
from ddt_jax import metrics
from ddt_jax import optimizer
from ddt_jax import sharding
from ddt_jax import train_step
from ddt_jax import weights
from ddt_jax.datasets import word_problems
from ddt_jax.embedded import problems

ROOT = pathlib.Path(__file__).parents[1]
# One CPU device, whatever the tests' own process has.
ENV = os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}

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
    'evaluation.max_new_tokens': 32, 'optim.batch': 8, 'report.examples': 16,
    'validation.every': 4, 'validation.accuracy_every': 8,
    'validation.problems': 8, 'checkpoint.every': 4, 'log.every': 2,
}


def command(workdir, data='', **overrides):
  flags = [f'--config.{k}={v}' for k, v in (SHORT | overrides).items()]
  return [
      sys.executable, '-m', 'experiments.train', '--config', 'configs/idft.py',
      f'--workdir={workdir}', f'--config.data.path={data}', *flags,
  ]


def call(*args, **kwargs):
  return subprocess.run(
      command(*args, **kwargs), cwd=ROOT, env=ENV, text=True,
      capture_output=True, timeout=300,
  )


def write_rows(path, rows=ROWS):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_three_rows_by_hand_train_and_a_second_call_resumes(tmp_path):
  data = write_rows(tmp_path / 'mine.jsonl')
  done = call(tmp_path / 'run', data, **{'optim.epochs': 3})
  assert done.returncode == 0, done.stderr[-2000:]
  assert '3 problems: 3 train' in done.stdout
  assert '<|im_end|>' in done.stdout  # which token ends the turn is said
  for name in ('report.md', 'report.html', 'plots/loss.png',
               'model/model.safetensors', 'model/tokenizer.json'):
    assert (tmp_path / 'run' / name).stat().st_size, name
  lines = metrics.read(tmp_path / 'run', 'train')
  assert lines[-1]['step'] == 2  # 3 rows, 3 epochs, batches of 8

  again = call(tmp_path / 'run', data, **{'optim.epochs': 3})
  assert again.returncode == 0
  assert metrics.read(tmp_path / 'run', 'train') == lines
  other = call(tmp_path / 'run', data, **{'optim.epochs': 4})
  assert other.returncode == 2
  assert 'config.optim.epochs: 3 -> 4' in other.stderr


@pytest.mark.parametrize('rows, options, said', [
    (['{"problem": "x", "solution": '], {}, 'mine.jsonl:4: '),
    ([json.dumps(ROWS[0] | {'answer': ''})], {}, 'mine.jsonl:4: '),
    ([json.dumps({'problem': 'x', 'answer': '1'})], {}, 'solution'),
    ([json.dumps(ROWS[0] | {'solution': '1 ' * 50_000})],
     {'data.overlong': 'error'}, 'mine.jsonl:4: 1000'),
], ids=['broken', 'empty answer', 'missing column', 'overlong'])
def test_a_bad_row_is_named_before_any_work(tmp_path, rows, options, said):
  data = write_rows(tmp_path / 'mine.jsonl')
  data.write_text(data.read_text() + ''.join(row + '\n' for row in rows))
  done = call(tmp_path / 'run', data, **options)
  assert done.returncode == 2
  assert said in done.stderr, done.stderr[-1000:]
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'run' / 'before.json').exists()


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
  end = batches.turn_end(tokenizer, config.eos_ids)
  some = list(problems.problems('train', 80))
  fitted = batches.prepare(tokenizer, some, end, 256)
  _, tx = optimizer.make(total_steps=10, lr=1e-3)
  answers = evaluate.answer(
      params, config, tokenizer, some[:16], mesh=mesh, key=jax.random.key(0),
      max_new_tokens=48, eos_ids=config.eos_ids,
  )
  step = jax.jit(train_step.make_train_step(config, tx, name='idft'))
  state = train_step.TrainState.create(params, tx)
  losses, first = [], None
  stream = batches.Stream(fitted.examples, batch=16, epochs=2, seed=0)
  for batch in stream:
    batch = batches.place(batch, mesh)
    if first is None:
      grad = jax.grad(lambda p, b: train_step.loss_sums(p, config, b, 'idft')[0])
      first = jax.device_get(grad(params, batch))
    state, m = step(state, batch)
    losses.append(float(m['loss'] / m['count']))
  return np.array(losses), first, answers


def test_1_2_and_8_devices_agree():
  losses, gradient, answers = _ten_steps(1)
  norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
  for devices, mesh in [(2, dict(data=2, fsdp=1)), (8, dict(data=2, fsdp=4))]:
    others, other, their_answers = _ten_steps(devices, **mesh)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    apart = jax.tree.map(lambda a, b: ((a - b)**2).sum(), gradient, other)
    assert np.sqrt(sum(jax.tree.leaves(apart))) <= 1e-5 * norm
    assert [[r.tokens for r in row] for row in their_answers] == [
        [r.tokens for r in row] for row in answers
    ]


def _digest(workdir):
  return hashlib.sha256(
      (workdir / 'model' / 'model.safetensors').read_bytes()
  ).hexdigest()


def _untimed(workdir):
  return [
      {k: v for k, v in line.items() if k not in metrics.TIME_FIELDS}
      for line in metrics.read(workdir)
  ]


# A run has come so far once this is in its folder.
STAGES = (
    'config.json', 'before.json', 'checkpoints/00000004',
    'checkpoints/00000016/progress.json', 'checkpoints/00000028',
    'model/config.json',
)


@pytest.mark.slow
def test_a_run_killed_at_any_point_ends_the_same(tmp_path):
  """SIGKILL to the process group, a random moment after each stage."""
  options = {'optim.batch': 128, 'evaluation.problems': 4}
  whole = call(tmp_path / 'whole', **options)
  assert whole.returncode == 0, whole.stderr[-2000:]

  rng, workdir = random.Random(0), tmp_path / 'killed'
  for stage in STAGES:
    process = subprocess.Popen(
        command(workdir, **options), cwd=ROOT, env=ENV, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    while not (workdir / stage).exists():
      assert process.poll() is None, stage
      time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, stage
  done = call(workdir, **options)
  assert done.returncode == 0, done.stderr[-2000:]
  assert _digest(workdir) == _digest(tmp_path / 'whole')
  assert _untimed(workdir) == _untimed(tmp_path / 'whole')
  assert (
      json.loads((workdir / 'results.json').read_text())['evaluation']
      == json.loads((tmp_path / 'whole/results.json').read_text())['evaluation']
  )
