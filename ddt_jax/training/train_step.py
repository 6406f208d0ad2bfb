"""One optimizer step: pure; the caller jits, shards and donates."""

from collections.abc import Callable, Iterable
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import vocab_head
from ddt_jax.data import batches

Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
  """All that a step reads and writes.

  Attributes:
    step: steps taken, skipped ones included; drives the curriculum.
    params: see `model`.
    opt_state: optax's, with its own count of applied updates.
    skipped: updates left out because the gradient was not finite.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  skipped: jax.Array

  @classmethod
  def create(
      cls, params: Any, tx: optax.GradientTransformation
  ) -> 'TrainState':
    # Two buffers, not one: a donated buffer may appear only once.
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return cls(step, params, tx.init(params), skipped)


def loss_sums(
    params: Any,
    config: model.ModelConfig,
    batch: batches.Batch,
    name: str,
    extras: dict[str, jax.Array] | None = None,
    *,
    mesh: jax.sharding.Mesh | None = None,
    denominator: str = 'tokens',
    **weighting: Any,
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
  """Loss sum, count and metric sums of a batch; the sum has a gradient.

  Token tiles take 3 matrix products. A head sharded over `tensor` is streamed
  instead (4 products), since each tile would need a sum over devices.

  Args:
    params, config: the model.
    batch: rows, sharded over `data` and `fsdp` of the mesh.
    name: objective, a key of `objectives.WEIGHTS`.
    extras: options of the objective that are traced.
    mesh: None for one device.
    denominator: see `objectives.token_loss`.
    **weighting: weight_grad and the options of the objective.

  Returns:
    (loss sum, (count, metric sums)).
  """
  extras = extras or {}
  hidden, _ = model.forward(
      params, config, batch.tokens, positions=batch.positions,
      return_hidden=True, mesh=mesh,
  )
  args = hidden, model.head(params), batch.targets
  if vocab_head.is_split(mesh, args[1]):
    stats = vocab_head.token_stats(*args, mesh=mesh)
    total, count, metrics = objectives.token_loss(
        name, stats, batch.mask, denominator=denominator, **weighting, **extras)
    return total, (count, metrics)
  total, _, stats = vocab_head.weighted_nll(
      *args, batch.mask, objectives.constant_weights(name, **weighting), extras,
      mesh=mesh,
  )
  _, count, metrics = objectives.token_loss(
      name, stats, batch.mask, denominator=denominator, **weighting, **extras)
  return total, (count, metrics)


def make_train_step(
    config: model.ModelConfig,
    tx: optax.GradientTransformation,
    *,
    name: str,
    mesh: jax.sharding.Mesh | None = None,
    micro_batches: int = 1,
    total_steps: int | None = None,
    first_step: int = 0,
    steps_before: int = 0,
    warmup_ratio: float = 0.0,
    transition_ratio: float = 0.0,
    **loss: Any,
) -> Callable[[TrainState, batches.Batch], tuple[TrainState, Metrics]]:
  """The pure `step(state, batch) -> (state, metrics)`.

  Gradients of the *sum* are added over micro-batches and divided once by the
  global count, so the cut does not matter. A step whose gradient is not finite
  changes nothing but the counters.

  Args:
    config: the model.
    tx: optimizer.
    name: objective.
    mesh: that the state and the batch lie on; None for one device.
    micro_batches: must divide the batch.
    total_steps, warmup_ratio, transition_ratio: of the curriculum.
    first_step: of the curriculum, for a state that has taken `steps_before`
      steps already.
    steps_before: see first_step.
    **loss: options of `objectives.token_loss`.
  """

  def gradient(params, batch, extras):
    grad = jax.value_and_grad(loss_sums, has_aux=True)
    (total, (count, sums)), grads = grad(
        params, config, batch, name, extras, mesh=mesh, **loss
    )
    return grads, {'loss': total, 'count': count, **sums}

  def step(state, batch):
    strength = objectives.curriculum(
        state.step + first_step - steps_before, total_steps,
        warmup_ratio=warmup_ratio, transition_ratio=transition_ratio,
    )
    extras = objectives.traced_options(name, curriculum=strength)
    if micro_batches == 1:
      grads, sums = gradient(state.params, batch, extras)
    else:
      # Micro-batch i takes rows i, i + m, ...: each device keeps its own rows.
      cut = jax.tree.map(
          lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1),
          batch,
      )
      zeros = jax.tree.map(
          lambda x: jnp.zeros(x.shape, x.dtype),
          jax.eval_shape(
              lambda b: gradient(state.params, b, extras),
              jax.tree.map(lambda x: x[0], cut),
          ),
      )
      grads, sums = jax.lax.scan(
          lambda acc, b: (
              jax.tree.map(jnp.add, acc, gradient(state.params, b, extras)),
              None,
          ),
          zeros,
          cut,
      )[0]
    count = jnp.maximum(sums['count'], 1.0)
    grads = jax.tree.map(lambda g: g / count, grads)
    norm = optax.tree.norm(grads)
    state, finite = _apply(tx, state, grads, norm)
    return state, sums | {
        'curriculum': strength, 'grad_norm': norm, 'finite': finite}

  return step


def make_eval_step(
    config: model.ModelConfig, *, name: str,
    mesh: jax.sharding.Mesh | None = None, **loss: Any
) -> Callable[[Any, batches.Batch], Metrics]:
  """The pure `step(params, batch) -> metric sums`; options as in training."""
  def step(params, batch):
    total, (count, sums) = loss_sums(
        params, config, batch, name, mesh=mesh, **loss)
    return {'loss': total, 'count': count, **sums}

  return step


def add(metrics: Iterable[Metrics]) -> dict[str, Any]:
  """Sums of steps or batches, on the host."""
  return jax.tree.map(lambda *x: sum(map(np.float64, x)), *jax.device_get(
      list(metrics)
  ))


def check_finite(metrics: Iterable[Metrics], in_a_row: int, limit: int) -> int:
  """Counts skipped updates in a row over these steps, after `in_a_row`.

  Raises:
    FloatingPointError: at `limit` of them.
  """
  for m in jax.device_get([m['finite'] for m in metrics]):
    in_a_row = 0 if m else in_a_row + 1
    if in_a_row >= limit:
      raise FloatingPointError(
          f'{in_a_row} updates in a row were skipped because the gradient was'
          ' not finite; lower optim.lr, or look at the data of these steps.'
          ' The last checkpoint is from before them.'
      )
  return in_a_row


def _apply(tx, state, grads, norm) -> tuple[TrainState, jax.Array]:
  finite = jnp.isfinite(norm)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)

  def keep(new, old):
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

  return state.replace(
      step=state.step + 1,
      params=keep(params, state.params),
      opt_state=keep(opt_state, state.opt_state),
      skipped=state.skipped + ~finite,
  ), finite
