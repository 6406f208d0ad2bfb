"""A run's folder: resuming under another config, results that are made once."""

import json

import pytest

from configs import idft
from ddt_jax import errors
from ddt_jax import storage
from experiments.run import workdir


def config(**changes):
  c = idft.get_config()
  c.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return c


def test_the_config_is_written_and_taken_again(tmp_path):
  folder = storage.path(tmp_path)
  workdir.keep_config(folder, config())
  written = (tmp_path / 'config.json').read_text()
  assert json.loads(written) == json.loads(config().to_json())
  workdir.keep_config(folder, config())
  assert (tmp_path / 'config.json').read_text() == written


@pytest.mark.parametrize('changes, said', [
    ({'optim__lr': 0.5}, [f'config.optim.lr: {idft.get_config().optim.lr} -> 0.5']),
    ({'seed': 3, 'loss__name': 'sft'},
     ['config.seed: 0 -> 3', "config.loss.name: 'idft' -> 'sft'"]),
    ({'evaluation__problems': 7, 'mesh__fsdp': 1},
     ['config.evaluation.problems: 300 -> 7']),
    ({'checkpoint__every': 7}, ['config.checkpoint.every: 50 -> 7']),
    ({'data__columns__problem': 'question'},
     ["config.data.columns.problem: 'problem' -> 'question'"]),
], ids=str)
def test_a_run_is_not_resumed_under_another_config(tmp_path, changes, said):
  folder = storage.path(tmp_path)
  workdir.keep_config(folder, config())
  written = (tmp_path / 'config.json').read_text()
  with pytest.raises(errors.InputError) as error:
    workdir.keep_config(folder, config(**changes))
  message = str(error.value)
  assert str(tmp_path) in message and '--workdir' in message
  listed = [line.strip() for line in message.splitlines() if ' -> ' in line]
  assert sorted(listed) == sorted(said)
  assert (tmp_path / 'config.json').read_text() == written


def test_keys_that_came_or_went_are_named(tmp_path):
  folder = storage.path(tmp_path)
  c = config()
  del c.loss.beta
  c.loss.delta = 2.0
  workdir.keep_config(folder, c)
  with pytest.raises(errors.InputError) as error:
    workdir.keep_config(folder, config())
  assert 'config.loss.delta: 2.0 -> None' in str(error.value)
  assert 'config.loss.beta: None -> 1.0' in str(error.value)


def test_what_does_not_matter_to_the_numbers_may_change(tmp_path):
  folder = storage.path(tmp_path)
  workdir.keep_config(folder, config())
  other = config(
      mesh__data=2, log__every=1, log__wandb='mine', report__shown=1,
      checkpoint__keep=5, verifier__workers=7, decoding__slots=16,
  )
  workdir.keep_config(folder, other)
  assert json.loads((tmp_path / 'config.json').read_text())['mesh']['data'] == 2


def test_a_result_is_made_once(tmp_path):
  folder = workdir.Workdir(tmp_path)
  calls = []

  def make():
    calls.append(1)
    return {'n': len(calls)}

  first = folder.once('measured/0', make)
  assert first['n'] == 1 and first['seconds'] >= 0
  assert folder.once('measured/0', make) == first == folder.read('measured/0')
  assert json.loads((tmp_path / 'measured' / '0.json').read_text()) == first
