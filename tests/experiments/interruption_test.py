"""Commands that are ended in the middle of a block of texts, as real processes."""

import json
import os
import signal
import time

import pytest

from tests.support import commands

SMALL = {
    'curate.per_round': 40, 'curate.shard': 1000, 'curate.samples': 1,
    'evaluation.problems': 24, 'evaluation.samples': 1,
    'evaluation.max_new_tokens': 64, 'data.max_tokens': 256,
}


def flags(*more):
  return ['--config', 'configs/idft.py',
          *(f'--config.{k}={v}' for k, v in SMALL.items()), *more]


def kept(partial):
  """What is kept now: a run rewrites its file under the same name."""
  try:
    return {(f.name, f.stat().st_mtime_ns) for f in partial.glob('*.jsonl')}
  except FileNotFoundError:  # the block was published in between
    return set()


def interrupted(module, its_flags, partial, how):
  """Starts a command, ends it once texts are kept in `partial`: its stderr."""
  process = commands.start(
      'tests.support.often', module, *its_flags, start_new_session=True)
  before = kept(partial)
  while process.poll() is None and not kept(partial) - before:
    time.sleep(0.01)
  assert process.poll() is None, process.stderr.read()[-2000:]
  time.sleep(0.1)  # a few looks more
  os.killpg(process.pid, how)
  asked = time.monotonic()
  _, said = process.communicate(timeout=60)
  assert time.monotonic() - asked < 30
  if how == signal.SIGKILL:
    assert process.returncode == -signal.SIGKILL
  else:
    assert process.returncode == 75, said[-2000:]
    assert 'the same command resumes' in said
  return said


def texts(folder):
  """Every record that stages have published, without the times."""
  return {
      str(f.relative_to(folder)): f.read_text().split('\n')[2:]
      for f in sorted(folder.rglob('0*.jsonl'))}


@pytest.mark.slow
def test_curate_ends_the_same_after_kills_in_the_middle_of_its_blocks(tmp_path):
  whole, cut = tmp_path / 'whole.jsonl', tmp_path / 'cut.jsonl'
  commands.run('experiments.curate', *flags(f'--out={whole}'))
  shards = tmp_path / 'cut.jsonl.shards'
  for stage, how in (
      ('sample', signal.SIGKILL), ('sample', signal.SIGTERM),
      ('rewrite', signal.SIGKILL), ('rewrite', signal.SIGTERM),
  ):
    interrupted(
        'experiments.curate', flags(f'--out={cut}'), shards / stage / 'partial', how)
  done = commands.run('experiments.curate', *flags(f'--out={cut}'))
  assert cut.read_text() == whole.read_text()
  assert texts(shards) == texts(tmp_path / 'whole.jsonl.shards')
  assert not list(shards.rglob('partial'))
  assert 'GiB of keys and values' in done.stdout or not done.stdout
  rewritten, = (shards / 'rewrite').glob('0*.jsonl')
  rows = [json.loads(line) for line in rewritten.read_text().split('\n')[2:-1]]
  assert rows and all(row['analysis'].startswith('# Analyze') for row in rows)


@pytest.mark.slow
def test_evaluate_resumes_and_writes_every_answer(tmp_path):
  whole = commands.run(
      'experiments.evaluate', *flags(f'--workdir={tmp_path / "whole"}'))
  cut = tmp_path / 'cut'
  interrupted(
      'experiments.evaluate', flags(f'--workdir={cut}'),
      cut / 'target' / 'greedy' / 'partial', signal.SIGTERM)
  interrupted(
      'experiments.evaluate', flags(f'--workdir={cut}'),
      cut / 'generalisation' / 'sampled' / 'partial', signal.SIGKILL)
  done = commands.run('experiments.evaluate', *flags(f'--workdir={cut}'))
  # The last line names the folder; before the first there is what was read.
  assert done.stdout.split('\n')[-5:-2] == whole.stdout.split('\n')[-5:-2]
  for split in ('target', 'generalisation', 'retained'):
    text = (cut / f'{split}.jsonl').read_text()
    assert text == (tmp_path / 'whole' / f'{split}.jsonl').read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row['decoding'] for row in rows] == ['greedy', 'sampled'] * 24
    greedy = [row['correct'] for row in rows if row['decoding'] == 'greedy']
    share = 100 * sum(greedy) / len(greedy)
    assert f'{split}: pass@1 {share:.1f}%' in done.stdout
    assert all(row['problem'] and row['answer'] and row['reason'] for row in rows)


@pytest.mark.slow
def test_rewrite_heeds_sigterm_and_resumes(tmp_path):
  def its_flags(folder):
    return [*flags(f'--workdir={tmp_path / folder}'), '--problems=8', '--betas=3']

  whole = commands.run('experiments.rewrite', *its_flags('whole'))
  interrupted(
      'experiments.rewrite', its_flags('cut'),
      tmp_path / 'cut' / 'beta-3' / 'partial', signal.SIGTERM)
  done = commands.run('experiments.rewrite', *its_flags('cut'))
  table = [x for x in whole.stdout.splitlines() if x.startswith('|')]
  assert len(table) == 6  # head, line, references, own samples, rewritten, projected
  assert [x for x in done.stdout.splitlines() if x.startswith('|')] == table
