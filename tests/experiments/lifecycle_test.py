"""Resuming under another config, errors in words, where a model comes from."""

import json

import huggingface_hub
import pytest

from configs import idft
from ddt_jax import embedded
from ddt_jax import storage
from experiments.run import lifecycle


def config(**changes):
  c = idft.get_config()
  c.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return c


def test_the_config_is_written_and_taken_again(tmp_path):
  workdir = storage.path(tmp_path)
  lifecycle.keep_config(workdir, config())
  written = (tmp_path / 'config.json').read_text()
  assert json.loads(written) == json.loads(config().to_json())
  lifecycle.keep_config(workdir, config())
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
  workdir = storage.path(tmp_path)
  lifecycle.keep_config(workdir, config())
  written = (tmp_path / 'config.json').read_text()
  with pytest.raises(ValueError) as error:
    lifecycle.keep_config(workdir, config(**changes))
  message = str(error.value)
  assert str(tmp_path) in message and '--workdir' in message
  listed = [line.strip() for line in message.splitlines() if ' -> ' in line]
  assert sorted(listed) == sorted(said)
  assert (tmp_path / 'config.json').read_text() == written


def test_keys_that_came_or_went_are_named(tmp_path):
  workdir = storage.path(tmp_path)
  c = config()
  del c.loss.beta
  c.loss.alpha = 2.0
  lifecycle.keep_config(workdir, c)
  with pytest.raises(ValueError) as error:
    lifecycle.keep_config(workdir, config())
  assert 'config.loss.alpha: 2.0 -> None' in str(error.value)
  assert 'config.loss.beta: None -> 1.0' in str(error.value)


def test_what_does_not_matter_to_the_numbers_may_change(tmp_path):
  workdir = storage.path(tmp_path)
  lifecycle.keep_config(workdir, config())
  other = config(
      mesh__data=2, log__every=1, log__wandb='mine', report__shown=1,
      checkpoint__keep=5, evaluation__workers=7, decoding__slots=16,
  )
  lifecycle.keep_config(workdir, other)
  assert json.loads((tmp_path / 'config.json').read_text())['mesh']['data'] == 2


def test_errors_become_a_message(capsys):
  with pytest.raises(SystemExit) as ended:
    with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
      raise FileNotFoundError('mine.jsonl is not there')
  assert ended.value.code == 2
  captured = capsys.readouterr()
  assert captured.err == 'error: mine.jsonl is not there\n'
  assert captured.out == ''


@pytest.mark.parametrize('kind', [
    ValueError, OSError, ImportError, storage.Locked, storage.Damaged,
])
def test_what_a_user_can_put_right_is_explained(kind):
  with pytest.raises(SystemExit):
    with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
      raise kind('so it is')


def test_a_bug_keeps_its_traceback(capsys):
  with pytest.raises(KeyError):
    with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
      raise KeyError('loss')
  with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
    pass
  assert capsys.readouterr().err == ''


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
  assert lifecycle.model_folder('embedded') == str(embedded.STUDENT)
  assert lifecycle.model_folder(str(tmp_path)) == str(tmp_path)
  # A folder goes before a hub's id of the same name.
  (tmp_path / 'org' / 'model').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert lifecycle.model_folder('org/model') == 'org/model'


def test_a_folder_at_home_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'model').mkdir()
  # What reads the folder does not know of ~.
  assert lifecycle.model_folder('~/model') == str(tmp_path / 'model')


@pytest.mark.parametrize('path', [
    'nowhere', './nowhere', '/no/where', '/nowhere', '~/nowhere', '../nowhere',
    'a/b/c', '',
])
def test_what_is_neither_folder_nor_id_is_refused(path, monkeypatch):
  def download(*args, **kwargs):
    raise AssertionError('the network was asked')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  with pytest.raises(FileNotFoundError, match='model.path=') as error:
    lifecycle.model_folder(path)
  assert repr(path) in str(error.value)


def test_an_id_is_fetched_without_pickles(monkeypatch):
  asked = {}

  def download(name, *, allow_patterns):
    asked[name] = allow_patterns
    return '/cache/snapshot'

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert lifecycle.model_folder('org/model') == '/cache/snapshot'
  assert '*.safetensors' in asked['org/model']
  assert not any(p in ('*', '*.bin', '*.pt', '*.py') for p in asked['org/model'])
