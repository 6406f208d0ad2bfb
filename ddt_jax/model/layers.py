"""Layers of the Qwen2, Qwen3 and Llama families, as Flax NNX modules.

Only `model.decoder` uses these modules. It splits each of them once into graph
and state, so that the rest of the program sees a plain dict of parameters.
"""

from collections.abc import Collection, Sequence
import functools
import math

from flax import nnx
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax.model import attention
from ddt_jax.model import kv_cache
from ddt_jax.model.config import ModelConfig

# Keys and values of one layer and one cache, [b, K, H, S] and [b, K, S, H].
KeysValues = tuple[kv_cache.Stored, kv_cache.Stored]

_prefill_rows = functools.partial(
    attention.attend_rows, whole=attention.PREFILLED
)


@struct.dataclass
class Positions:
  """Where the tokens of a forward pass stand; all layers share it.

  Attributes:
    rope: cos and sin of the tokens' angles, each [B, T, 1, H / 2].
    tokens: [B, T], positions; PADDING for padding.
    segment_ids: [B, T], or None for one segment.
    keys: of each cache, the positions [b, S] of its columns, the new tokens
      included; empty without a cache.
    columns: of each cache, the first column that the new tokens fill.
    mesh: of rows without a cache; None for one device.
  """

  rope: tuple[jax.Array, jax.Array]
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


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  r"""Root-mean-square normalisation of the last axis.

  .. math:: y = scale \cdot x / \sqrt{\mathrm{mean}(x^2) + eps}

  Args:
    x: [..., D].
    scale: [D].
    eps: added to the mean square.

  Returns:
    y [..., D] in x's dtype; the mean and the quotient are float32.
  """
  # float32: the 8 bits of bfloat16 are too few for a sum over D.
  y = x.astype(attention.wide(x.dtype))
  y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + eps)
  return y.astype(x.dtype) * scale.astype(x.dtype)


class RMSNorm(nnx.Module):
  """`rms_norm` with a learnt scale."""

  def __init__(self, width: int, eps: float):
    self.scale, self.eps = nnx.Param(jnp.ones(width)), eps

  def __call__(self, x):
    return rms_norm(x, self.scale[...], self.eps)


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
  r"""Radians per position of rope's H / 2 frequencies, float32.

  .. math:: \omega_i = \theta^{-2i / H}

  With Llama-3's scaling, frequencies that turn less than `low_freq_factor` times
  within the original context are divided by `factor`; those that turn more than
  `high_freq_factor` times are kept, and those between are interpolated.
  """
  # NumPy: a constant of the compiled program, computed once on the host.
  exponent = np.arange(0, config.head_dim, 2, dtype=np.float32)
  freqs = 1 / config.rope_theta ** (exponent / config.head_dim)
  if (s := config.rope_scaling) is None:
    return freqs.astype(np.float32)
  # Full rotations within the context that the model was first trained on.
  turns = s.original_max_position_embeddings * freqs / (2 * math.pi)
  keep = np.clip(
      (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor),
      0, 1,
  )
  return (freqs * (keep + (1 - keep) / s.factor)).astype(np.float32)


def rope(
    config: ModelConfig, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """cos and sin of the angles at positions [B, T], each [B, T, 1, H / 2]."""
  # float32: bfloat16 holds integers exactly only up to 256.
  angle = positions[..., None, None].astype(attention.wide(config.dtype))
  angle = angle * inverse_frequencies(config)
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates the pairs (i, i + H / 2) of [B, T, heads, H] by `rope`'s angles."""
  cos, sin = rope
  # Halves, not neighbours: the layout of the checkpoints of Hugging Face.
  a, b = jnp.split(x.astype(attention.wide(x.dtype)), 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
      x.dtype
  )


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
      self.q_norm = RMSNorm(c.head_dim, c.norm_eps)
      self.k_norm = RMSNorm(c.head_dim, c.norm_eps)

  def __call__(self, x, where: Positions, caches=None):
    c = self.c
    # [B, T, heads, H]
    q = self.q(x).reshape(*x.shape[:2], c.num_heads, c.head_dim)
    k = self.k(x).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
    v = self.v(x).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
    if c.qk_norm:
      # Before rope: a scale per channel does not commute with the rotation.
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = rotate(q, where.rope), rotate(k, where.rope)
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)  # layout of KeysValues
    if caches is None:
      y = attention.attend_rows(
          q, k, v, where.tokens, where.segment_ids, mesh=where.mesh)
    else:
      y, caches = attend_cached(q, k, v, where, caches)
    return self.o(y.reshape(*x.shape[:2], -1)), caches


def attend_cached(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    where: Positions,
    caches: Sequence[KeysValues],
) -> tuple[jax.Array, list[KeysValues]]:
  """Appends keys and values to the caches, and attends to their columns.

  The batch is the caches' rows, one cache after the other. Attention is the only
  layer that must keep them apart: their numbers of columns differ.

  Args:
    q, k, v: of the new tokens, see `attention.attend`.
    where: with `keys` and `columns` of each cache.
    caches: of this layer.

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
      parts.append(_prefill_rows(q, k, v, positions))
    else:
      parts.append(attention.attend(q, k, v, positions, keys))
  return jnp.concatenate(parts), updated


class MLP(nnx.Module):
  """down(silu(gate x) * up x)."""

  def __init__(
      self, c: ModelConfig, *, adapted: Collection[str] = (), rngs: nnx.Rngs
  ):

    def linear(name, fan_in, out):
      return Linear(
          fan_in, out, std=c.init_std, adapted=name in adapted, rngs=rngs)

    self.gate = linear('gate', c.width, c.mlp_width)
    self.up = linear('up', c.width, c.mlp_width)
    self.down = linear('down', c.mlp_width, c.width)

  def __call__(self, x):
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """One layer: x + attention(norm x), then + MLP(norm x).

  `adapted` names the linear layers that have an adapter, see `lora`.
  """

  def __init__(
      self, c: ModelConfig, *, adapted: Collection[str] = (), rngs: nnx.Rngs
  ):
    self.attn_norm = RMSNorm(c.width, c.norm_eps)
    self.attn = Attention(c, adapted=adapted, rngs=rngs)
    self.mlp_norm = RMSNorm(c.width, c.norm_eps)
    self.mlp = MLP(c, adapted=adapted, rngs=rngs)

  def __call__(self, x, where: Positions, caches=None):
    y, caches = self.attn(self.attn_norm(x), where, caches)
    x = x + y
    return x + self.mlp(self.mlp_norm(x)), caches
