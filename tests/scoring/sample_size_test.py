"""The self-test takes as many samples as its minutes allow, within bounds."""

import functools

import pytest

from ddt_jax.scoring import forward
from ddt_jax.scoring import sample_size
from tests.support import student


@pytest.mark.parametrize('each, samples, expected', [
    (0.5, 0, 1200), (60.0, 0, sample_size.LEAST), (1e-3, 0, sample_size.MOST),
    (60.0, 7, 7), (1e-3, 9000, 9000)])
def test_the_number_of_samples(each, samples, expected):
  found = sample_size.choose(each, minutes=10, samples=samples)
  assert found.samples == expected
  assert found.expected_s == pytest.approx(expected * each)
  # A kill costs a minute or so; a device is never given fewer than 16 texts.
  assert found.block == 16 or found.block * each <= 61


def test_the_time_of_a_text_is_measured():
  config, params = student.load()
  dispatch = functools.partial(
      forward.dispatch, config=config, mesh=student.mesh(), batch=1)
  each = functools.partial(
      sample_size.seconds_per_text, params, config, [[5, 6, 7]], dispatch,
      decoding={'slots': 4})
  assert 0 < each(length=16, scored=1) < 60
