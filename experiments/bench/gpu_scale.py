"""Sizes and inputs of the measurements of `bench.gpu`."""

import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import packing
from ddt_jax.model import published
from experiments.bench import models
from experiments.bench import paired
from experiments.bench import workloads


class Scale(NamedTuple):
  """Sizes of the measurements.

  Attributes:
    models: config by name.
    rows: of a training batch, and the remat of the model, by its name.
    time: tokens of a row.
    attention_rows: of the measurement of attention alone.
    head_tokens: of the measurement of the head alone.
    slots, student, hinted, new: requests decoded together, tokens of both prompts
      and of a response.
    texts: scored.
    rounds: of each timing.
    interpret: run the Triton kernels' Python.
  """

  models: dict[str, model.ModelConfig]
  rows: dict[str, tuple[int, str]]
  time: int
  attention_rows: int
  head_tokens: int
  slots: int
  student: int
  hinted: int
  new: int
  texts: int
  rounds: int
  interpret: bool = False


def real() -> Scale:
  """Qwen2.5 of 0.5B and 1.5B parameters, for one GPU of 80 GB."""
  made = {
      name: model.ModelConfig.from_hf(
          published.SIZES[f'Qwen2.5-{name}'], dtype='bfloat16')
      for name in ('0.5B', '1.5B')}
  return Scale(
      made, {'0.5B': (4, 'none'), '1.5B': (4, 'dots')}, time=4096, attention_rows=4,
      head_tokens=16384, slots=64, student=256, hinted=1024, new=128, texts=64,
      rounds=10)


def small() -> Scale:
  """Every measurement in seconds, on any machine."""
  tiny = models.qwen2(
      layers=2, width=64, mlp=160, vocab=503, heads=4, kv_heads=2, std=0.02)
  return Scale(
      {'tiny': tiny}, {'tiny': (2, 'dots')}, time=256, attention_rows=2,
      head_tokens=64, slots=4, student=8, hinted=16, new=8, texts=4, rounds=1,
      interpret=True)


def median_seconds(call: paired.Contender, rounds: int) -> float:
  """Median seconds of a call, the first left out."""
  return statistics.median(paired.seconds({'': call}, rounds)[''])


def one_device() -> jax.sharding.Mesh:
  return sharding.make_mesh(devices=jax.devices()[:1])


def weights(config: model.ModelConfig, dtype: Any = jnp.float32) -> Any:
  """`models.weights`, drawn on the device as one program."""
  return jax.jit(lambda: jax.tree.map(
      lambda x: x.astype(dtype), models.weights(config)))()


def visible_pairs(segments: np.ndarray) -> int:
  """Pairs of a query and a key that it sees, over all rows; 0 is padding."""
  total = 0
  for row in segments:
    _, lengths = np.unique(row[row > 0], return_counts=True)
    total += int((lengths * (lengths + 1) // 2).sum())
  return total


def packed_batch(
    config: model.ModelConfig, rows: int, time: int
) -> batches.Batch:
  """A batch of chains of thought, packed."""
  some = workloads.examples(config, models.chain_lengths(40 * rows, time))
  return next(packing.pack(some, rows=rows, time=time, seed=0))
