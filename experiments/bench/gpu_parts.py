"""The measurements of `bench.gpu`. Each returns figures by name."""

from collections.abc import Callable
import dataclasses
import functools
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddt_jax import ddt
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import packing
from ddt_jax.model import attention
from ddt_jax.model import cudnn
from ddt_jax.model import flash
from ddt_jax.model import kernels
from ddt_jax.model import published
from ddt_jax.scoring import forward
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.bench import models
from experiments.bench import paired
from experiments.bench import workloads

Figures = dict[str, Any]

# FLOPs per second of dense products in bfloat16, by the maker, as the device's name
# begins.
PEAKS = {
    'NVIDIA H100': 989e12, 'NVIDIA H200': 989e12, 'NVIDIA A100': 312e12,
    'NVIDIA L4': 121e12}


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
      head_tokens=16384, slots=64, student=256, hinted=1024, new=256, texts=64,
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


# Attention alone -------------------------------------------------------------


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


def attend(name: str, scale: Scale) -> Callable[..., jax.Array]:
  """attention.attend_rows by the program of that name."""
  return {
      'triton': functools.partial(flash.attend_rows, interpret=scale.interpret),
      # It takes no ids: rows come here as one segment alone.
      'cudnn': lambda q, k, v, positions, ids: cudnn.attend_rows(q, k, v, positions),
      'blocks': attention.attend_rows,
  }[name]


def attention_gradient(
    run: Callable[..., jax.Array]
) -> Callable[..., tuple[jax.Array, ...]]:
  """Function of (q, k, v, weight, positions, ids): y and the gradients of q, k, v.

  All are [B, T, heads, H]; the loss is the sum of y * weight outside of padding.
  """
  def f(q, k, v, weight, positions, ids):
    def loss(q, k, v):
      y = run(q, k, v, positions, ids)
      y = jnp.where((positions >= 0)[..., None, None], y, 0)
      return jnp.sum(y.astype(jnp.float32) * weight), y

    (_, y), (dq, dk, dv) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return y, dq, dk.transpose(0, 3, 1, 2), dv.swapaxes(1, 2)

  return f


def attention_alone(
    scale: Scale, size: str, program: str, packed: bool,
    tiles: flash.Tiles | None = None,
) -> Figures:
  """Time, accuracy and leaks of one program, forward and backward.

  Args:
    scale: sizes.
    size: model whose heads it has.
    program: triton | cudnn | blocks.
    packed: chains of thought side by side, or rows of one segment.
    tiles: of the Triton kernels; None: the default.
  """
  config, time_ = scale.models[size], scale.time
  rows, heads, dim = scale.attention_rows, config.num_heads, config.head_dim
  batch = packed_batch(config, rows, time_)
  ids = batch.segment_ids if packed else np.ones((rows, time_), np.int32)
  positions = batch.positions if packed else np.tile(
      np.arange(time_, dtype=np.int32), (rows, 1))
  keys = jax.random.split(jax.random.key(0), 4)
  dtype = jnp.float32 if scale.interpret else jnp.bfloat16
  q, k, v, weight = (
      jax.random.normal(key, shape, dtype) for key, shape in zip(keys, (
          (rows, time_, heads, dim), (rows, config.num_kv_heads, dim, time_),
          (rows, config.num_kv_heads, time_, dim), (rows, time_, heads, dim)),
          strict=True))
  run = attend(program, scale)
  if tiles is not None:
    run = functools.partial(run, tiles=tiles)
  args = q, k, v, weight, positions, ids
  f = jax.jit(attention_gradient(run)).lower(*args).compile()

  def call():
    jax.block_until_ready(f(*args))

  # Four FLOPs a pair and channel forward, 2.5 times as many backward.
  work = 14 * heads * dim * visible_pairs(ids)
  taken, found = median_seconds(call, scale.rounds), f(*args)
  return {
      'ms': 1e3 * taken, 'TFLOP/s': work / taken / 1e12,
      'temporaries, GB': f.memory_analysis().temp_size_in_bytes / 1e9,
      **leaks(f, found, *args), **errors(found, *args),
  }


def leaks(f, found, q, k, v, weight, positions, ids) -> Figures:
  """Counts values that change outside of a segment that changes.

  It is the first segment of row 0; where that is the whole row, other rows.
  """
  n = int((np.asarray(ids[0]) == 1).sum())
  after = f(
      q.at[0, :n].add(1), k.at[0, :, :, :n].add(1), v.at[0, :, :n].add(1),
      weight.at[0, :n].add(1), positions, ids)
  changed = [
      [int((a[0, :n] != b[0, :n]).sum()), int((a != b).sum())]
      for a, b in zip(after, found, strict=True)]
  return {
      'changed inside': sum(inside for inside, _ in changed),
      'changed outside': sum(both - inside for inside, both in changed)}


def errors(found, q, k, v, weight, positions, ids) -> Figures:
  """Greatest errors of y, dq, dk and dv, relative to the greatest value.

  The yardstick are blocks in float32 whose products are not rounded.
  """
  inputs = q, k, v, weight
  # One row alone, to bound memory.
  with jax.default_matmul_precision('highest'):
    exact = jax.jit(attention_gradient(attention.attend_rows))
    want = exact(
        *(x[:1].astype(jnp.float32) for x in inputs), positions[:1], ids[:1])
  return {
      f'error of {name}': float(
          jnp.abs(a[:1].astype(jnp.float32) - b).max() / jnp.abs(b).max())
      for name, a, b in zip(('y', 'dq', 'dk', 'dv'), found, want, strict=True)}


