"""The decoder: parameters, cache, and one pure forward pass.

Parameters are a plain nested dict of arrays. Layers are stacked along a leading
axis L and scanned, so that any depth compiles one layer. With a cache they are
unrolled, see `Cache`.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import sharding
from ddt_jax.model import attention
from ddt_jax.model import kv_cache
from ddt_jax.model import layers
from ddt_jax.model import rope
from ddt_jax.model.attention import PADDING
from ddt_jax.model.config import REMAT
from ddt_jax.model.config import ModelConfig

# Rows of a decode step, at most, for which XLA:CPU multiplies faster with the head
# as the left factor. Beyond, its packed copy of the head pays for itself.
_FEW_ROWS = 64


@struct.dataclass
class Cache:
  """Keys and values of the tokens read so far.

  All rows write the same columns, from `index` on. Rows of different lengths are
  padded with tokens at position PADDING, which no query sees.

  Attributes:
    k, v: of each layer [B, K, H, S] and [B, K, S, H], the layouts of attention's
      two products. Layers are apart, so that a decoding loop updates each in
      place; XLA would copy slices out of one stack, and back.
    positions: [B, S]; PADDING in columns that are not written.
    index: scalar, the next column to write.
  """

  k: tuple[kv_cache.Stored, ...]
  v: tuple[kv_cache.Stored, ...]
  positions: jax.Array
  index: jax.Array


def init_cache(
    config: ModelConfig, batch: int, size: int, dtype: Any = None
) -> Cache:
  """Returns an empty cache.

  Args:
    config: the model.
    batch: B, rows.
    size: S, columns.
    dtype: of keys and values, a float or int8; default the compute dtype.
  """
  rows, dim = (batch, config.num_kv_heads), config.head_dim
  k, v = (
      (kv_cache.empty(shape, channels, dtype or config.dtype),) * config.num_layers
      for shape, channels in (((*rows, dim, size), 2), ((*rows, size, dim), 3))
  )
  positions = jnp.full((batch, size), PADDING, jnp.int32)
  return Cache(k, v, positions, jnp.zeros((), jnp.int32))


# --- Parameters.


@functools.cache
def _block_graph(
    config: ModelConfig, adapted: frozenset[str] = frozenset()
) -> nnx.GraphDef:
  # Abstract, so no weights are drawn; cached, so each forward need not trace it.
  block = nnx.eval_shape(
      lambda: layers.Block(config, adapted=adapted, rngs=nnx.Rngs(0)))
  return nnx.split(block)[0]


def _adapted(weights: Any) -> frozenset[str]:
  """The linear layers of a block that have an adapter, see `lora.attach`."""
  if isinstance(weights, tuple):
    weights = weights[0]
  return frozenset(
      name for part in ('attn', 'mlp') for name, parameters in weights[part].items()
      if 'lora_a' in parameters)


def init(config: ModelConfig, key: jax.Array) -> dict[str, Any]:
  """Returns fresh float32 parameters.

  Matrices are normal with standard deviation `config.init_std`, biases 0; norms
  scale nothing.

  Args:
    config: the model.
    key: random key.

  Returns:
    A nested dict: embed, layers (stacked, leading axis L), final_norm, and head
    unless it is tied to the embedding.
  """
  embed_key, head_key, layers_key = jax.random.split(key, 3)

  # vmap over keys draws the layers already stacked, with no copy to stack them.
  def layer(key):
    block = layers.Block(config, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(block))

  def table(key):
    shape = (config.vocab_size, config.width)
    return config.init_std * jax.random.normal(key, shape)

  params = {
      'embed': {'embedding': table(embed_key)},
      'layers': jax.vmap(layer)(jax.random.split(layers_key, config.num_layers)),
      'final_norm': {'scale': layers.identity_scale(config, config.width)},
  }
  if not config.tied_head:
    params['head'] = {'kernel': table(head_key)}
  return params


def unstacked(params: dict[str, Any]) -> dict[str, Any]:
  """Returns the parameters with `layers` as a tuple, for forwards with a cache.

  A loop over tokens would otherwise slice every layer out of the stack at each
  step. Only the layers are copied; parameters that are already unstacked are
  returned as they are.
  """
  if isinstance(params['layers'], tuple):
    return params
  return params | {'layers': _unstack(params['layers'])}


@jax.jit
def _unstack(stacked):
  depth = len(jax.tree.leaves(stacked)[0])
  return tuple(_layer(stacked, i) for i in range(depth))


def _layer(weights, i):
  """Layer i of stacked or unstacked layers."""
  if isinstance(weights, tuple):
    return weights[i]
  return jax.tree.map(lambda p: p[i], weights)


# --- Vocabulary head.


def head(params: dict[str, Any]) -> jax.Array:
  """Returns the vocabulary head [V, D]; a tied one is the embedding."""
  if 'head' in params:
    return params['head']['kernel']
  return params['embed']['embedding']


def logits(params: dict[str, Any], hidden: jax.Array) -> jax.Array:
  """Multiplies hidden [..., D] by the head: logits [..., V], float32."""
  return jnp.einsum(
      '...d,vd->...v', hidden, head(params).astype(hidden.dtype),
      preferred_element_type=attention.wide(hidden.dtype),
  )


def next_logits(params: dict[str, Any], hidden: jax.Array) -> jax.Array:
  """`logits` of one token a row, for a decode step: hidden [B, D] -> [B, V].

  XLA:CPU packs the right factor of a matmul into tiles at every step. For few
  rows the head is therefore the left factor; a barrier keeps XLA from
  transposing the product back.
  """
  # One row is a matrix-vector product, which XLA does not pack.
  if not 1 < len(hidden) <= _FEW_ROWS:
    return logits(params, hidden)

  def head_first(params, hidden):
    table = head(params).astype(hidden.dtype)
    y = jnp.matmul(
        table, hidden.T, preferred_element_type=attention.wide(hidden.dtype)
    )
    return jax.lax.optimization_barrier(y).T

  # Chosen when compiled for a platform, not from the host that traces it.
  return jax.lax.platform_dependent(
      params, hidden, cpu=head_first, default=logits
  )


# --- Forward.


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
  """Logits (or final hidden states) of tokens, and the cache after them.

  Args:
    params: from `init` or `weights.load`; with a cache also `unstacked`.
    config: the model.
    tokens: [B, T].
    positions: [B, T], rising in each row; PADDING (-1) marks padding, which no
      query sees. Default: 0 .. T - 1, or from the `index` of a row's cache on.
    segment_ids: [B, T]; tokens of different segments do not see each other.
    cache: keys and values of the tokens before; `tokens` are appended at its
      `index`. Several caches, of any sizes, share one pass over the weights: the
      rows of `tokens` are theirs, one cache after the other. Not together with
      segment_ids.
    return_hidden: return the normalised hidden states [B, T, D], for a streaming
      vocabulary head.
    mesh: keeps the rows sharded over its `data` and `fsdp` axes in every layer.
      Without it the compiler may follow the parameters' layout instead.

  Returns:
    logits [B, T, V] float32 (or hidden in the compute dtype), and the cache or
    caches, None if none was given.

  Raises:
    ValueError: a cache and segment_ids together.
  """
  if cache is not None and segment_ids is not None:
    raise ValueError('a cache and segment_ids cannot be used together')
  caches = (cache,) if isinstance(cache, Cache) else cache
  where = _positions(config, tokens, positions, segment_ids, caches)
  x = _spread(_embedded(params, tokens, config, mesh), mesh)
  if caches is None:
    x = _scanned(params['layers'], config, x, where.replace(mesh=mesh), mesh)
  else:
    x, caches = _unrolled(params['layers'], config, x, where, caches)
    cache = caches[0] if isinstance(cache, Cache) else caches
  # x: [B, T, D]
  x = layers.rms_norm(
      x, params['final_norm']['scale'], config.norm_eps, config.plus_one)
  return x if return_hidden else logits(params, x), cache


def _positions(
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array | None,
    segment_ids: jax.Array | None,
    caches: Sequence[Cache] | None,
) -> layers.Positions:
  """Positions of the tokens and of the columns that the caches then hold."""
  batch, time = tokens.shape
  if positions is None:
    # [B, 1]: the caches' rows stand one cache after the other, as in `tokens`.
    start = 0 if caches is None else jnp.concatenate(
        [jnp.full((len(c.positions), 1), c.index) for c in caches]
    )
    positions = jnp.broadcast_to(start + jnp.arange(time), (batch, time))

  def angles(theta, scaling=None):
    freqs = rope.inverse_frequencies(config.head_dim, theta, scaling)
    return rope.angles(positions, freqs, config.dtype)

  where = layers.Positions(
      angles(config.rope_theta, config.rope_scaling),
      None if config.window is None else angles(config.local_rope_theta),
      positions, segment_ids,
  )
  if caches is None:
    return where
  # NumPy: row counts are static, and jnp.split needs static borders.
  ends = np.cumsum([len(c.positions) for c in caches])[:-1]
  return where.replace(
      keys=tuple(
          jax.lax.dynamic_update_slice_in_dim(c.positions, new, c.index, 1)
          for c, new in zip(caches, jnp.split(positions, ends), strict=True)
      ),
      columns=tuple(c.index for c in caches),
  )


def _embedded(params, tokens, config, mesh):
  table = params['embed']['embedding']
  if mesh is not None:
    # All-gathered over fsdp before the lookup: looked-up rows with a sharded
    # width would become whole copies of the batch on every device.
    table = jax.lax.with_sharding_constraint(
        table.astype(config.dtype), sharding.gathered(table, mesh))
  x = table[tokens].astype(config.dtype)
  return x if config.embed_scale == 1 else x * config.embed_scale


def _spread(x, mesh):
  """Keeps the rows of x [B, T, D] sharded over data and fsdp."""
  if mesh is None:
    return x
  # XLA may follow the parameters' layout otherwise, and copy the batch to every
  # device.
  return jax.lax.with_sharding_constraint(x, sharding.batch_sharding(mesh))


def _scanned(stacked, config, x, where, mesh):
  """All layers without a cache: one compiled body for any depth."""
  graph = _block_graph(config, _adapted(stacked))

  def body(x, layer):
    weights, sliding = layer
    x, _ = nnx.merge(graph, weights)(x, where, sliding=sliding)
    return _spread(x, mesh), None

  if config.remat != 'none':
    # Inside a scan XLA cannot merge the recomputation with the forward, so the
    # barriers that prevent_cse adds would only cost time.
    body = jax.checkpoint(body, policy=REMAT[config.remat], prevent_cse=False)
  sliding = jnp.array(config.sliding) if config.sliding else None
  x, _ = jax.lax.scan(body, x, (stacked, sliding))
  return x


def _unrolled(weights, config, x, where, caches):
  """All layers with caches, one after the other."""
  graph, kept = _block_graph(config, _adapted(weights)), []
  # No scan: its carry would be one stack, copied in and out at each decode step.
  for i in range(config.num_layers):
    old = [(c.k[i], c.v[i]) for c in caches]
    sliding = bool(config.sliding) and config.sliding[i]
    x, new = nnx.merge(graph, _layer(weights, i))(x, where, old, sliding)
    kept.append(new)
  # From [layer][cache] to [cache][layer], the fields of each `Cache`.
  time = x.shape[1]
  return x, tuple(
      Cache(*zip(*each, strict=True), keys, column + time)
      for each, keys, column in zip(
          zip(*kept, strict=True), where.keys, where.columns, strict=True
      )
  )
