"""One optimizer step, as a pure function; the caller jits, shards and donates."""

from collections.abc import Callable, Iterable
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddt_jax import lora
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import vocab_head
from ddt_jax.data import batches
from ddt_jax.training import reference

Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
  """Everything that a step reads and writes.

  Attributes:
    step: int32 scalar, steps taken, skipped ones included; drives the curriculum.
    params: the parameter tree of `model`, or the adapters of a frozen one, float32.
    opt_state: state of the optax optimizer, which counts applied updates itself.
    skipped: int32 scalar, updates not applied because the gradient was not finite.
    reference: parameters that the loss compares with, see `reference`; or None.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  skipped: jax.Array
  reference: Any = None

  @classmethod
  def create(
      cls, params: Any, tx: optax.GradientTransformation, compared: Any = None
  ) -> 'TrainState':
    """Returns the state before the first step; `params` are not copied.

    Args:
      params, tx: the parameters and the optimizer.
      compared: the reference, or None.
    """
    # Two buffers, because XLA refuses to donate the same buffer twice.
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return cls(step, params, tx.init(params), skipped, compared)


def loss_sums(
    params: Any,
    config: model.ModelConfig,
    batch: batches.Batch,
    name: str,
    traced: dict[str, jax.Array] | None = None,
    compared: Any = None,
    *,
    kl_weight: float = 0.0,
    mesh: jax.sharding.Mesh | None = None,
    denominator: str = 'tokens',
    **options: Any,
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
  """Loss sum, count and metric sums of a batch; the sum has a gradient.

  Token tiles take 3 matrix products. A head sharded over `tensor` is streamed
  instead (4 products), since each tile would need a sum over devices. So are the
  weights of whole sequences, since a tile holds tokens of several.

  Args:
    params, config: the model.
    batch: rows, sharded over `data` and `fsdp` of the mesh.
    name: objective, a key of `objectives.WEIGHTS`.
    traced: options of the objective that are JAX arrays.
    compared: parameters of the reference, if the loss reads one.
    kl_weight: see `reference.Reference`.
    mesh: None for one device.
    denominator: see `objectives.token_loss`.
    **options: weight_grad and the static options of the objective.

  Returns:
    (loss sum, (count, metric sums)).
  """
  traced = traced or {}
  hidden, _ = model.forward(
      params, config, batch.tokens, positions=batch.positions,
      segment_ids=batch.segment_ids, return_hidden=True, mesh=mesh,
  )
  args = hidden, model.head(params), batch.targets
  penalty, more = 0.0, {}
  if compared is not None:
    given, penalty, more = reference.compare(
        compared, config, batch, *args[:2], name, kl_weight, mesh)
    traced = traced | given
  if name in objectives.SEQUENCE and batch.segment_ids is not None:
    traced = traced | {'segment_ids': batch.segment_ids}
  # hidden: [B, T, D]; neither route holds [B, T, V] logits.
  if vocab_head.is_split(mesh, args[1]) or name in objectives.SEQUENCE:
    needs = objectives.needs(name, **options)
    stats = vocab_head.token_stats(*args, mesh=mesh, top_k=needs.get('top_k', 0))
    total, count, metrics = objectives.token_loss(
        name, stats, batch.mask, denominator=denominator, **options, **traced)
    return total + penalty, (count, metrics | more)
  total, _, stats = vocab_head.weighted_nll(
      *args, batch.mask, objectives.constant_weights(name, **options), traced,
      mesh=mesh,
  )
  # For count and metrics alone: only `total` has a gradient.
  _, count, metrics = objectives.token_loss(
      name, stats, batch.mask, denominator=denominator, **options, **traced)
  return total + penalty, (count, metrics | more)


# (parameters, batch, parameters of the reference or None, strength of the
# curriculum) -> (loss sum, (count, metric sums)); the sum has a gradient by the first.
LossSums = Callable[
    [Any, Any, Any, jax.Array], tuple[jax.Array, tuple[jax.Array, Metrics]]]


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
    comparison: reference.Reference | None = None,
    **loss: Any,
) -> Callable[[TrainState, batches.Batch], tuple[TrainState, Metrics]]:
  r"""Builds the pure function `step(state, batch) -> (state, metrics)`.

  Args:
    config: the model.
    tx: the optimizer.
    name: objective, a key of `objectives.WEIGHTS`.
    mesh: mesh of the state and the batch; None for one device.
    comparison: the reference of a loss that reads one; its parameters are
      `state.reference`.
    micro_batches, total_steps, first_step, steps_before, warmup_ratio,
      transition_ratio: see `make_step`.
    **loss: options of `objectives.token_loss`.

  Returns:
    step(state, batch), see `make_step`; its loss is that of `loss_sums`.
  """
  comparison = comparison or reference.Reference()

  def sums(params, batch, compared, strength):
    return loss_sums(
        params, config, batch, name,
        objectives.traced_options(name, curriculum=strength), compared,
        kl_weight=comparison.kl_weight, mesh=mesh, **loss)

  return make_step(
      sums, tx, micro_batches=micro_batches, total_steps=total_steps,
      first_step=first_step, steps_before=steps_before, warmup_ratio=warmup_ratio,
      transition_ratio=transition_ratio, comparison=comparison,
      is_read=comparison.is_read(name))


def make_step(
    loss: LossSums,
    tx: optax.GradientTransformation,
    *,
    micro_batches: int = 1,
    total_steps: int | None = None,
    first_step: int = 0,
    steps_before: int = 0,
    warmup_ratio: float = 0.0,
    transition_ratio: float = 0.0,
    comparison: reference.Reference,
    is_read: bool,
) -> Callable[..., tuple[TrainState, Metrics]]:
  r"""Builds the pure function `step(state, batch) -> (state, metrics)` of a loss.

  .. math:: g = \frac{\sum_m \nabla L_m}{\max(\sum_m n_m, 1)}

  L_m and n_m are the loss sum and the token count of micro-batch m. Gradients of
  sums are added and divided once, so the number of micro-batches does not change
  the result. A step whose gradient is not finite changes only the counters.

  Args:
    loss: see `LossSums`.
    tx: the optimizer.
    micro_batches: number of parts of a batch; must divide its rows.
    total_steps, warmup_ratio, transition_ratio: see `objectives.curriculum`.
    first_step: step of the curriculum at which this function starts.
    steps_before: steps that the state has taken before that. With first_step it
      continues the curriculum of earlier rounds, or starts a new one.
    comparison: how `state.reference` follows the parameters.
    is_read: whether the loss reads the reference.

  Returns:
    step(state, batch, compared=None, base=None); batch is a pytree of arrays with one
    leading axis of rows; `compared` takes the place of the reference; with `base`,
    the frozen parameters, state.params are adapters on them. Its metrics are
    scalars: the sums of the loss as loss, count and by name, curriculum, grad_norm
    (before clipping) and finite.
  """

  def step(state, batch, compared=None, base=None):
    strength = objectives.curriculum(
        state.step + first_step - steps_before, total_steps,
        warmup_ratio=warmup_ratio, transition_ratio=transition_ratio,
    )
    if is_read:
      compared = comparison.parameters(state.params, state.reference, base)

    def gradient(batch):
      def of_trained(trained):
        return loss(lora.applied(trained, base), batch, compared, strength)

      (total, (count, sums)), grads = jax.value_and_grad(
          of_trained, has_aux=True)(state.params)
      return grads, {'loss': total, 'count': count, **sums}

    grads, sums = _sum_over_parts(gradient, batch, micro_batches)
    count = jnp.maximum(sums['count'], 1.0)
    # Under jit the sums are over all devices, so this is the mean of the global batch.
    grads = jax.tree.map(lambda g: g / count, grads)
    norm = optax.tree.norm(grads)
    state, finite = _apply(tx, state, grads, norm)
    if state.reference is not None:
      state = state.replace(reference=comparison.after(
          state.step, state.params, state.reference))
    return state, sums | {
        'curriculum': strength, 'grad_norm': norm, 'finite': finite}

  return step


def _sum_over_parts(
    function: Callable[[Any], Any], batch: Any, parts: int
) -> Any:
  """Sum of `function` over parts of a batch, one after another in a scan."""
  if parts == 1:
    return function(batch)
  # Part i takes rows i, i + parts, ...: each device keeps its own rows. Contiguous
  # parts would move rows between devices.
  split = jax.tree.map(
      lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
  first = jax.tree.map(lambda x: x[0], split)
  # In the dtypes of `function`: the carry of a scan may not change type.
  zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))

  def add_part(total, part):
    return jax.tree.map(jnp.add, total, function(part)), None

  return jax.lax.scan(add_part, zeros, split)[0]


def make_eval_step(
    config: model.ModelConfig, *, name: str,
    mesh: jax.sharding.Mesh | None = None, **loss: Any
) -> Callable[[Any, batches.Batch], Metrics]:
  """Builds the pure function `step(params, batch) -> metric sums`.

  Args:
    config, name, mesh, **loss: as in `make_train_step`.

  Returns:
    step(params, batch), whose sums `add` adds up and `objectives.summarise` reads.
  """

  def step(params, batch):
    total, (count, sums) = loss_sums(
        params, config, batch, name, mesh=mesh, **loss)
    return {'loss': total, 'count': count, **sums}

  return step


def add(metrics: Iterable[Metrics]) -> dict[str, Any]:
  """Adds up the metrics of steps or batches, on the host in float64.

  Args:
    metrics: one dict of scalars per step or batch; at least one.

  Returns:
    Sum by name.

  Example:
    >>> {k: float(v) for k, v in add([{'nll': 1.0}, {'nll': 0.5}]).items()}
    {'nll': 1.5}
  """
  # One transfer for all: fetching each scalar would sync with the device each time.
  fetched = jax.device_get(list(metrics))
  return jax.tree.map(lambda *x: sum(map(np.float64, x)), *fetched)


def check_finite(metrics: Iterable[Metrics], in_a_row: int, limit: int) -> int:
  """Counts the updates skipped in a row, up to and including these steps.

  Args:
    metrics: of the steps, in order; reads `finite`.
    in_a_row: the count before these steps.
    limit: the count that ends the run.

  Returns:
    The count after these steps.

  Raises:
    FloatingPointError: the count reached `limit`.
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
  """(state after the update, whether the update was applied)."""
  # One number for the whole tree: a NaN or inf anywhere makes the norm one.
  finite = jnp.isfinite(norm)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)

  def keep(new, old):
    # Decided on the device: the host need not wait for the norm.
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

  return state.replace(
      step=state.step + 1,
      params=keep(params, state.params),
      opt_state=keep(opt_state, state.opt_state),
      skipped=state.skipped + ~finite,
  ), finite
