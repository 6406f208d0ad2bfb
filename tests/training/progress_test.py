"""Progress survives JSON, and a record of another shape is refused by name."""

import dataclasses
import json

import pytest

from ddt_jax import errors
from ddt_jax.training import progress

SOME = progress.Progress(
    round=1, round_step=2, step=12, updates_before=9, skipped=1, skipped_in_a_row=1,
    tokens=3456, seconds=0.1 + 0.2, best_step=8, best_by='nll',
    best_value=1 / 3, stale=2, unvalidated='nll',
    stream={'next_index': 7, 'nested': [1, None]},
)


@pytest.mark.parametrize('record', [progress.Progress(), SOME])
def test_it_comes_back_from_json(record):
  assert progress.Progress.from_json(
      json.loads(json.dumps(record.to_json()))) == record


def test_every_field_differs_from_its_default_in_the_round_trip():
  # Otherwise the test above could not see a field that is left out.
  start = progress.Progress().to_json()
  assert all(SOME.to_json()[name] != value for name, value in start.items())


def test_replace_leaves_the_old_record_as_it_was():
  new = SOME.replace(round_step=3, step=13)
  assert (new.round_step, new.step, new.tokens) == (3, 13, 3456)
  assert (SOME.round_step, SOME.step) == (2, 12)
  assert new.steps_before == SOME.steps_before == 10
  with pytest.raises(dataclasses.FrozenInstanceError):
    SOME.round_step = 3


@pytest.mark.parametrize('name', progress.Progress().to_json())
def test_a_missing_field_is_named(name):
  fields = SOME.to_json()
  del fields[name]
  with pytest.raises(errors.InputError, match=f'missing field {name}[.]'):
    progress.Progress.from_json(fields)


def test_an_unknown_field_is_named():
  with pytest.raises(errors.InputError, match='unknown field epoch[.]'):
    progress.Progress.from_json(SOME.to_json() | {'epoch': 1})


def test_a_step_and_the_end_of_a_round():
  after = SOME.next_step()
  assert (after.round_step, after.step) == (SOME.round_step + 1, SOME.step + 1)
  assert after.steps_before == SOME.steps_before
  finished = after.round_finished()
  assert (finished.round, finished.round_step) == (SOME.round + 1, 0)
  assert finished.updates_before == after.step - after.skipped
  assert finished.steps_before == after.step


def after(*validations, nll_counts):
  found = progress.Progress()
  for step, scalars in enumerate(validations, 1):
    found = found.replace(step=step).with_validation(
        scalars, nll_counts=nll_counts)
  return found.best_step, found.best_by, found.best_value


@pytest.mark.parametrize('nll_counts', [False, True])
def test_the_best_validation_has_the_highest_accuracy(nll_counts):
  # The NLL rises while the model gets better; the first of two equals is kept.
  found = after(
      {'nll': 0.4}, {'nll': 0.5, 'accuracy': 0.6}, {'nll': 0.45},
      {'nll': 0.7, 'accuracy': 0.8}, {'nll': 0.3, 'accuracy': 0.8},
      nll_counts=nll_counts)
  assert found == (4, 'accuracy', 0.8)


def test_validations_that_could_be_the_best_and_are_not_are_counted():
  found, counted = progress.Progress(), []
  for accuracy in (0.5, 0.5, None, 0.4, 0.6, 0.1):
    scalars = {'nll': 0.0} | ({} if accuracy is None else {'accuracy': accuracy})
    found = found.with_validation(scalars, nll_counts=True)
    counted.append(found.stale)
  assert counted == [0, 1, 1, 2, 0, 1]  # one with NLL alone says nothing
  assert found.round_finished().stale == 0


def test_without_accuracy_nll_tells_for_sft_alone():
  lines = {'nll': 0.5}, {'nll': 0.4}, {'nll': 0.45}
  assert after(*lines, nll_counts=True) == (2, 'nll', 0.4)
  assert after(*lines, nll_counts=False) == (None, None, None)
