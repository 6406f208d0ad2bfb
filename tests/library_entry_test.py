"""`from ddt_jax import ...`: five names, and no JAX before one is used."""

import subprocess
import sys

import pytest

import ddt_jax
from ddt_jax import ddt
from ddt_jax import objectives
from ddt_jax import vocab_head
from tests.support import paths


def test_the_names_are_those_of_their_modules():
  homes = {'token_stats': ddt, 'on_policy_test': ddt, 'token_loss': objectives,
           'constant_weights': objectives, 'weighted_nll': vocab_head}
  assert set(ddt_jax.__all__) == homes.keys() <= set(dir(ddt_jax))
  for name, home in homes.items():
    assert getattr(ddt_jax, name) is getattr(home, name)


def test_another_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'idft_loss'"):
    ddt_jax.idft_loss  # noqa: B018


def test_importing_the_package_imports_no_jax():
  code = (
      'import sys, ddt_jax\n'
      'assert not {"jax", "numpy", "flax"} & set(sys.modules), "too early"\n'
      'from ddt_jax import token_stats\n'
      'assert "jax" in sys.modules')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=paths.ROOT)
