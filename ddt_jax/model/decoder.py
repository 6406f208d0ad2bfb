"""The decoder of the Qwen2, Qwen3 and Llama families.

Layers are Flax NNX modules; `nnx.split` is taken once a module, and the rest of
the program sees a plain nested dict of parameters and the pure `forward`.
Layers are stacked along a leading axis L and scanned: one compilation for any
depth. With a cache they are unrolled, see `Cache`.
"""

import functools
import math
from typing import Any

from flax import nnx
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import sharding
from ddt_jax.model import attention
from ddt_jax.model.config import REMAT
from ddt_jax.model.config import ModelConfig

PADDING = -1  # the position of a token that is not there
_FEW_ROWS = 64  # of more, a CPU's copy of the head in tiles is worth its time


@struct.dataclass
class Cache:
  """Keys and values of the tokens read so far.

  All rows write the same columns, from `index` on; rows of different lengths
  are padded with tokens at position -1, which no query attends to.

  Attributes:
    k, v: of each layer [B, K, H, S] and [B, K, S, H], as the two products of
      attention read them; layers apart, so that a decoding loop updates every one
      in place instead of copying it out of a stack.
    positions: [B, S]; -1 where nothing has been written.
    index: scalar, the next column.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  positions: jax.Array
  index: jax.Array


def init_cache(
    config: ModelConfig, batch: int, size: int, dtype: Any = None
) -> Cache:
  """An empty cache of `size` columns for `batch` rows."""
  rows, dim = (batch, config.num_kv_heads), config.head_dim
  k, v = (
      (jnp.zeros(shape, dtype or config.dtype),) * config.num_layers
      for shape in ((*rows, dim, size), (*rows, size, dim))
  )
  positions = jnp.full((batch, size), PADDING, jnp.int32)
  return Cache(k, v, positions, jnp.zeros((), jnp.int32))


class Linear(nnx.Module):
  """x @ kernel + bias, in x's dtype."""

  def __init__(
      self, fan_in: int, out: int, *, std: float, bias=False, rngs: nnx.Rngs
  ):
    self.kernel = nnx.Param(
        std * jax.random.normal(rngs.params(), (fan_in, out))
    )
    self.bias = nnx.Param(jnp.zeros(out)) if bias else None

  def __call__(self, x):
    # One axis of rows: XLA on CPU takes three times as long for the gradient
    # of a product that has two.
    y = x.reshape(-1, x.shape[-1]) @ self.kernel[...].astype(x.dtype)
    if self.bias is not None:
      y += self.bias[...].astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """x / sqrt(mean x^2 + eps) * scale over the last axis, in float32 inside."""
  y = x.astype(attention.wide(x.dtype))
  y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + eps)
  return y.astype(x.dtype) * scale.astype(x.dtype)


class RMSNorm(nnx.Module):

  def __init__(self, width: int, eps: float):
    self.scale, self.eps = nnx.Param(jnp.ones(width)), eps

  def __call__(self, x):
    return rms_norm(x, self.scale[...], self.eps)


_attend_read = functools.partial(attention.attend_rows, whole=attention.READ)


class Attention(nnx.Module):

  def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
    self.c = c
    linear = functools.partial(
        Linear, c.width, std=c.init_std, bias=c.qkv_bias, rngs=rngs
    )
    self.q = linear(c.num_heads * c.head_dim)
    self.k = linear(c.num_kv_heads * c.head_dim)
    self.v = linear(c.num_kv_heads * c.head_dim)
    self.o = Linear(
        c.num_heads * c.head_dim, c.width, std=c.init_std, rngs=rngs
    )
    if c.qk_norm:
      self.q_norm = RMSNorm(c.head_dim, c.norm_eps)
      self.k_norm = RMSNorm(c.head_dim, c.norm_eps)

  def __call__(self, x, rope, masks, caches, indices):
    c = self.c
    q = self.q(x).reshape(*x.shape[:2], c.num_heads, c.head_dim)
    k = self.k(x).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
    v = self.v(x).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
    if c.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = rotate(q, rope), rotate(k, rope)
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)  # as in a Cache
    if caches is None:
      y = attention.attend_rows(q, k, v, *masks)
    else:
      # Only attention tells streams apart: each has its rows, one after another.
      ends = np.cumsum([mask.shape[0] for mask in masks])[:-1]
      rows = zip(*(jnp.split(x, ends) for x in (q, k, v)), strict=True)
      parts, updated = [], []
      for (q, *new), mask, old, index in zip(
          rows, masks, caches, indices, strict=True
      ):
        k, v = (
            jax.lax.dynamic_update_slice_in_dim(o, n.astype(o.dtype), index, axis)
            for o, n, axis in zip(old, new, (3, 2), strict=True)
        )
        updated.append((k, v))
        k, v = k.astype(x.dtype), v.astype(x.dtype)
        # What fills a cache is all that there is to see.
        first = q.shape[1] == k.shape[3]
        attend = _attend_read if first else attention.attend
        parts.append(attend(q, k, v, mask))
      y, caches = jnp.concatenate(parts), updated
    return self.o(y.reshape(*x.shape[:2], -1)), caches


