"""A round that ends early: by validation.patience, or by train.max_steps."""

import pytest

from configs import sdft
from configs import sft
from ddt_jax import errors
from ddt_jax import sharding
from ddt_jax.training.progress import Progress
from experiments import train
from experiments.run import checks
from experiments.run import lifecycle
from experiments.run import validation

SMALL = {
    'rounds': 1, 'curate.samples': 0, 'curate.score': False, 'hint.enabled': False,
    'curate.per_round': 96, 'train.batch': 8, 'validation.every': 2,
    'validation.accuracy_every': 0, 'evaluation.problems': 0, 'report.examples': 4,
    'checkpoint.every': 0, 'log.every': 1, 'log.tensorboard': False,
}


def config(**more):
  c = sft.get_config()
  c.update_from_flattened_dict(SMALL | more)
  return c


class Stub:
  """Measurements, states and writer of a run of which only the accuracy matters."""

  def __init__(self, accuracies):
    self.accuracies, self.written = iter(accuracies), []

  def applied(self, trained):
    return trained

  def validation(self, params, accuracy):
    return {'nll': 1.0, 'accuracy': next(self.accuracies)}

  def write(self, step, kind, scalars):
    self.written.append(step)

  def keep_best(self, state, progress, scalars):
    return progress.with_validation(scalars, nll_counts=False)


class State:
  params = None


def stale_after(accuracies, patience, progress=None):
  stub = Stub(accuracies)
  found = validation.Validations(
      config(**{'validation.patience': patience}), stub, stub, stub, stub)
  progress = progress or Progress(step=1, round_step=1)
  for _ in accuracies:
    progress = found.validate(State, progress, accuracy=True)
  return found, progress


def test_a_round_ends_after_so_many_validations_without_a_better_one(capsys):
  found, progress = stale_after([0.5, 0.4, 0.5], patience=2)
  assert found.enough(progress)
  assert 'ends after step 1: 2 validations without a better one' in (
      capsys.readouterr().out)
  for accuracies in ([0.5, 0.4], [0.5, 0.4, 0.6, 0.6]):
    found, progress = stale_after(accuracies, patience=2)
    assert not found.enough(progress)
  found, progress = stale_after([0.5] * 9, patience=0)
  assert not found.enough(progress)


def test_a_validation_that_a_stop_ended_may_end_the_round_when_it_is_repeated():
  stopped = Progress(
      step=6, round_step=6, best_step=2, best_by='accuracy', best_value=0.9, stale=1,
      unvalidated='accuracy')
  stub = Stub([0.5])
  found = validation.Validations(
      config(**{'validation.patience': 2}), stub, stub, stub, stub)
  progress = found.catch_up(State, stopped)
  assert (progress.round, progress.round_step, progress.unvalidated) == (1, 0, '')


@pytest.mark.parametrize('module, wrong, said', [
    (sft, {'validation.every': 0}, 'validation.every=0'),
    (sft, {'train.across_rounds': 'continue'}, 'train.across_rounds=continue'),
    (sft, {'loss.name': 'idft', 'validation.accuracy_every': 0}, 'only accuracy'),
    (sdft, {}, 'distillation')])
def test_patience_is_refused_where_it_means_nothing(module, wrong, said):
  c = module.get_config()
  mesh = sharding.make_mesh(**c.mesh)
  c.update_from_flattened_dict({'validation.patience': 2} | wrong)
  with pytest.raises(errors.InputError, match=f'validation.patience=2: .*{said}'):
    checks.check_options(c, mesh)


def test_patience_needs_problems_that_are_held_out(tmp_path, capsys):
  (tmp_path / 'rows.jsonl').write_text(
      ''.join(f'{{"problem": "{i}+1?", "solution": "{i + 1}"}}\n' for i in range(9)))
  c = config(**{'data.path': str(tmp_path / 'rows.jsonl'), 'data.validation': 0.0,
                'data.evaluation': 0.0, 'validation.patience': 1})
  with pytest.raises(SystemExit):
    train.execute(c, str(tmp_path / 'run'))
  assert 'no problem is held out to validate on' in capsys.readouterr().err


def trained(folder):
  """The weights of a run, and its steps."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return ((folder / 'model' / 'model.safetensors').read_bytes(),
          sum('"train"' in line for line in lines))


@pytest.mark.slow
def test_an_early_end_is_resumed_to_the_same_bits(tmp_path, monkeypatch):
  # At this rate the NLL only rises: the first validation, after step 2, is the best.
  options = {'optim.lr': 0.3, 'validation.patience': 2, 'train.max_steps': 9}
  train.execute(config(**options), str(tmp_path / 'whole'))
  assert trained(tmp_path / 'whole')[1] == 6

  calls = iter(range(1000))
  monkeypatch.setattr(lifecycle, 'stop_requested', lambda: next(calls) == 4)
  with pytest.raises(SystemExit) as e:
    # The stop comes with step 5, between the validations.
    monkeypatch.setattr(lifecycle, 'check_stop', lambda: exit(75) if (
        (tmp_path / 'broken' / 'checkpoints').exists()) else None)
    train.execute(config(**options), str(tmp_path / 'broken'))
  assert e.value.code == 75
  monkeypatch.undo()
  train.execute(config(**options), str(tmp_path / 'broken'))
  assert trained(tmp_path / 'broken') == trained(tmp_path / 'whole')


@pytest.mark.slow
def test_max_steps_ends_a_round(tmp_path):
  train.execute(config(**{'train.max_steps': 3}), str(tmp_path))
  assert trained(tmp_path)[1] == 3
