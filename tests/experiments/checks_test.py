"""Hostile values of every option are accepted or refused by name, never a traceback."""

import functools
import random

import jax
import pytest

from configs import idft
from configs import simpo
from ddt_jax import errors
from ddt_jax import sharding
from experiments.run import checks
from experiments.run import options

HOSTILE = {
    int: [-7, -1, 0, 1, 3, 10**6, 2**40],
    float: [-1.0, 0.0, 1.5, float('nan'), float('inf'), float('-inf'), 1e-30, 1e30],
    str: ['', 'x', 'None', '../..', 'a,b', '\0', '\u2028', 'FLOAT32'],
    bool: [True, False],
    tuple: [(), (1.0,), ('a', 'b'), (float('nan'), 1.0), (0.7, 0.3)],
}
NAN = float('nan')


def get(config, field):
  return functools.reduce(getattr, field.split('.'), config)


def test_200_hostile_configs_are_accepted_or_refused_by_name():
  chance = random.Random(0)
  fields = list(dict(options.flat(idft.get_config())))
  refused = 0
  for _ in range(200):
    c = idft.get_config()
    chosen = chance.sample(fields, chance.choice([1, 1, 2, 5]))
    for field in chosen:
      value = chance.choice(HOSTILE[type(get(c, field))])
      c.update_from_flattened_dict({field: value})
    try:
      mesh = sharding.make_mesh(**c.mesh, devices=jax.devices()[:1])
      checks.check_options(c, mesh)
    except errors.InputError as e:
      refused += 1
      assert any(field.rpartition('.')[2] in str(e) for field in chosen), str(e)
  assert 60 < refused < 200


@pytest.mark.parametrize('field', [*checks.RANGES, *checks.CHOICES])
def test_a_value_outside_its_range_names_the_field(field):
  c = idft.get_config()
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  value = {int: -1, float: NAN, str: 'nothing such'}[type(get(c, field))]
  c.update_from_flattened_dict({field: value})
  with pytest.raises(errors.InputError, match=f'{field}='):
    checks.check_options(c, mesh)


@pytest.mark.parametrize('field, value', [
    ('curate.samples', 1), ('curate.temperature', 0.0), ('curate.min_phi', -1.0),
    ('curate.drop_lowest', 0.1), ('hint.enabled', True), ('train.pack', True),
    ('train.mask_mode', 'official'), ('reference.kl_weight', 0.1),
    ('preference.label_smoothing', 0.1), ('preference.beta', 0.0),
    ('preference.nll_weight', NAN), ('loss.name', 'ipo'),
    ('checkpoint.export', 'best'), ('train.batch', 7)])
def test_pairs_refuse_what_they_do_not_have_by_name(field, value):
  c = simpo.get_config()
  mesh = sharding.make_mesh(fsdp=2, devices=jax.devices()[:2])
  checks.check_options(c, mesh)
  c.update_from_flattened_dict({field: value, 'validation.accuracy_every': 0})
  with pytest.raises(errors.InputError, match=f'{field}='):
    checks.check_options(c, mesh)
