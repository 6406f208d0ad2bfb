r"""Low-rank adapters on the linear layers of the decoder.

An adapted layer computes

  y = x W + s (x A) B,    s = alpha / rank, or alpha / sqrt(rank) with rsLoRA

with W frozen [in, out], A [in, rank] and B [rank, out]. B starts at 0, so that an
adapter that was never trained changes nothing. Layers are stacked, as in `model`.

`attach` puts A and B beside W, which takes no gradient and no second copy: a run
trains, scores and decodes so. `merge` folds the adapter into W, for export.

Source: arXiv:2106.09685; rsLoRA arXiv:2312.03732.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import difflib
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import errors
from ddt_jax import model

# PEFT's name of a linear layer -> where it is in a block's parameters.
TARGETS = {
    **{f'{n}_proj': ('attn', n) for n in 'qkvo'},
    **{f'{n}_proj': ('mlp', n) for n in ('gate', 'up', 'down')},
}
ALL_LINEAR = 'all-linear'


@struct.dataclass
class Adapters:
  """Adapters of one model; the arrays are all that is trained.

  Attributes:
    layers: like the parameters' `layers`, with lora_a [L, in, rank] and lora_b
      [L, rank, out] in each adapted linear layer.
    rank, alpha, rslora: see the module.
  """

  layers: dict[str, Any]
  rank: int = struct.field(pytree_node=False)
  alpha: float = struct.field(pytree_node=False)
  rslora: bool = struct.field(pytree_node=False, default=False)

  @property
  def scale(self) -> float:
    """s of the module's formula."""
    return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

  def __iter__(self) -> Iterator[tuple[str, jax.Array, jax.Array]]:
    """Yields (PEFT's name, A, B) of each adapted linear layer."""
    for name, (part, linear) in TARGETS.items():
      adapter = self.layers.get(part, {}).get(linear)
      if adapter is not None:
        yield name, adapter['lora_a'], adapter['lora_b']


def init(
    config: model.ModelConfig,
    key: jax.Array,
    *,
    rank: int,
    alpha: float,
    targets: str | Sequence[str] = ALL_LINEAR,
    rslora: bool = False,
) -> Adapters:
  """Returns fresh adapters in float32: A uniform as in PEFT, B zero.

  Args:
    config: the model.
    key: random key.
    rank: columns of A; 1 or more.
    alpha: numerator of the scale; above 0.
    targets: 'all-linear', or names of `TARGETS`, with commas or as a sequence.
    rslora: divide alpha by sqrt(rank) instead of rank.

  Raises:
    errors.InputError: an unknown target, or a rank or alpha out of range.
  """
  if rank < 1:
    raise errors.InputError(f'lora.rank={rank}: at least 1')
  if not alpha > 0:
    raise errors.InputError(f'lora.alpha={alpha}: must be above 0')
  layers: dict[str, Any] = {}
  # A key for each layer that could be adapted: the choice of targets changes none.
  keys = dict(zip(TARGETS, jax.random.split(key, len(TARGETS)), strict=True))
  for name in parse_targets(targets):
    part, linear = TARGETS[name]
    fan_in, out = shape(config, name)
    # Kaiming's uniform with a = sqrt(5), as PyTorch's and PEFT's linear layers.
    a = jax.random.uniform(
        keys[name], (config.num_layers, fan_in, rank), minval=-1, maxval=1)
    layers.setdefault(part, {})[linear] = {
        'lora_a': a * fan_in**-0.5,
        'lora_b': jnp.zeros((config.num_layers, rank, out)),
    }
  return Adapters(layers, rank, float(alpha), rslora)


