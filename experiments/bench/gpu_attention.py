"""Attention alone, for `bench.gpu`: time, accuracy and leaks of each program."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import model
from ddt_jax.model import attention
from ddt_jax.model import cudnn
from ddt_jax.model import flash
from experiments.bench import gpu_scale
from experiments.bench import gpu_schedule

# cuDNN's backward pass adds by atomics otherwise, in another order each time.
_REPEATABLE = {'xla_gpu_exclude_nondeterministic_ops': True}


def attend(name: str, scale: gpu_scale.Scale) -> Callable[..., jax.Array]:
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


def measure(
    scale: gpu_scale.Scale, size: str, program: str, packed: bool,
    tiles: flash.Tiles | None = None,
) -> gpu_schedule.Timed:
  """Time, accuracy and leaks of one program, forward and backward.

  Args:
    scale: sizes.
    size: model whose heads it has.
    program: triton | cudnn | cudnn repeatable | blocks.
    packed: chains of thought side by side, or rows of one segment.
    tiles: of the Triton kernels; None: the default.
  """
  config = scale.models[size]
  args = inputs(scale, config, packed)
  name, _, repeatable = program.partition(' ')
  run = attend(name, scale)
  if tiles is not None:
    run = functools.partial(run, tiles=tiles)
  f = jax.jit(attention_gradient(run)).lower(*args).compile(
      compiler_options=_REPEATABLE if repeatable else None)
  want = exact(*args)

  def timed():
    def call():
      jax.block_until_ready(f(*args))

    # Four FLOPs a pair and channel forward, 2.5 times as many backward.
    work = 14 * config.num_heads * config.head_dim * gpu_scale.visible_pairs(args[-1])
    taken, found = gpu_scale.median_seconds(call, scale.rounds), f(*args)
    return {
        'ms': 1e3 * taken, 'TFLOP/s': work / taken / 1e12,
        'temporaries, GB': f.memory_analysis().temp_size_in_bytes / 1e9,
        **leaks(f, found, *args), **errors(found, want),
    }

  return timed


def inputs(
    scale: gpu_scale.Scale, config: model.ModelConfig, packed: bool
) -> tuple[Any, ...]:
  """Random (q, k, v, weight), and the positions and ids of the rows."""
  rows, time = scale.attention_rows, scale.time
  batch = gpu_scale.packed_batch(config, rows, time)
  ids = batch.segment_ids if packed else np.ones((rows, time), np.int32)
  positions = batch.positions if packed else np.tile(
      np.arange(time, dtype=np.int32), (rows, 1))
  keys = jax.random.split(jax.random.key(0), 4)
  dtype = jnp.float32 if scale.interpret else jnp.bfloat16
  heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
  shapes = (
      (rows, time, heads, dim), (rows, kv_heads, dim, time),
      (rows, kv_heads, time, dim), (rows, time, heads, dim))
  drawn = (
      jax.random.normal(key, shape, dtype)
      for key, shape in zip(keys, shapes, strict=True))
  return *drawn, positions, ids


def leaks(f, found, q, k, v, weight, positions, ids) -> gpu_schedule.Figures:
  """Counts values that change outside of a segment that changes.

  It is the first segment of row 0; where that is the whole row, other rows. A program
  that adds in another order each time changes a few values by itself: `changed by
  repeating` counts them, between two runs on equal inputs.
  """
  n = int((np.asarray(ids[0]) == 1).sum())
  after = f(
      q.at[0, :n].add(1), k.at[0, :, :, :n].add(1), v.at[0, :, :n].add(1),
      weight.at[0, :n].add(1), positions, ids)
  again = f(q, k, v, weight, positions, ids)
  changed = [
      [int((a[0, :n] != b[0, :n]).sum()), int((a != b).sum())]
      for a, b in zip(after, found, strict=True)]
  return {
      'changed inside': sum(inside for inside, _ in changed),
      'changed outside': sum(both - inside for inside, both in changed),
      'changed by repeating': sum(
          int((a != b).sum()) for a, b in zip(again, found, strict=True))}


_blocks = jax.jit(attention_gradient(attention.attend_rows))


def exact(*args: Any) -> tuple[jax.Array, ...]:
  """y, dq, dk and dv of row 0 by blocks in float32, without rounded products.

  The host computes them: a GPU's compiler takes a minute for float32.
  """
  inputs = jax.device_put(
      [x[:1].astype(jnp.float32) for x in args[:4]] + [x[:1] for x in args[4:]],
      jax.devices('cpu')[0])
  return _blocks(*inputs)


def errors(found, want) -> gpu_schedule.Figures:
  """Greatest errors of y, dq, dk and dv, relative to the greatest value."""
  return {
      f'error of {name}': float(
          np.abs(np.asarray(a[:1], np.float32) - b).max() / np.abs(b).max())
      for name, a, b in zip(('y', 'dq', 'dk', 'dv'), found, want, strict=True)}
