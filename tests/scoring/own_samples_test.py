"""Own samples: of one length where nothing ends them, and kept at a stop."""

import functools

import jax
import pytest

from ddt_jax import errors
from ddt_jax.embedded import problems
from ddt_jax.scoring import own_samples
from tests.support import student


def draw(folder, **options):
  config, params = student.load()
  options = dict(max_new_tokens=24, max_tokens=200) | options
  return own_samples.draw(
      params, config, student.tokenizer(),
      list(problems.problems('validation', 4)), samples=6, folder=folder,
      made_from={}, key=jax.random.key(0), temperature=1.0,
      decoding=dict(
          eos_ids=(student.turn_end().id,), slots=4, mesh=student.mesh()),
      **options)


class Stop(Exception):
  pass


def test_a_stop_in_the_middle_of_a_block_loses_nothing(tmp_path):
  whole = draw(tmp_path / 'whole')
  looks = []

  def stop():
    looks.append(1)
    if len(looks) == 2:
      raise Stop

  with pytest.raises(Stop):
    draw(tmp_path / 'cut', check_stop=stop)
  assert not list((tmp_path / 'cut').glob('*.jsonl'))  # no block is done
  assert list((tmp_path / 'cut' / 'partial').glob('*.jsonl'))
  again = draw(tmp_path / 'cut')
  assert [r.tokens for r in again.responses] == [r.tokens for r in whole.responses]
  assert not (tmp_path / 'cut' / 'partial').exists()


def test_endless_samples_have_one_length(tmp_path):
  endless = draw(tmp_path / 'endless', endless=True, max_new_tokens=60)
  assert {len(r.tokens) for r in endless.responses} == {60}
  ended = draw(tmp_path / 'ended', max_new_tokens=60)
  # Up to the stop token they are the same draws.
  for one, other in zip(endless.responses, ended.responses, strict=True):
    assert one.tokens[:len(other.tokens)] == other.tokens
  assert any(len(r.tokens) < 60 for r in ended.responses)


def test_prompts_without_room_are_left_out_or_named(tmp_path):
  longest = functools.partial(draw, tmp_path / 'x', endless=True)
  with pytest.raises(errors.InputError, match='--config.calibration.lengths'):
    longest(max_new_tokens=180)
