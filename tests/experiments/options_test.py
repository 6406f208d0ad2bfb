"""Mistyped options: one line, and the nearest right one."""

import functools
import importlib

import pytest

from experiments.run import options
from tests.support import commands
from tests.support import paths

CONFIGS = ('idft', 'score')


def fields(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  return config, list(dict(options.flat(config)))


@pytest.mark.parametrize('name', CONFIGS)
def test_every_field_misspelt_once_is_named(name):
  config, known = fields(name)
  for field in known:
    wrong = field + field[-1]
    said = options.unknown(wrong, config)
    assert f'config.{wrong};' in said
    assert f'did you mean config.{field}?' in said, said


@pytest.mark.parametrize('wrong, meant', [
    ('optim.learning_rate', 'optim.lr'),
    ('train.batch_size', 'train.batch'),
    ('curate.beta', 'hint.beta'),
    ('opt.lr', 'optim.lr'),
    ('rounds.x', 'rounds'),
])
def test_the_option_that_is_meant(wrong, meant):
  config, _ = fields('idft')
  assert f'did you mean config.{meant}?' in options.unknown(wrong, config)


def test_names_of_other_trainers_lead_to_fields_that_exist():
  _, known = fields('idft')
  assert set(options.ELSEWHERE.values()) <= set(known)
  assert set(options.NOTES) <= set(known)


def test_an_option_that_has_moved_is_taken_with_a_note(monkeypatch, capsys):
  _, known = fields('idft')
  assert set(options.MOVED.values()) <= set(known)
  assert not set(options.MOVED) & set(known)
  monkeypatch.setattr(options.config_flags, 'DEFINE_config_file', lambda *_: None)
  monkeypatch.setattr(options.sys, 'argv', ['x', '--config.optim.batch=4'])
  options.define_config(str(paths.ROOT / 'configs' / 'idft.py'))
  assert options.sys.argv == ['x', '--config.train.batch=4']
  assert 'config.optim.batch is now config.train.batch' in capsys.readouterr().err


def test_what_nothing_resembles_lists_the_sections():
  config, _ = fields('idft')
  said = options.unknown('qqqq', config)
  assert 'there are' in said and 'curate, ' in said


@pytest.mark.parametrize('flags, said', [
    (['--config.optim.learning_rate=1'], 'did you mean config.optim.lr?'),
    (['--config.optim.lr=abc'], "--config.optim.lr=abc: could not convert"),
    (['--workdri=x'], 'workdri'),
    (['optim.lr=1'], "unknown argument 'optim.lr=1'"),
    (['--config=configs/nowhere.py'], 'configs/nowhere.py'),
])
def test_a_mistake_ends_the_command_with_one_message(flags, said):
  done = commands.run('experiments.train', *flags, check=False)
  assert done.returncode == 2
  assert said in done.stderr and done.stderr.startswith('error: ')
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('name', CONFIGS)
def test_every_field_of_a_wrong_type_is_one_error(name, monkeypatch):
  config, known = fields(name)
  for field in known:
    value = functools.reduce(getattr, field.split('.'), config)
    if isinstance(value, str | tuple):
      continue  # the commands' own checks look at these
    word = f'--config.{field}=[wrong'
    argv = ['x', f'--config={paths.ROOT}/configs/{name}.py', word]
    monkeypatch.setattr(options.sys, 'argv', argv)
    values = options.flags.FlagValues()
    options.config_flags.DEFINE_config_file('config', flag_values=values)
    with pytest.raises(options.flags.Error, match=field):
      values(argv)


@pytest.mark.parametrize(('config', 'message'), [
    ('configs/idft.py:smollm3', "there is no preset 'smollm3'; there are smollm2"),
    ('configs/score.py:smollm2', 'this config has no presets'),
])
def test_a_preset_that_does_not_exist_is_refused(config, message, monkeypatch, capsys):
  monkeypatch.chdir(paths.ROOT)
  monkeypatch.setattr(options.sys, 'argv', ['x', '--config', config])
  with pytest.raises(SystemExit):
    options.define_config('configs/idft.py')
  said = capsys.readouterr().err
  assert message in said and config in said and said.count('\n') == 1