def parse_targets(targets: str | Sequence[str]) -> list[str]:
  """Returns the names of the linear layers to adapt, in the order of `TARGETS`.

  Raises:
    errors.InputError: a name is unknown, or there is none.

  Example:
    >>> parse_targets('v_proj, q_proj')
    ['q_proj', 'v_proj']
  """
  if targets == ALL_LINEAR:
    return list(TARGETS)
  if isinstance(targets, str):
    targets = targets.split(',')
  given = [name.strip() for name in targets]
  for name in given:
    if name not in TARGETS:
      near = difflib.get_close_matches(name, [ALL_LINEAR, *TARGETS], 1, 0.0)[0]
      raise errors.InputError(
          f'lora.targets: {name!r} is no linear layer; did you mean {near!r}?'
          f' Choose {ALL_LINEAR}, or from {", ".join(TARGETS)}')
  return [name for name in TARGETS if name in given]


def shape(config: model.ModelConfig, target: str) -> tuple[int, int]:
  """Returns (in, out) of a linear layer of `TARGETS`."""
  heads = config.num_heads * config.head_dim
  kv_heads = config.num_kv_heads * config.head_dim
  return {
      'q_proj': (config.width, heads), 'k_proj': (config.width, kv_heads),
      'v_proj': (config.width, kv_heads), 'o_proj': (heads, config.width),
      'gate_proj': (config.width, config.mlp_width),
      'up_proj': (config.width, config.mlp_width),
      'down_proj': (config.mlp_width, config.width),
  }[target]


def attach(params: dict[str, Any], adapters: Adapters) -> dict[str, Any]:
  """Returns parameters for `model.forward` that apply the adapters.

  The base is referred to, not copied. Gradients flow into the adapters and, if
  asked for, into the base.

  Args:
    params: of the base, stacked.
    adapters: of the same model.
  """
  return _with_linears(params, adapters, lambda kernel, a, b: {
      # The scale goes into B: the layer need not know it.
      'lora_a': a, 'lora_b': adapters.scale * b})


def applied(trained: Any, base: dict[str, Any] | None = None) -> dict[str, Any]:
  """Returns parameters for `model.forward` from what a run trains.

  Args:
    trained: adapters; or, without a base, all parameters.
    base: frozen parameters, stacked; None where all are trained.
  """
  return trained if base is None else attach(base, trained)


def merge(params: dict[str, Any], adapters: Adapters) -> dict[str, Any]:
  """Returns parameters with W + s A B in place of W, in W's dtype.

  Args:
    params: of the base, stacked.
    adapters: of the same model.
  """

  def merged(kernel, a, b):
    return {'kernel': _sum(kernel, a, b, adapters.scale).astype(kernel.dtype)}

  return _with_linears(params, adapters, merged)


def merge_lazily(params: dict[str, Any], adapters: Adapters) -> dict[str, Any]:
  """Returns merged parameters of which `weights.save` computes a layer at a time.

  Args:
    params: of the base, from `weights.open` or on this process's devices.
    adapters: of the same model, in NumPy.
  """
  return _with_linears(params, adapters, lambda kernel, a, b: {
      'kernel': _Merged(kernel, a, b, adapters.scale)})


@dataclasses.dataclass(frozen=True)
class _Merged:
  """W + s A B of stacked layers; `merged[i]` computes one, in float32."""

  kernel: Any
  a: np.ndarray
  b: np.ndarray
  scale: float

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.kernel.shape)

  def __getitem__(self, layer: int) -> np.ndarray:
    return np.asarray(_sum(
        self.kernel[layer], self.a[layer], self.b[layer], self.scale))


def _sum(kernel, a, b, scale: float) -> jax.Array:
  """W + s A B, the sum in float32."""
  # All bits of float32 also on a TPU, whose default product is bfloat16's.
  return kernel + scale * jnp.matmul(
      a.astype(jnp.float32), b.astype(jnp.float32),
      precision=jax.lax.Precision.HIGHEST)


def _with_linears(params, adapters: Adapters, change):
  """The parameters with change(W, A, B) put into each adapted linear layer."""
  layers = dict(params['layers'])
  for name, a, b in adapters:
    part, linear = TARGETS[name]
    old = layers[part][linear]
    layers[part] = layers[part] | {
        linear: old | change(old['kernel'], a, b)}
  return params | {'layers': layers}


def count(adapters: Adapters) -> int:
  """Returns the number of trained values."""
  return sum(np.size(x) for x in jax.tree.leaves(adapters))
