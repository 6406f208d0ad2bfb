"""Training, the vocabulary head, scoring and decoding, for `bench.gpu`."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax.data import batches
from ddt_jax.model import kernels
from ddt_jax.scoring import forward
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.bench import gpu_scale
from experiments.bench import gpu_schedule
from experiments.bench import models
from experiments.bench import paired
from experiments.bench import workloads

# FLOPs per second of dense products in bfloat16, by the maker, as the device's name
# begins.
PEAKS = {
    'NVIDIA H100': 989e12, 'NVIDIA H200': 989e12, 'NVIDIA A100': 312e12,
    'NVIDIA L4': 121e12}


def train_flops(config: model.ModelConfig, params: Any, batch: batches.Batch) -> int:
  """FLOPs of products of a training step, recomputation left out."""
  # 2 FLOPs a weight and token forward, 4 backward. Biases and norms are not
  # products, but a ten-thousandth of the weights.
  size = sum(x.size for x in jax.tree.leaves(params['layers']))
  size += model.head(params).size
  pairs = gpu_scale.visible_pairs(np.asarray(batch.segment_ids))
  inside = 12 * config.num_layers * config.num_heads * config.head_dim * pairs
  return 6 * size * int(batch.mask.sum()) + inside


def train(
    scale: gpu_scale.Scale, size: str, objective: str
) -> gpu_schedule.Timed:
  """A training step on packed rows: parameters and moments in float32."""
  rows, remat = scale.rows[size]
  config = dataclasses.replace(scale.models[size], remat=remat)
  mesh = gpu_scale.one_device()
  tx = optimizer.make_optimizer(optax.constant_schedule(1e-6))
  batch = gpu_scale.packed_batch(config, rows, scale.time)
  tokens = int(batch.mask.sum())
  create = jax.jit(
      lambda: train_step.TrainState.create(models.weights(config), tx))
  # The state itself would take memory while others compile.
  shapes = jax.eval_shape(create)
  create = create.lower().compile()
  flops = train_flops(config, shapes.params, batch)
  batch = batches.place(batch, mesh)
  began = time.perf_counter()
  step = jax.jit(
      train_step.make_train_step(config, tx, name=objective, mesh=mesh),
      donate_argnums=0).lower(shapes, batch).compile()
  compiled = time.perf_counter() - began
  choice = kernels.choose(
      mesh, dtype=config.dtype, time=scale.time, head_dim=config.head_dim,
      kv_heads=config.num_kv_heads, segmented=True)

  def timed():
    taken = step_seconds(step, create(), batch, scale.rounds)
    return {
        'attention': str(choice), 'rows': rows, 'remat': remat, 'tokens': tokens,
        'ms': 1e3 * taken, 'tokens/s': tokens / taken, 'compile, s': compiled,
        'TFLOP/s': flops / taken / 1e12, **mfu(flops / taken),
        'memory, GB': program_bytes(step.memory_analysis()) / 1e9}

  return timed


def step_seconds(step: Any, state: Any, batch: batches.Batch, rounds: int) -> float:
  """Seconds of a step without waiting for each, as in a run."""
  for _ in range(2):  # allocates
    state, metrics = step(state, batch)
  jax.block_until_ready(metrics)
  began = time.perf_counter()
  for _ in range(rounds):
    state, metrics = step(state, batch)
  jax.block_until_ready(state)
  taken = (time.perf_counter() - began) / rounds
  assert float(metrics['finite']) and np.isfinite(float(metrics['loss']))
  return taken


def program_bytes(memory: Any) -> int:
  """Bytes that a compiled program holds: arguments, results and temporaries."""
  return (
      memory.argument_size_in_bytes + memory.temp_size_in_bytes
      + memory.output_size_in_bytes - memory.alias_size_in_bytes)


def mfu(flops_per_second: float) -> gpu_schedule.Figures:
  """The share of the device's peak; empty for a device whose peak is unknown."""
  kind = jax.devices()[0].device_kind
  for name, peak in PEAKS.items():
    if kind.startswith(name):
      return {'MFU': flops_per_second / peak}
  return {}


def held(hidden, head, targets):
  """Token statistics from logits that are held in memory."""
  logits = jnp.einsum(
      'td,vd->tv', hidden, head, preferred_element_type=jnp.float32)
  return ddt.token_stats(logits, targets)


def head(
    scale: gpu_scale.Scale, size: str, way: str, objective: str
) -> gpu_schedule.Timed:
  """The loss by hidden states and head with its gradients.

  Args:
    scale: sizes.
    size: model whose width and vocabulary it has.
    way: tiles | held (logits in memory).
    objective: sft | idft.
  """
  config, tokens = scale.models[size], scale.head_tokens
  keys = jax.random.split(jax.random.key(0), 3)
  hidden = jax.random.normal(keys[0], (tokens, config.width), config.dtype)
  # Logits of standard deviation 3.
  table = jax.random.normal(
      keys[1], (config.vocab_size, config.width), config.dtype)
  table *= 3 / config.width**0.5
  targets = jax.random.randint(keys[2], (tokens,), 0, config.vocab_size)
  made = (
      workloads.tiles(objective) if way == 'tiles'
      else workloads.by_statistics(objective, held))
  call = paired.compiled(made, hidden, table, targets)
  work = 6 * tokens * config.width * config.vocab_size

  def timed():
    taken = gpu_scale.median_seconds(call, scale.rounds)
    return {
        'tokens': tokens, 'ms': 1e3 * taken, 'useful TFLOP/s': work / taken / 1e12,
        'temporaries, GB': call.memory.temp_size_in_bytes / 1e9}

  return timed


def score(scale: gpu_scale.Scale, size: str) -> gpu_schedule.Timed:
  """Token statistics of texts of half a row: batches, device, and back."""
  config, mesh = scale.models[size], gpu_scale.one_device()
  params, length = gpu_scale.weights(config), scale.time // 2
  texts = workloads.examples(config, np.full(scale.texts, length + 1))

  def call(texts=texts):
    for _ in forward.token_stats(
        params, config, texts, batch=8, mesh=mesh, ahead=2, time=length):
      pass

  call(texts[:8])  # compiles

  def timed():
    taken = gpu_scale.median_seconds(call, max(1, scale.rounds // 5))
    return {
        'texts': scale.texts, 'tokens of a text': length,
        'tokens/s': scale.texts * length / taken}

  return timed


def decode(scale: gpu_scale.Scale, size: str, hinted: bool) -> gpu_schedule.Timed:
  """Tokens a second of one batch of requests, prefill included and left out."""
  config = scale.models[size]
  params = gpu_scale.weights(config, config.dtype)
  pairs = workloads.make_pairs(config, scale.slots, scale.student, scale.hinted)
  run = workloads.Decoding(
      params, config, pairs, scale.new, slots=scale.slots, hinted=hinted)
  run()  # compiles

  def timed():
    taken = paired.seconds({'all': run}, 1)
    tokens, steps = scale.slots * scale.new, sum(s.steps for s in run.syncs)
    return {
        'slots': scale.slots, 'tokens/s': tokens / taken['all'][0],
        'tokens/s without prefill': tokens / taken['all, decode'][0],
        'ms a step': 1e3 * taken['all, decode'][0] / steps}

  return timed