class MLP(nnx.Module):

  def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
    linear = functools.partial(Linear, std=c.init_std, rngs=rngs)
    self.gate = linear(c.width, c.mlp_width)
    self.up = linear(c.width, c.mlp_width)
    self.down = linear(c.mlp_width, c.width)

  def __call__(self, x):
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):

  def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
    self.attn_norm = RMSNorm(c.width, c.norm_eps)
    self.attn = Attention(c, rngs=rngs)
    self.mlp_norm = RMSNorm(c.width, c.norm_eps)
    self.mlp = MLP(c, rngs=rngs)

  def __call__(self, x, rope, masks, caches=None, indices=None):
    y, caches = self.attn(self.attn_norm(x), rope, masks, caches, indices)
    x = x + y
    return x + self.mlp(self.mlp_norm(x)), caches


@functools.cache
def _block_graph(config: ModelConfig) -> nnx.GraphDef:
  block = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
  return nnx.split(block)[0]


def init(config: ModelConfig, key: jax.Array) -> dict[str, Any]:
  """Fresh parameters, float32: a nested dict whose `layers` are stacked."""
  embed_key, head_key, layers_key = jax.random.split(key, 3)

  def layer(key):
    return nnx.to_pure_dict(nnx.state(Block(config, rngs=nnx.Rngs(params=key))))

  def table(key):
    shape = (config.vocab_size, config.width)
    return config.init_std * jax.random.normal(key, shape)

  params = {
      'embed': {'embedding': table(embed_key)},
      'layers': jax.vmap(layer)(jax.random.split(layers_key, config.num_layers)),
      'final_norm': {'scale': jnp.ones(config.width)},
  }
  if not config.tied_head:
    params['head'] = {'kernel': table(head_key)}
  return params


def unstacked(params: dict[str, Any]) -> dict[str, Any]:
  """The same parameters with `layers` as a tuple, for forwards with a cache.

  A loop over tokens would cut every layer out of the stack at each step. The
  other parameters are not copied, and those that are unstacked stay as they are.
  """
  if isinstance(params['layers'], tuple):
    return params
  return params | {'layers': _unstack(params['layers'])}


@jax.jit
def _unstack(layers):
  depth = len(jax.tree.leaves(layers)[0])
  return tuple(_layer(layers, i) for i in range(depth))


def _layer(layers, i):
  if isinstance(layers, tuple):
    return layers[i]
  return jax.tree.map(lambda p: p[i], layers)


def head(params: dict[str, Any]) -> jax.Array:
  """The vocabulary head [V, D]: its own, or the embedding where tied."""
  if 'head' in params:
    return params['head']['kernel']
  return params['embed']['embedding']


def logits(params: dict[str, Any], hidden: jax.Array) -> jax.Array:
  """hidden [..., D] -> logits [..., V], float32."""
  return jnp.einsum(
      '...d,vd->...v', hidden, head(params).astype(hidden.dtype),
      preferred_element_type=attention.wide(hidden.dtype),
  )


def next_logits(params: dict[str, Any], hidden: jax.Array) -> jax.Array:
  """`logits` of one token a row: hidden [B, D] -> [B, V].

  On a CPU the head of a few rows is the left factor, behind a barrier that keeps
  it there: as the right one XLA copies it into tiles at every step.
  """
  if not 1 < len(hidden) <= _FEW_ROWS:
    return logits(params, hidden)

  def head_first(params, hidden):
    table = head(params).astype(hidden.dtype)
    y = jnp.matmul(
        table, hidden.T, preferred_element_type=attention.wide(hidden.dtype)
    )
    return jax.lax.optimization_barrier(y).T

  return jax.lax.platform_dependent(
      params, hidden, cpu=head_first, default=logits
  )


