"""Commands on pairs as real processes: files for TRL, kills in a training run."""

import json
import os
import signal
import time

import datasets
import numpy as np
import pytest

from tests.support import commands

SMALL = {
    'curate.per_round': 24, 'curate.samples': 4, 'curate.shard': 8,
    'curate.keep': 2, 'data.max_tokens': 256,
    'evaluation.problems': 0, 'validation.problems': 0, 'validation.every': 5,
    'train.batch': 4, 'train.epochs': 2, 'train.micro_batches': 2, 'log.every': 1,
    'checkpoint.every': 2, 'report.examples': 8, 'reference.kl_weight': 0.0,
}
TIMES = ('time', 'tokens_per_s')


def flags(*more, name='dpo'):
  return ['--config', f'configs/{name}.py',
          *(f'--config.{k}={v}' for k, v in SMALL.items()), *more]


@pytest.mark.slow
@pytest.mark.parametrize('kind, suffix', [('json', 'jsonl'), ('parquet', 'parquet')])
def test_curate_writes_pairs_that_datasets_reads(tmp_path, kind, suffix):
  out = tmp_path / f'pairs.{suffix}'
  done = commands.run('experiments.curate', *flags(f'--out={out}'))
  read = datasets.load_dataset(
      kind, data_files=str(out), split='train', cache_dir=str(tmp_path / 'cache'))
  assert set(read.column_names) == {'prompt', 'chosen', 'rejected', 'id'}
  assert f': {len(read)} pairs from ' in done.stdout and len(read) > 2
  for row in read:
    assert [turn['role'] for turn in row['prompt']] == ['user']
    (right,), (wrong,) = row['chosen'], row['rejected']
    assert right['role'] == wrong['role'] == 'assistant'
    assert right['content'] != wrong['content']


def lines(folder):
  return [
      {k: v for k, v in json.loads(x).items() if k not in TIMES}
      for x in (folder / 'metrics.jsonl').read_text().splitlines()]


def weights_of(folder):
  return (folder / 'model' / 'model.safetensors').read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dpo', 'simpo'])
def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path, name):
  def its_flags(folder):
    return flags(f'--workdir={tmp_path / folder}', '--config.rounds=1', name=name)

  whole = commands.run('experiments.train', *its_flags('whole'))
  assert 'right answers of pairs' in whole.stdout
  cut = tmp_path / 'cut'
  process = commands.start(
      'experiments.train', *its_flags('cut'), start_new_session=True)
  # In the middle of the training: after the first checkpoint.
  checkpoints = cut / 'checkpoints'
  while process.poll() is None and not (
      checkpoints.exists() and any(f.name.isdigit() for f in checkpoints.iterdir())):
    time.sleep(0.01)
  assert process.poll() is None, process.stderr.read()[-2000:]
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate(timeout=60)
  commands.run('experiments.train', *its_flags('cut'))

  assert weights_of(cut) == weights_of(tmp_path / 'whole')
  assert lines(cut) == lines(tmp_path / 'whole')
  rewards = [x for x in lines(cut) if 'rewards/margins' in x]
  assert len(rewards) >= 3 and np.isfinite([x['loss'] for x in rewards]).all()
  pairs = [
      f.read_text() for f in sorted((cut / 'rounds' / '0').glob('pairs.jsonl'))]
  assert pairs == [(tmp_path / 'whole/rounds/0/pairs.jsonl').read_text()]
