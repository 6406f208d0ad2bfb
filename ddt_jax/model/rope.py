"""Rotary position embeddings: frequencies, angles, rotation."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Angles = tuple[jax.Array, jax.Array]  # their cos and sin, each [B, T, 1, H / 2]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama-3's rope scaling, see `inverse_frequencies`.

  Attributes:
    factor: divides the low frequencies.
    low_freq_factor, high_freq_factor: turns within the original context below
      which a frequency is low, and above which it is high.
    original_max_position_embeddings: that context, tokens.
  """

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_position_embeddings: int


def inverse_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> np.ndarray:
  r"""Radians per position of rope's H / 2 frequencies, float32.

  .. math:: \omega_i = \theta^{-2i / H}

  With Llama-3's scaling, frequencies that turn less than `low_freq_factor` times
  within the original context are divided by `factor`; those that turn more than
  `high_freq_factor` times are kept, and those between are interpolated.

  Example:
    >>> inverse_frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]
  """
  # NumPy: a constant of the compiled program, computed once on the host.
  exponent = np.arange(0, head_dim, 2, dtype=np.float32)
  freqs = 1 / theta ** (exponent / head_dim)
  if (s := scaling) is None:
    return freqs.astype(np.float32)
  # Full rotations within the context that the model was first trained on.
  turns = s.original_max_position_embeddings * freqs / (2 * math.pi)
  keep = np.clip(
      (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor),
      0, 1,
  )
  return (freqs * (keep + (1 - keep) / s.factor)).astype(np.float32)


def angles(positions: jax.Array, frequencies: np.ndarray, dtype: Any) -> Angles:
  """Returns cos and sin of the angles at positions.

  Args:
    positions: [B, T].
    frequencies: see `inverse_frequencies`.
    dtype: of the model's products; float32 at least is used.
  """
  # float32: bfloat16 holds integers exactly only up to 256.
  angle = positions[..., None, None].astype(jnp.promote_types(dtype, jnp.float32))
  angle = angle * frequencies
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, by: Angles) -> jax.Array:
  """Rotates the pairs (i, i + H / 2) of [B, T, heads, H]."""
  cos, sin = by
  # Halves, not neighbours: the layout of the checkpoints of Hugging Face.
  a, b = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
      x.dtype
  )
