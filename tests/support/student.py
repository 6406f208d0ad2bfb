"""The student that ships with the project, loaded once in a test process.

The results are shared by all tests: change none of them.
"""

import functools
from typing import Any

import jax
import transformers

from ddt_jax import embedded
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import chat


@functools.cache
def tokenizer() -> Any:
  return transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)


@functools.cache
def turn_end() -> chat.TurnEnd:
  config = model.ModelConfig.from_hf(embedded.STUDENT)
  return chat.turn_end(tokenizer(), config.eos_ids)


@functools.cache
def mesh(devices: int = 1, **axes: int) -> jax.sharding.Mesh:
  """A mesh of so many fake CPU devices, fsdp unless `axes` say otherwise."""
  return sharding.make_mesh(devices=jax.devices()[:devices], **axes)


@functools.cache
def load(devices: int = 1, **axes: int) -> tuple[model.ModelConfig, Any]:
  """(config, parameters on `mesh(devices, **axes)`)."""
  return weights.load(embedded.STUDENT, mesh=mesh(devices, **axes))
