"""The benchmark of the head: its figures show what the head promises."""

import sys
import types

import jax.numpy as jnp
import pytest

from experiments.bench import head
from experiments.bench import workloads
from tests.support import bench_runs

SHAPE = '256x16x40000'


def test_the_figures_show_that_no_logits_are_held():
  found = bench_runs.figures('bench.head', f'--shapes={SHAPE}', '--rounds=1')

  def temporaries(name):
    return found[f'{SHAPE}: {name}, temporaries in MB']['MB']

  logits = 256 * 40_000 * 4 / 1e6
  assert temporaries('held, idft') > 2 * logits
  assert temporaries('tiles, idft') < 1.5 * logits  # one tile's logits
  assert temporaries('stream, idft') < logits / 3  # one chunk of the vocabulary
  for kind in ('tiles', 'stream'):
    flops = found[f'{SHAPE}: {kind}, flops of idft / sft']
    assert 1 <= flops['ratio'] <= 1.05
  assert found[f'{SHAPE}: tiles, idft / tiles, sft']['rounds'] == 1


def tokamax(error):
  """A stand-in for a version without chunked_xla, whose loss is off by `error`."""
  def loss(hidden, targets, weights, *, reduction, implementation):
    assert reduction == 'mean'
    if implementation == 'chunked_xla':
      raise ValueError('unknown implementation')
    return head.log_p_alone(hidden, weights.T, targets) + error

  return types.SimpleNamespace(linear_softmax_cross_entropy_loss=loss)


@pytest.mark.parametrize('error, contenders', [
    (0.0, {'tokamax, xla'}), (0.01, set()),
])
def test_tokamax_takes_part_only_if_its_loss_is_right(
    monkeypatch, capsys, error, contenders
):
  monkeypatch.setitem(sys.modules, 'tokamax', tokamax(error))
  args = tuple(map(jnp.asarray, head.arrays(6, 4, 30)))
  found = head.of_tokamax('6x4x30', args)
  assert set(found) == contenders
  assert 'tokamax, xla, error of its loss: nats' in capsys.readouterr().out
  for gradient in found.values():
    expected, _ = workloads.gradient(head.log_p_alone)(*args)
    assert gradient(*args)[0] == pytest.approx(expected)
