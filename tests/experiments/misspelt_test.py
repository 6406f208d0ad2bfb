"""Every name that a user may type, misspelt by one slip, names the right one."""

import functools
import importlib
import types

import jax
import pytest

from configs import idft
from configs import presets
from ddt_jax import errors
from ddt_jax import lora
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax.data import formats
from ddt_jax.data import prompts
from ddt_jax.data import public_sets
from ddt_jax.data import readers
from ddt_jax.data import rows
from experiments import tpu_vm
from experiments.run import checks
from experiments.run import inputs
from experiments.run import model_files
from experiments.run import options
from experiments.run import score_inputs
from experiments.tpu import chips
from experiments.vm import accelerators
from tests.support import command_sources
from tests.support import commands
from tests.support import paths

CONFIGS = sorted(
    f.stem for f in (paths.ROOT / 'configs').glob('[a-z]*.py')
    if f.stem != 'presets')


def slip(word):
  """The word with the two unequal neighbours nearest its middle swapped."""
  places = [i for i in range(len(word) - 1)
            if word[i] != word[i + 1] and '/' not in word[i:i + 2]]
  if not places:
    return word * 2
  i = min(places, key=lambda i: abs(2 * i + 2 - len(word)))
  return word[:i] + word[i + 1] + word[i] + word[i + 2:]


def said_of(call):
  """The message of an InputError, in one line."""
  with pytest.raises(errors.InputError) as e:
    call()
  assert '\n' not in str(e.value)
  return str(e.value)


def test_slips_are_slips():
  assert slip('workdir') == 'wokrdir' and slip('aab') == 'aba' and slip('q') == 'qq'
  assert all(errors.is_slip(slip(w), w) for w in ('b1', 'lr', 'aab', 'target'))


