"""Layers of the families in `model.families`, as Flax NNX modules.

Only `model.decoder` uses these modules. It splits each of them once into graph
and state, so that the rest of the program sees a plain dict of parameters.
"""

from collections.abc import Collection, Sequence
import functools

from flax import nnx
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax.model import attention
from ddt_jax.model import kv_cache
from ddt_jax.model import rope
from ddt_jax.model.config import ModelConfig

# Keys and values of one layer and one cache, [b, K, H, S] and [b, K, S, H].
KeysValues = tuple[kv_cache.Stored, kv_cache.Stored]

ACTIVATIONS = {
    'silu': jax.nn.silu,
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
}
_prefill_rows = functools.partial(
    attention.attend_rows, whole=attention.PREFILLED
)


@struct.dataclass
class Positions:
  """Where the tokens of a forward pass stand; all layers share it.

  Attributes:
    angles: rope's, of the tokens.
    local_angles: those of sliding layers; None if there is no such layer.
    tokens: [B, T], positions; PADDING for padding.
    segment_ids: [B, T], or None for one segment.
    keys: of each cache, the positions [b, S] of its columns, the new tokens
      included; empty without a cache.
    columns: of each cache, the first column that the new tokens fill.
    mesh: of rows without a cache; None for one device.
  """

  angles: rope.Angles
  local_angles: rope.Angles | None
  tokens: jax.Array
  segment_ids: jax.Array | None = None
  keys: tuple[jax.Array, ...] = ()
  columns: tuple[jax.Array, ...] = ()
  mesh: jax.sharding.Mesh | None = struct.field(pytree_node=False, default=None)


class Linear(nnx.Module):
  """x @ kernel + bias, in x's dtype; plus x @ lora_a @ lora_b, if adapted."""

  def __init__(
      self, fan_in: int, out: int, *, std: float, bias=False, adapted=False,
      rngs: nnx.Rngs,
  ):
    # [in, out], the transpose of Hugging Face's; `weights` turns it on the way.
    self.kernel = nnx.Param(
        std * jax.random.normal(rngs.params(), (fan_in, out))
    )
    self.bias = nnx.Param(jnp.zeros(out)) if bias else None
    # Of rank 0: `lora.attach` puts the trained ones beside the kernel.
    self.lora_a = nnx.Param(jnp.zeros((fan_in, 0))) if adapted else None
    self.lora_b = nnx.Param(jnp.zeros((0, out))) if adapted else None

  def __call__(self, x):
    # Leading axes are merged: XLA:CPU takes three times as long for the gradient
    # of a product with two of them.
    rows = x.reshape(-1, x.shape[-1])
    y = rows @ self.kernel[...].astype(x.dtype)
    if self.bias is not None:
      y += self.bias[...].astype(x.dtype)
    if self.lora_a is not None:
      # Two thin products: A @ B would be as large as the kernel.
      low = rows @ self.lora_a[...].astype(x.dtype)
      y += low @ self.lora_b[...].astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)


def rms_norm(
    x: jax.Array, scale: jax.Array, eps: float, plus_one: bool = False
) -> jax.Array:
  r"""Root-mean-square normalisation of the last axis.

  .. math:: y = scale \cdot x / \sqrt{\mathrm{mean}(x^2) + eps}

  Args:
    x: [..., D].
    scale: [D].
    eps: added to the mean square.
    plus_one: multiply by 1 + scale instead, in float32, as Gemma does.

  Returns:
    y [..., D] in x's dtype; the mean and the quotient are float32.
  """
  # float32: the 8 bits of bfloat16 are too few for a sum over D.
  y = x.astype(attention.wide(x.dtype))
  y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + eps)
  if plus_one:
    return (y * (1 + scale.astype(y.dtype))).astype(x.dtype)
  return y.astype(x.dtype) * scale.astype(x.dtype)


class RMSNorm(nnx.Module):
  """`rms_norm` with a learnt scale."""

  def __init__(self, c: ModelConfig, width: int):
    self.scale, self.c = nnx.Param(identity_scale(c, width)), c

  def __call__(self, x):
    return rms_norm(x, self.scale[...], self.c.norm_eps, self.c.plus_one)


def identity_scale(c: ModelConfig, width: int) -> jax.Array:
  """Returns the scale [D] of a norm that scales nothing."""
  return (jnp.zeros if c.plus_one else jnp.ones)(width)