def _embedded(params, tokens, config, mesh):
  table = params['embed']['embedding']
  if mesh is not None:
    # Gathered over fsdp before the lookup: of looked-up rows whose width is split
    # the compiler would make whole copies of the batch on every device.
    table = jax.lax.with_sharding_constraint(
        table.astype(config.dtype), sharding.gathered(table, mesh))
  return table[tokens].astype(config.dtype)


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
  """Rope's radians per position [H / 2], Llama-3's scaling included."""
  exponent = np.arange(0, config.head_dim, 2, dtype=np.float32)
  freqs = 1 / config.rope_theta ** (exponent / config.head_dim)
  if (s := config.rope_scaling) is None:
    return freqs.astype(np.float32)
  # Wavelengths beyond the original context / low are slowed by the factor,
  # those below context / high are kept, and those between are interpolated.
  turns = s.original_max_position_embeddings * freqs / (2 * math.pi)
  keep = np.clip(
      (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor),
      0, 1,
  )
  return (freqs * (keep + (1 - keep) / s.factor)).astype(np.float32)


def rotate(x: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates [B, T, heads, H] by (cos, sin) [B, T, 1, H / 2], halves paired."""
  cos, sin = rope
  a, b = jnp.split(x.astype(attention.wide(x.dtype)), 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
      x.dtype
  )


def forward(
    params: dict[str, Any],
    config: ModelConfig,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    cache: Cache | tuple[Cache, ...] | None = None,
    return_hidden: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, Cache | tuple[Cache, ...] | None]:
  """Logits (or final hidden states) of a decoder, and the cache after them.

  Args:
    params: as made by `init` or `weights.load`; with a cache also `unstacked`.
    config: the model's shape.
    tokens: [B, T].
    positions: [B, T], rising in each row; -1 marks padding, which nothing
      attends to. Default: T from 0 on, or from the `index` of a row's cache.
    segment_ids: [B, T]; tokens of different segments do not see each other.
    cache: keys and values of the tokens before these; `tokens` are appended at
      its `index`. Several, of any sizes, share the rows of `tokens` one after
      another: they are read with one pass over the weights. Not together with
      segment_ids.
    return_hidden: the normalised hidden states [B, T, D] instead of logits, for
      a streaming vocabulary head.
    mesh: the rows stay spread over its `data` and `fsdp` in every layer, whatever
      the parameters' layout suggests to the compiler.

  Returns:
    logits [B, T, V] float32 (or hidden in the compute dtype), cache.
  """
  if cache is not None and segment_ids is not None:
    raise ValueError('a cache and segment_ids do not go together')
  caches = (cache,) if isinstance(cache, Cache) else cache
  batch, time = tokens.shape
  if positions is None:
    start = 0 if caches is None else jnp.concatenate(
        [jnp.full((len(c.positions), 1), c.index) for c in caches]
    )
    positions = jnp.broadcast_to(start + jnp.arange(time), (batch, time))

  if caches is None:
    keys = seen_by = (positions,)
  else:
    ends = np.cumsum([c.positions.shape[0] for c in caches])[:-1]
    seen_by = jnp.split(positions, ends)
    keys = [
        jax.lax.dynamic_update_slice_in_dim(c.positions, new, c.index, 1)
        for c, new in zip(caches, seen_by, strict=True)
    ]
  masks = [
      (k[:, None] >= 0) & (k[:, None] <= q[..., None])
      for k, q in zip(keys, seen_by, strict=True)
  ]
  if segment_ids is not None:
    masks[0] &= segment_ids[:, None] == segment_ids[..., None]

  angle = positions[..., None, None].astype(attention.wide(config.dtype))
  angle *= inverse_frequencies(config)
  rope = jnp.cos(angle), jnp.sin(angle)
  graph = _block_graph(config)

  def block(x, weights, *kv):
    return nnx.merge(graph, weights)(x, rope, masks, *kv)

  def spread(x):
    if mesh is None:
      return x
    return jax.lax.with_sharding_constraint(x, sharding.batch_sharding(mesh))

  x = spread(_embedded(params, tokens, config, mesh))
  if caches is None:
    scanned = lambda x, weights: (spread(block(x, weights)[0]), None)
    if config.remat != 'none':
      scanned = jax.checkpoint(
          scanned, policy=REMAT[config.remat], prevent_cse=False
      )
    x, _ = jax.lax.scan(scanned, x, params['layers'])
  else:
    indices, layers = [c.index for c in caches], []
    for i in range(config.num_layers):
      kv = [(c.k[i], c.v[i]) for c in caches]
      x, kv = block(x, _layer(params['layers'], i), kv, indices)
      layers.append(kv)
    caches = tuple(
        Cache(*zip(*kv, strict=True), keys[i], index + time)
        for i, (kv, index) in enumerate(
            zip(zip(*layers, strict=True), indices, strict=True)
        )
    )
    cache = caches[0] if isinstance(cache, Cache) else caches
  x = rms_norm(x, params['final_norm']['scale'], config.norm_eps)
  if return_hidden:
    return x, cache
  return logits(params, x), cache
