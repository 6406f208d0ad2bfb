"""Estimates the memory of a device that a run needs, from shapes alone.

What is held for good (parameters, moments, gradients, caches) is exact. What a
step holds for a moment is a formula whose factors were fitted to the TPU
compiler's figures (`experiments.compile_tpu`), see experiments/README.md.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ddt_jax import lora
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.training import pair_loss
from ddt_jax.training import reference
from ddt_jax.vocab_head import tiles
from ddt_jax.weights import names

Bytes = dict[str, int]  # by category
# Activations of a layer that its backward holds at once, in multiples of its widths;
# fitted, see the module.
_BACKWARD = 11.5
# Gradients and the update of what is trained, in copies of it; and the sum over
# micro-batches where products are kept. Both fitted.
_UPDATE, _SUM_DOTS = 2.2, 2.2


def on_one(tree: Any, mesh: jax.sharding.Mesh, dtype: Any = None) -> int:
  """Bytes of one device's shards of abstract arrays.

  Args:
    tree: of arrays or their shapes, placed by `sharding.RULES`.
    mesh: of the devices.
    dtype: of the arrays; default their own.
  """
  places = sharding.tree_shardings(tree, mesh)
  return sum(
      math.prod(place.shard_shape(x.shape)) * jnp.dtype(dtype or x.dtype).itemsize
      for x, place in zip(
          jax.tree.leaves(tree), jax.tree.leaves(places), strict=True))


def state(c, config: model.ModelConfig, mesh: jax.sharding.Mesh) -> Bytes:
  """Bytes that a run holds on a device between its steps.

  Args:
    c: the training config.
    config: the model.
    mesh: of training.
  """
  params = names.abstract(config)
  trained, frozen = params, 0
  if (adapters := c.get('lora', {})) and adapters.rank:
    options = {k: adapters[k] for k in ('rank', 'alpha', 'targets', 'rslora')}
    trained = jax.eval_shape(
        lambda: lora.init(config, jax.random.key(0), **options))
    frozen = on_one(params, mesh, config.dtype)
  one = on_one(trained, mesh)
  compared = reference.Reference(**c.reference).is_read(c.loss.name)
  found = {
      'frozen base': frozen, 'parameters': one, 'moments': 2 * one,
      'reference': one if compared else 0,
  }
  return {name: size for name, size in found.items() if size}


def training(c, config: model.ModelConfig, mesh: jax.sharding.Mesh) -> Bytes:
  """Bytes of a device in a training step, of one micro-batch at a time.

  Args:
    c: the training config, its micro-batches and the model's remat chosen.
    config: the model.
    mesh: of training.
  """
  held = state(c, config, mesh)
  # A pair is two rows.
  rows = (2 if c.loss.name in pair_loss.NAMES else 1) * (
      c.train.batch // c.train.micro_batches)
  tokens = max(1, rows // _row_devices(mesh)) * c.data.max_tokens
  return held | {
      # With the update, and the sum over micro-batches if there are several.
      'gradients': int(held['parameters'] * (_UPDATE + (
          c.train.micro_batches > 1 and (_SUM_DOTS if config.remat == 'dots' else 1)))),
      'activations': activations(config, tokens, mesh),
      # A step has done with the head when it begins the layers' backward.
      'working set': max(
          layer(config, tokens, mesh), head(config, tokens, mesh)),
  }


def activations(
    config: model.ModelConfig, tokens: int, mesh: jax.sharding.Mesh
) -> int:
  """Bytes that all layers keep for the backward.

  Args:
    config: the model; its remat decides what is kept.
    tokens: of a micro-batch on one device.
    mesh: `tensor` shares the heads and the MLP's width.
  """
  heads, mlp = _shared(config, mesh)
  # Of a token and layer: its input; and the outputs of all products. With sliding
  # layers the two branches of attention keep theirs, too; fitted.
  branches = 0 if config.window is None else 5 * heads
  kept = {'full': config.width, 'dots': 3 * config.width + heads + branches + 2 * mlp,
          'none': 8 * config.width + 3 * heads + branches + 4 * mlp}[config.remat]
  return tokens * config.num_layers * kept * _itemsize(config)


def layer(config: model.ModelConfig, tokens: int, mesh: jax.sharding.Mesh) -> int:
  """Bytes of one layer's backward, its gathered weights and the embedding's."""
  heads, mlp = _shared(config, mesh)
  width = _itemsize(config)
  found = _BACKWARD * tokens * (2 * config.width + heads + mlp) * width
  if mesh.shape['fsdp'] > 1:
    weights = sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(
        names.abstract(config)['layers'])) // mesh.shape['tensor']
    # Gathered while another layer is computed; its gradient is whole before it is
    # scattered.
    found += weights * (2 * width + 4) + _table(config, mesh) * width
  return int(found)


def head(config: model.ModelConfig, tokens: int, mesh: jax.sharding.Mesh) -> int:
  """Bytes of the vocabulary head's tiles, its gathered copy and its gradient."""
  # Over `tensor` it is streamed: no logits are held.
  tile = min(tokens, tiles.TILE) * 4 * config.vocab_size * (
      mesh.shape['tensor'] == 1)
  return tile + _table(config, mesh) * (_itemsize(config) + 4)


def _table(config: model.ModelConfig, mesh: jax.sharding.Mesh) -> int:
  return config.vocab_size * config.width // mesh.shape['tensor']


def _shared(config: model.ModelConfig, mesh: jax.sharding.Mesh) -> tuple[int, int]:
  """Channels of q, k and v, and of the MLP, on one device."""
  tensor = mesh.shape['tensor']
  heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
  return heads // tensor, config.mlp_width // tensor


def _itemsize(config: model.ModelConfig) -> int:
  return jnp.dtype(config.dtype).itemsize


def decoding(
    c, config: model.ModelConfig, mesh: jax.sharding.Mesh, *, tensor: int,
    slots: int
) -> Bytes:
  """Bytes of a device that decodes between two rounds of training.

  Args:
    c: the training config.
    config: the model.
    mesh: of training.
    tensor: devices that share the heads.
    slots: responses decoded together, over all devices.
  """
  there = sharding.decoding_mesh(mesh, tensor)
  cache = jax.eval_shape(lambda: model.init_cache(
      config, 1, 1, c.decoding.cache_dtype or config.dtype))
  column = sum(x.size * x.dtype.itemsize
               for x in jax.tree.leaves((cache.k, cache.v)))
  if config.num_kv_heads % tensor == 0:  # else every device has all heads
    column //= tensor
  answer = c.curate.max_new_tokens
  # Of a slot: the problem, the answer; and with hints the same behind the analysis.
  columns = c.data.max_tokens + answer
  if c.hint.enabled:
    columns += c.data.max_tokens + c.hint.max_analysis_tokens + answer
  return state(c, config, mesh) | {
      'weights to decode': on_one(names.abstract(config), there, config.dtype),
      'caches': -(-slots // _row_devices(there)) * columns * column,
  }


def _row_devices(mesh: jax.sharding.Mesh) -> int:
  return mesh.shape['data'] * mesh.shape['fsdp']