class Attention(nnx.Module):
  """Grouped-query attention, over the rows themselves or over caches."""

  def __init__(
      self, c: ModelConfig, *, adapted: Collection[str] = (), rngs: nnx.Rngs
  ):
    self.c = c

    def linear(name, fan_in, out, bias):
      return Linear(
          fan_in, out, std=c.init_std, bias=bias, adapted=name in adapted,
          rngs=rngs)

    heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    self.q = linear('q', c.width, heads, c.qkv_bias)
    self.k = linear('k', c.width, kv_heads, c.qkv_bias)
    self.v = linear('v', c.width, kv_heads, c.qkv_bias)
    self.o = linear('o', heads, c.width, False)
    if c.qk_norm:
      self.q_norm = RMSNorm(c, c.head_dim)
      self.k_norm = RMSNorm(c, c.head_dim)

  def __call__(self, x, where: Positions, caches=None, sliding=False):
    c = self.c
    # [B, T, heads, H]
    q = self.q(x).reshape(*x.shape[:2], c.num_heads, c.head_dim)
    k = self.k(x).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
    v = self.v(x).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
    if c.qk_norm:
      # Before rope: a scale per channel does not commute with the rotation.
      q, k = self.q_norm(q), self.k_norm(k)
    if c.query_scale != 1:
      q *= c.query_scale
    by = where.angles
    if c.window is not None:
      by = jax.tree.map(
          functools.partial(jnp.where, sliding), where.local_angles, by)
    q, k = rope.rotate(q, by), rope.rotate(k, by)
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)  # layout of KeysValues
    if caches is None:
      y = attend_rows(q, k, v, where, c.window, sliding)
    else:
      y, caches = attend_cached(
          q, k, v, where, caches, c.window if sliding else None)
    return self.o(y.reshape(*x.shape[:2], -1)), caches


def attend_rows(
    q: jax.Array, k: jax.Array, v: jax.Array, where: Positions,
    window: int | None, sliding: bool | jax.Array,
) -> jax.Array:
  """Attention of rows to themselves, in a layer that slides or not.

  Args:
    q, k, v: see `attention.attend`.
    where: of their tokens.
    window: of sliding layers; None: no layer slides.
    sliding: whether this layer does; traced in a scan over layers.
  """

  def attend(q, k, v, window=None):
    return attention.attend_rows(
        q, k, v, where.tokens, where.segment_ids, window=window, mesh=where.mesh)

  if window is None:
    return attend(q, k, v)
  # Two branches, not a traced window: blocks and kernels leave out what a static
  # window hides.
  return jax.lax.cond(
      sliding, functools.partial(attend, window=window), attend, q, k, v)


def attend_cached(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    where: Positions,
    caches: Sequence[KeysValues],
    window: int | None = None,
) -> tuple[jax.Array, list[KeysValues]]:
  """Appends keys and values to the caches, and attends to their columns.

  The batch is the caches' rows, one cache after the other. Attention is the only
  layer that must keep them apart: their numbers of columns differ.

  Args:
    q, k, v: of the new tokens, see `attention.attend`.
    where: with `keys` and `columns` of each cache.
    caches: of this layer.
    window: see `attention.visible`.

  Returns:
    y [B, T, N, H], and the updated caches.
  """
  # Static borders between the rows of one cache and those of the next.
  ends = np.cumsum([len(keys) for keys in where.keys])[:-1]
  rows = zip(
      *(jnp.split(x, ends) for x in (q, k, v, where.tokens)), strict=True
  )
  parts, updated = [], []
  for (q, k, v, positions), keys, column, (old_k, old_v) in zip(
      rows, where.keys, where.columns, caches, strict=True
  ):
    k = kv_cache.append(old_k, k, column, tokens=3)
    v = kv_cache.append(old_v, v, column, tokens=2)
    updated.append((k, v))
    # The cache may be stored in fewer bits than the products take.
    k, v = kv_cache.read(k, q.dtype), kv_cache.read(v, q.dtype)
    if q.shape[1] == k.shape[3]:
      # The new tokens fill the cache (a prefill), so nothing else is in it and
      # rows attend to themselves: the form in blocks applies.
      parts.append(_prefill_rows(q, k, v, positions, window=window))
    else:
      parts.append(attention.attend(q, k, v, positions, keys, window=window))
  return jnp.concatenate(parts), updated


class MLP(nnx.Module):
  """down(f(gate x) * up x), f an activation."""

  def __init__(
      self, c: ModelConfig, *, adapted: Collection[str] = (), rngs: nnx.Rngs
  ):

    def linear(name, fan_in, out):
      return Linear(
          fan_in, out, std=c.init_std, adapted=name in adapted, rngs=rngs)

    self.activation = ACTIVATIONS[c.activation]
    self.gate = linear('gate', c.width, c.mlp_width)
    self.up = linear('up', c.width, c.mlp_width)
    self.down = linear('down', c.mlp_width, c.width)

  def __call__(self, x):
    return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """One layer: x + attention(norm x), then + MLP(norm x).

  In a sandwich, the outputs of attention and MLP are normalised, too. `adapted`
  names the linear layers that have an adapter, see `lora`.
  """

  def __init__(
      self, c: ModelConfig, *, adapted: Collection[str] = (), rngs: nnx.Rngs
  ):
    self.attn_norm = RMSNorm(c, c.width)
    self.attn = Attention(c, adapted=adapted, rngs=rngs)
    self.attn_out_norm = RMSNorm(c, c.width) if c.sandwich else None
    self.mlp_norm = RMSNorm(c, c.width)
    self.mlp = MLP(c, adapted=adapted, rngs=rngs)
    self.mlp_out_norm = RMSNorm(c, c.width) if c.sandwich else None

  def __call__(self, x, where: Positions, caches=None, sliding=False):
    y, caches = self.attn(self.attn_norm(x), where, caches, sliding)
    x = x + (y if self.attn_out_norm is None else self.attn_out_norm(y))
    y = self.mlp(self.mlp_norm(x))
    return x + (y if self.mlp_out_norm is None else self.mlp_out_norm(y)), caches
