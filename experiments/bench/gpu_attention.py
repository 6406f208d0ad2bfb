"""Attention alone, for `bench.gpu`: time, accuracy and leaks of each program."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax.model import attention
from ddt_jax.model import cudnn
from ddt_jax.model import flash
from experiments.bench import gpu_scale


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
) -> gpu_scale.Figures:
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
  batch = gpu_scale.packed_batch(config, rows, time_)
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
  work = 14 * heads * dim * gpu_scale.visible_pairs(ids)
  taken, found = gpu_scale.median_seconds(call, scale.rounds), f(*args)
  return {
      'ms': 1e3 * taken, 'TFLOP/s': work / taken / 1e12,
      'temporaries, GB': f.memory_analysis().temp_size_in_bytes / 1e9,
      **leaks(f, found, *args), **errors(found, *args),
  }


def leaks(f, found, q, k, v, weight, positions, ids) -> gpu_scale.Figures:
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


def errors(found, q, k, v, weight, positions, ids) -> gpu_scale.Figures:
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
