"""Configs that are another one with a few lines changed differ in nothing else."""

import importlib

import pytest


def flat(config, prefix=''):
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from flat(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


@pytest.mark.parametrize('name, changed', [
    ('sft', {'name': 'sft', 'loss.name': 'sft'}),
    ('dft', {'name': 'dft', 'loss.name': 'dft'}),
    ('reference', {
        'name': 'reference', 'rounds': 1, 'curate.samples': 0,
        'hint.enabled': False,
    }),
])
def test_what_differs_from_idft(name, changed):
  found, base = (
      dict(flat(importlib.import_module(f'configs.{n}').get_config()))
      for n in (name, 'idft')
  )
  assert found.keys() == base.keys()
  assert {k: v for k, v in found.items() if v != base[k]} == changed
