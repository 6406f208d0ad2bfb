"""Estimates the time of a training step by formula, where nothing was compiled.

Factors were fitted to `experiments.compile_tpu`, as those of `run.footprint`.
"""

import jax
import jax.numpy as jnp

from ddt_jax import model
from ddt_jax.weights import names
from experiments.tpu import chips

_TRAFFIC = 57  # bytes to and from HBM of a layer's token, in its channels
_BLOCK = 512  # tokens of a block of the attention kernel
_ATTENTION = 9  # products of attention, forward and backward


def seconds(
    c, config: model.ModelConfig, mesh: jax.sharding.Mesh, chip: chips.Chip
) -> dict[str, float]:
  """Least seconds of a step for its products, and for its memory traffic.

  Args:
    c: the training config, nothing left open.
    config: the model, with its dtype and remat.
    mesh: of training.
    chip: its rates.
  """
  rows = c.train.batch // (mesh.shape['data'] * mesh.shape['fsdp'])
  tokens, tensor = rows * c.data.max_tokens, mesh.shape['tensor']
  channels = (
      2 * config.width + config.mlp_width
      + (config.num_heads + 2 * config.num_kv_heads) * config.head_dim)
  traffic = _TRAFFIC * tokens * config.num_layers * channels * jnp.dtype(
      config.dtype).itemsize
  return {
      'products': flops(config, rows, c.data.max_tokens) / tensor / chip.flops,
      'memory': traffic / tensor / chip.bandwidth,
  }


def flops(config: model.ModelConfig, rows: int, time: int) -> float:
  """FLOPs of matrix products of rows of `time` tokens, forward and backward."""
  layers = sum(
      x.size for x in jax.tree.leaves(names.abstract(config)['layers']))
  head = config.vocab_size * config.width
  # Twice a weight forward, four times backward; `full` repeats the layers' forward.
  repeated = 2 * layers if config.remat == 'full' else 0
  found = rows * time * (6 * (layers + head) + repeated)
  for i in range(config.num_layers):
    sliding = bool(config.sliding) and config.sliding[i]
    pairs = _pairs(time, config.window if sliding else None)
    found += rows * _ATTENTION * 2 * pairs * config.num_heads * config.head_dim
  return found


def _pairs(time: int, window: int | None) -> int:
  """(query, key) pairs in the blocks that the kernel computes for a row."""
  blocks = -(-time // _BLOCK)
  reach = blocks if window is None else -(-(window - 1) // _BLOCK) + 1
  return _BLOCK**2 * sum(min(i + 1, reach) for i in range(blocks))