# Training --------------------------------------------------------------------


def train_flops(config: model.ModelConfig, params: Any, batch: batches.Batch) -> int:
  """FLOPs of products of a training step, recomputation left out."""
  # 2 FLOPs a weight and token forward, 4 backward. Biases and norms are not
  # products, but a ten-thousandth of the weights.
  size = sum(x.size for x in jax.tree.leaves(params['layers']))
  size += model.head(params).size
  pairs = visible_pairs(np.asarray(batch.segment_ids))
  inside = 12 * config.num_layers * config.num_heads * config.head_dim * pairs
  return 6 * size * int(batch.mask.sum()) + inside


def train(scale: Scale, size: str, objective: str) -> Figures:
  """A training step on packed rows: parameters and moments in float32."""
  rows, remat = scale.rows[size]
  config = dataclasses.replace(scale.models[size], remat=remat)
  mesh = one_device()
  tx = optimizer.make_optimizer(optax.constant_schedule(1e-6))
  state = jax.jit(
      lambda: train_step.TrainState.create(models.weights(config), tx))()
  batch = packed_batch(config, rows, scale.time)
  flops, tokens = train_flops(config, state.params, batch), int(batch.mask.sum())
  batch = batches.place(batch, mesh)
  began = time.perf_counter()
  step = jax.jit(
      train_step.make_train_step(config, tx, name=objective, mesh=mesh),
      donate_argnums=0).lower(state, batch).compile()
  compiled = time.perf_counter() - began
  memory = step.memory_analysis()
  for _ in range(2):  # allocates
    state, metrics = step(state, batch)
  jax.block_until_ready(metrics)
  began = time.perf_counter()
  # Without waiting for each, as in a run.
  for _ in range(scale.rounds):
    state, metrics = step(state, batch)
  jax.block_until_ready(state)
  taken = (time.perf_counter() - began) / scale.rounds
  assert float(metrics['finite']) and np.isfinite(float(metrics['loss']))
  choice = kernels.choose(
      mesh, dtype=config.dtype, time=scale.time, head_dim=config.head_dim,
      kv_heads=config.num_kv_heads, segmented=True)
  return {
      'attention': str(choice), 'rows': rows, 'remat': remat, 'tokens': tokens,
      'ms': 1e3 * taken, 'tokens/s': tokens / taken, 'compile, s': compiled,
      'TFLOP/s': flops / taken / 1e12, **mfu(flops / taken),
      'memory of the program, GB': (
          memory.argument_size_in_bytes + memory.temp_size_in_bytes
          + memory.output_size_in_bytes - memory.alias_size_in_bytes) / 1e9,
      **peak_memory()}


def mfu(flops_per_second: float) -> Figures:
  """The share of the device's peak; empty for a device whose peak is unknown."""
  kind = jax.devices()[0].device_kind
  for name, peak in PEAKS.items():
    if kind.startswith(name):
      return {'MFU': flops_per_second / peak}
  return {}


def peak_memory() -> Figures:
  """Most bytes that this process has held so far; empty where nothing counts them."""
  found = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' not in found:
    return {}
  return {'peak of the process so far, GB': found['peak_bytes_in_use'] / 1e9}


# Head, scoring, decoding -----------------------------------------------------


def held(hidden, head, targets):
  """Token statistics from logits that are held in memory."""
  logits = jnp.einsum(
      'td,vd->tv', hidden, head, preferred_element_type=jnp.float32)
  return ddt.token_stats(logits, targets)


def head(scale: Scale, size: str, way: str, objective: str) -> Figures:
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
  taken = median_seconds(call, scale.rounds)
  work = 6 * tokens * config.width * config.vocab_size
  return {
      'tokens': tokens, 'ms': 1e3 * taken, 'useful TFLOP/s': work / taken / 1e12,
      'temporaries, GB': call.memory.temp_size_in_bytes / 1e9}


def score(scale: Scale, size: str) -> Figures:
  """Token statistics of texts of half a row: batches, device, and back."""
  config, mesh = scale.models[size], one_device()
  params, length = weights(config), scale.time // 2
  texts = workloads.examples(config, np.full(scale.texts, length + 1))

  def call():
    for _ in forward.token_stats(
        params, config, texts, batch=8, mesh=mesh, ahead=2, time=length):
      pass

  began = time.perf_counter()
  call()
  first = time.perf_counter() - began
  taken = median_seconds(call, max(1, scale.rounds // 5))
  return {
      'texts': scale.texts, 'tokens of a text': length, 'first call, s': first,
      'tokens/s': scale.texts * length / taken}


def decode(scale: Scale, size: str, hinted: bool) -> Figures:
  """Tokens a second of one batch of requests, prefill included and left out."""
  config = scale.models[size]
  params = weights(config, config.dtype)
  pairs = workloads.make_pairs(config, scale.slots, scale.student, scale.hinted)
  run = workloads.Decoding(
      params, config, pairs, scale.new, slots=scale.slots, hinted=hinted)
  began = time.perf_counter()
  run()
  first = time.perf_counter() - began
  taken = paired.seconds({'all': run}, 1)
  tokens, steps = scale.slots * scale.new, sum(s.steps for s in run.syncs)
  return {
      'slots': scale.slots, 'first call, s': first,
      'tokens/s': tokens / taken['all'][0],
      'tokens/s without prefill': tokens / taken['all, decode'][0],
      'ms a step': 1e3 * taken['all, decode'][0] / steps}
