"""Configs are accepted by their commands and compared on equal terms."""

import importlib
import pathlib
import re

import pytest

from configs import presets
from ddt_jax import errors
from ddt_jax import objectives
from ddt_jax import sharding
from experiments.run import checks
from experiments.run import measure
from tests.support import paths

CONFIGS = sorted(
    f.stem for f in (paths.ROOT / 'configs').glob('[a-z]*.py')
    if f.stem != 'presets')
LOSSES = (
    'sft', 'dft', 'power', 'threshold', 'chord', 'eaft', 'deft', 'phi_mask', 'psft',
    'iw_sft', 'asft', 'sft_kl')
PAIRS = ('dpo', 'simpo')
DISTILLATION = ('sdft', 'opsd', 'on_policy_distillation')
TRAINING = (
    'idft', 'reference', 'rft', 'hd_sft', *PAIRS, *LOSSES,
    *DISTILLATION)
# Fields that a config of a loss sets beside its name.
BESIDE = {
    'threshold': {'loss.denominator'}, 'psft': {'reference.kind'},
    'asft': {'reference.kl_weight'}, 'sft_kl': {'reference.kl_weight'},
}
NAMES = {'asft': 'dft', 'sft_kl': 'sft'}  # of their token weights


def load(name):
  return importlib.import_module(f'configs.{name}')


def flat(config, prefix=''):
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from flat(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


@pytest.mark.parametrize('name', CONFIGS)
def test_the_command_in_the_docstring_exists_and_takes_the_file(name):
  text = ' '.join(load(name).__doc__.replace('\\\n', ' ').split())
  module, file = re.search(r'python -m ([\w.]+) --config (\S+)', text).groups()
  assert file == f'configs/{name}.py'
  assert pathlib.Path(paths.ROOT, *module.split('.')).with_suffix('.py').exists()
  known = dict(flat(load(name).get_config()))
  for option in re.findall(r'--config\.([\w.]+)=', text):
    assert option in known


@pytest.mark.parametrize('name', TRAINING)
def test_a_training_config_is_accepted(name):
  c = load(name).get_config()
  checks.check_options(c, sharding.make_mesh(**c.mesh))
  assert c.name == name  # names the run's folder
  known = (
      PAIRS if name in PAIRS else
      ('distill',) if name in DISTILLATION else objectives.WEIGHTS)
  assert c.loss.name in known


@pytest.mark.parametrize('preset', presets.NAMES)
@pytest.mark.parametrize('name', ['idft', 'sft'])
def test_a_preset_is_accepted_and_keeps_the_objective(name, preset):
  c = load(name).get_config(preset)
  checks.check_options(c, sharding.make_mesh(**c.mesh))
  assert c.loss.name == name
  assert dict(flat(c)).keys() == dict(flat(load(name).get_config())).keys()


@pytest.mark.parametrize('name', LOSSES)
def test_objectives_are_compared_on_equal_terms(name):
  found, base = (dict(flat(load(n).get_config())) for n in (name, 'idft'))
  differ = {k for k in found.keys() | base.keys() if found.get(k) != base.get(k)}
  assert differ == {'name', 'loss.name'} | BESIDE.get(name, set())
  assert found['loss.name'] == NAMES.get(name, name)


def test_configs_of_distillation_differ_from_idft_in_what_they_distil():
  for name in DISTILLATION:
    found, base = (dict(flat(load(n).get_config())) for n in (name, 'idft'))
    differ = {k for k in found if found[k] != base[k]} - {'name', 'loss.name'}
    assert all(k.startswith(('distill.', 'reference.', 'hint.')) for k in differ)


@pytest.mark.parametrize('wrong', [
    {'train.pack': True}, {'reference.kl_weight': 0.1}, {'distill.every': 0},
    {'distill.kind': 'both'}, {'distill.responses': 'wrong'}], ids=str)
def test_options_that_distillation_does_not_have_are_refused(wrong):
  c = load('sdft').get_config()
  c.update_from_flattened_dict(wrong)
  with pytest.raises(errors.InputError, match=next(iter(wrong))):
    checks.check_options(c, sharding.make_mesh(**c.mesh))


def test_the_reference_config_samples_nothing():
  c = load('reference').get_config()
  assert not c.curate.samples and not c.hint.enabled
  assert c.curate.fallback == 'reference'  # or there would be nothing to train on


def test_configs_of_data_train_on_right_answers_of_the_model_alone():
  for name in ('rft', 'hd_sft'):
    c = load(name).get_config()
    assert c.loss.name == 'sft' and c.curate.fallback == 'drop'
    assert c.hint.enabled == (not c.curate.samples) == (name == 'hd_sft')


def test_losses_of_pairs_are_compared_on_equal_terms():
  dpo, simpo, base = (
      dict(flat(load(n).get_config())) for n in ('dpo', 'simpo', 'idft'))
  differ = {k for k in dpo if dpo[k] != base[k]}
  assert differ == {
      'name', 'loss.name', 'curate.samples', 'hint.enabled', 'optim.lr'}
  assert {k for k in dpo if dpo[k] != simpo[k]} == {
      'name', 'loss.name', 'preference.beta'}


@pytest.mark.parametrize('name', TRAINING)
def test_weights_are_measured_where_the_model_alone_decides_them(name):
  c = load(name).get_config()
  others = c.loss.name in ('psft', 'iw_sft', 'distill', *PAIRS)
  assert measure.has_weight(c) != others
  assert measure.measured_loss(c)['name'] == ('sft' if others else c.loss.name)
