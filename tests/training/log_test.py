"""A line of metrics by hand: means, totals of the run, and when the run ends."""

import types

import jax.numpy as jnp
import pytest

from ddt_jax.training import log
from ddt_jax.training import progress
from ddt_jax.training import train_step


def step(finite=True, scale=1.0):
  """Sums of a step with 4 supervised tokens, each of mask weight 1/2."""
  sums = dict(
      count=2.0, tokens=4.0, loss=3.0, nll=6.0, phi=-2.0, entropy=5.0,
      weight=4.0, weight_squared=8.0, grad_norm=0.5, curriculum=0.25,
  )
  return {k: jnp.float32(scale * v) for k, v in sums.items()} | {
      'finite': jnp.bool_(finite)}


@pytest.fixture
def clock(monkeypatch):
  monkeypatch.setattr(
      log, 'time', types.SimpleNamespace(monotonic=lambda: 110.0))


def summarise(pending, before, patience=3):
  return log.summarise(pending, before, since=100.0, lr=1e-3, patience=patience)


def test_means_and_totals_by_hand(clock):
  before = progress.Progress(
      round=1, round_step=3, step=13, skipped=2, skipped_in_a_row=2, tokens=100,
      seconds=50.0, best_step=8, best_by='nll',
      best_value=1.0,
  )
  after, scalars, text = summarise([step(), step(False, 2.0)], before)
  assert scalars == {
      'nll': 1.5, 'phi': -0.5, 'entropy': 1.25, 'weight': 1.0,
      'ess': 12.0**2 / 24.0 / 12.0, 'tokens': 12.0, 'loss': 1.5,
      'grad_norm': 0.75, 'curriculum': 0.375, 'lr': 1e-3, 'skipped': 3,
      'tokens_per_s': 1.2,
  }
  assert after == before.replace(
      skipped=3, skipped_in_a_row=1, tokens=112, seconds=60.0)
  assert text == 'loss 1.500, NLL 1.500, phi -0.500, 1 tokens/s'


def test_the_clock_is_read_after_the_metrics_are_here(monkeypatch):
  # A step returns before it has run: the time of the call is too short.
  clock = types.SimpleNamespace(now=100.0)
  add = train_step.add

  def slow_add(pending):
    clock.now += 25.0
    return add(pending)

  monkeypatch.setattr(train_step, 'add', slow_add)
  monkeypatch.setattr(
      log, 'time', types.SimpleNamespace(monotonic=lambda: clock.now))
  after, _, _ = summarise([step()], progress.Progress(round_step=1, step=1))
  assert after.seconds == 25.0


def test_a_line_without_supervised_tokens_has_no_division_by_zero(clock):
  _, scalars, _ = summarise([step(scale=0.0)], progress.Progress(round_step=1, step=1))
  assert scalars['loss'] == scalars['nll'] == scalars['ess'] == 0


def test_skipped_updates_are_counted_across_lines(clock):
  now = progress.Progress()
  now, _, _ = summarise([step(), step(False), step(False)], now)
  assert (now.skipped, now.skipped_in_a_row) == (2, 2)
  with pytest.raises(FloatingPointError, match='3 updates in a row'):
    summarise([step(False)], now)
  now, _, _ = summarise([step(), step(False)], now)
  assert (now.skipped, now.skipped_in_a_row) == (3, 1)