@pytest.mark.parametrize('name', CONFIGS)
def test_fields(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  known = dict(options.flat(config))
  # Most configs have the fields of idft.
  if name != 'idft' and known.keys() == dict(options.flat(idft.get_config())).keys():
    return
  for field in known:
    section, dot, last = field.rpartition('.')
    wrong = [f'{section}{dot}{slip(last)}'] + ([f'{slip(section)}.{last}'] if dot else [])
    for typed in wrong:
      said = options.unknown(typed, config)
      assert f'config.{typed};' in said and '\n' not in said
      assert f'did you mean config.{field}?' in said, (typed, said)


@pytest.mark.parametrize('name', command_sources.FILES)
def test_flags(name):
  known = command_sources.flags(name)
  assert known or name == 'tpu_vm'
  for flag in known:
    said = options.no_flag(slip(flag), known)
    assert f'did you mean --{flag}?' in said and '\n' not in said


def test_a_misspelt_config_flag_keeps_its_field():
  assert 'did you mean --config.optim.lr?' in options.no_flag(
      'conifg.optim.lr', ['config', 'out'])


def defined(words, monkeypatch, capsys):
  monkeypatch.chdir(paths.ROOT)
  monkeypatch.setattr(options.sys, 'argv', ['x', *words])
  with pytest.raises(SystemExit) as e:
    options.define_config('configs/idft.py')
  assert e.value.code == 2
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  return said


@pytest.mark.parametrize('preset', presets.NAMES)
def test_presets(preset, monkeypatch, capsys):
  said = defined([f'--config=configs/idft.py:{slip(preset)}'], monkeypatch, capsys)
  assert f'did you mean {preset}?' in said


def test_the_preset_of_the_study(monkeypatch, capsys):
  assert 'did you mean quick?' in defined(
      ['--config=configs/study.py:qiuck'], monkeypatch, capsys)


@pytest.mark.parametrize('name', CONFIGS)
def test_config_files(name, monkeypatch, capsys):
  said = defined([f'--config=configs/{slip(name)}.py'], monkeypatch, capsys)
  assert f'did you mean configs/{name}.py?' in said


@pytest.mark.parametrize('field', checks.CHOICES)
def test_choices_objectives_among_them(field):
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  c = idft.get_config()
  for value in filter(None, checks.CHOICES[field]):
    c.update_from_flattened_dict({field: slip(value)})
    said = said_of(lambda: checks.check_options(c, mesh))
    assert f'{field}={slip(value)!r}' in said
    assert f'did you mean {value!r}?' in said


def test_objectives_of_the_library():
  for name in objectives.WEIGHTS:
    said = said_of(lambda name=name: objectives.options_of(slip(name)))
    assert f'did you mean {name!r}?' in said


@pytest.mark.parametrize('known, refused', [
    (lora.TARGETS, lora.parse_targets),
    (['short', 'worked_example', 'solution_first'], prompts.load),
    (model_files.SHIPPED, model_files.model_folder),
    (['word_problems', 'reasoning_gym'], lambda name: inputs.load_data(
        None, None, evaluation_problems=1, name=name, path='', max_tokens=1,
        overlong='drop')),
    (['.jsonl', '.parquet'], lambda end: formats.open_source(f'rows{end}')),
    (public_sets.SETS, lambda name: formats.open_source(f'{name}:folder')),
    (accelerators.GENERATIONS, lambda name: accelerators.parse(f'{name}-8')),
    (chips.CHIPS, lambda name: chips.of(f'{name}:2x2')),
    ([verb.__name__ for verb in tpu_vm.VERBS], lambda verb: tpu_vm.parse([verb])),
    (['--name', '--zone', '--type', '--spot', '--dry_run', '--max_duration'],
     lambda flag: tpu_vm.parse(['create', '--name=n', flag])),
], ids=['lora.targets', 'hint.template', 'model.path', 'data.name', 'endings',
        'public sets', 'TPU types', 'TPU chips', 'tpu_vm verbs', 'tpu_vm flags'])
def test_other_names(known, refused):
  for name in known:
    said = said_of(functools.partial(refused, slip(name)))
    assert 'did you mean' in said and name in said.partition('did you mean')[2]


@pytest.mark.parametrize('kind', ['math', 'text', 'choice'])
def test_kinds_of_verification(kind):
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  c = idft.get_config()
  c.data.kind = slip(kind)
  assert f'did you mean {kind!r}?' in said_of(lambda: checks.check_options(c, mesh))


@pytest.mark.parametrize('ours', readers.NAMES)
def test_columns_that_the_user_named(ours):
  theirs = {'problem': 'frage', 'solution': 'loesung', 'answer': 'ergebnis',
            'messages': 'verlauf', 'id': 'nummer'}
  names = {name: name for name in readers.NAMES} | {ours: slip(theirs[ours])}
  there = {'problem', 'solution', theirs[ours]}
  if ours in there:
    there.remove(ours)
  with pytest.raises(formats.Fault, match=(
      f'no column .*{names[ours]}.*--config.data.columns.{ours}={theirs[ours]}')):
    rows.check_columns(there, names)


def test_columns_that_the_file_misspells():
  for ours in ('problem', 'solution'):
    there = {'problem', 'solution'} - {ours} | {slip(ours)}
    with pytest.raises(
        formats.Fault, match=f'--config.data.columns.{ours}={slip(ours)}'):
      rows.check_columns(there, {name: name for name in readers.NAMES})


def test_the_column_of_sources():
  census = types.SimpleNamespace(types={'problem': 'string', 'herkunft': 'string'})
  files = {'a.jsonl': types.SimpleNamespace(found=census), 'own': None}
  assert 'did you mean herkunft?' in said_of(
      lambda: score_inputs.check_source('herknuft', files))
  for column in ('herkunft', 'source', ''):  # the default needs no such column
    score_inputs.check_source(column, files)


def test_a_process_prints_one_line():
  # options_test.py has processes with misspelt fields and flags.
  done = commands.run('experiments.export', '--checkpoint=bset', check=False)
  assert done.returncode == 2 and "did you mean 'best'?" in done.stderr
  assert done.stderr.count('\n') == 1
