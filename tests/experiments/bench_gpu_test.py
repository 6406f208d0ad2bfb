"""The benchmark for a GPU: it runs at small sizes, and one failure stops nothing."""

import json
import threading

import numpy as np
import pytest

from experiments.bench import gpu_attention
from experiments.bench import gpu_parts
from experiments.bench import gpu_scale
from experiments.bench import gpu_schedule
from tests.support import commands


def schedule(todo, out='', **limits):
  limits = dict(minutes=1, compile_minutes=1, threads=2) | limits
  return gpu_schedule.run(todo, str(out), **limits)


def interrupt():
  raise KeyboardInterrupt


def test_a_failure_is_noted_and_the_rest_is_measured(tmp_path, capsys):
  def fails():
    raise RuntimeError('out of memory')

  out = tmp_path / 'gpu.json'
  found = schedule(
      {'a': fails, 'b': lambda: fails, 'c': lambda: lambda: {'tokens/s': 12345.6}}, out)
  assert found == json.loads(out.read_text())
  for name in 'ab':
    assert found['results'][name]['error'] == 'RuntimeError: out of memory'
  assert found['results']['c']['tokens/s'] == 12345.6 and found['jax']
  assert found['left_out'] == []
  assert 'c: tokens/s 12,346' in capsys.readouterr().out


def test_what_the_time_does_not_reach_is_named():
  found = schedule({'a': lambda: dict, 'b': lambda: dict}, minutes=-1)
  assert found['left_out'] == ['a', 'b'] and not found['results']


def test_one_that_compiles_for_long_delays_no_other():
  ended = threading.Event()

  def slow():
    ended.wait(60)
    return dict

  try:
    found = schedule(
        {'slow': slow, 'a': lambda: lambda: {'ms': 1.}, 'b': lambda: interrupt},
        compile_minutes=.005)
  finally:
    ended.set()
  assert found['left_out'] == ['slow', 'b']
  assert found['results']['a']['others that compiled meanwhile'] >= 1


def test_nothing_is_timed_while_others_compile():
  prepared = []

  def measurement():
    prepared.append(1)
    return lambda: {'prepared': len(prepared)}

  found = schedule({name: measurement for name in 'abc'})
  assert [f['prepared'] for f in found['results'].values()] == [3, 3, 3]


def test_an_interrupt_keeps_what_is_measured(tmp_path):
  out = tmp_path / 'gpu.json'
  found = schedule(
      {'a': lambda: lambda: {'ms': 1.}, 'b': lambda: interrupt, 'c': lambda: dict},
      out)
  assert list(found['results']) == ['a'] and found['left_out'] == ['b', 'c']
  assert found == json.loads(out.read_text())


def test_a_token_sees_itself_and_those_before_it_in_its_segment():
  assert gpu_scale.visible_pairs(np.array([[1, 1, 2, 2, 2, 0]])) == 3 + 6


def test_the_work_of_a_step_is_that_of_its_products():
  scale = gpu_scale.small()
  config = scale.models['tiny']
  batch = gpu_scale.packed_batch(config, 2, scale.time)
  params = gpu_scale.weights(config)
  found = gpu_parts.train_flops(config, params, batch)
  layer = 64 * (64 + 2 * 32 + 64 + 3 * 160)  # q, k with v, o, MLP
  dense = 6 * (2 * layer + 503 * 64) * int(batch.mask.sum())
  pairs = gpu_scale.visible_pairs(batch.segment_ids)
  # Biases and norms are counted with the products.
  assert found == pytest.approx(dense + 12 * 2 * 64 * pairs, rel=5e-3)


def test_no_share_of_an_unknown_peak():
  assert gpu_parts.mfu(1e12) == {}


def test_a_measurement_prepares_and_then_times():
  scale = gpu_scale.small()._replace(time=64)
  found = schedule({
      'train': lambda: gpu_parts.train(scale, 'tiny', 'idft'),
      'attention': lambda: gpu_attention.measure(scale, 'tiny', 'blocks', True),
  }, compile_minutes=30, minutes=30)['results']
  assert found['train']['tokens/s'] > 0 and found['train']['attention'] == 'blocks'
  assert found['attention']['changed outside'] == 0
  assert found['attention']['changed inside'] > 0
  assert found['attention']['error of dq'] < 1e-5


@pytest.mark.slow  # 20 programs to compile
@pytest.mark.parametrize('parts', ['train,head', 'decode,score', 'attention,tiles'])
def test_a_small_run(parts, tmp_path):
  out = tmp_path / 'gpu.json'
  commands.run(
      'experiments.bench.gpu', '--small', f'--out={out}', f'--parts={parts}',
      '--minutes=9', '--compile_minutes=8', timeout=600)
  found = json.loads(out.read_text())
  assert not found['left_out'] and found['results']
  for name, figures in found['results'].items():
    if 'cudnn' in name:  # needs a GPU
      assert 'error' in figures
      continue
    assert 'error' not in figures, name
    if name.startswith(('attention', 'tiles')):
      assert figures['changed outside'] == 0 < figures['changed inside']
      assert figures['changed by repeating'] == 0
      assert max(figures[f'error of {x}'] for x in ('y', 'dq', 'dk', 'dv')) < 1e-5
    elif name.startswith(('decode', 'score', 'train')):
      assert figures['tokens/s'] > 0
