"""Compiles the programs of a config for devices that this machine need not have.

All arguments are abstract: shapes, dtypes and shardings.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import hinted_decode
from ddt_jax import lora
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import sharding
from ddt_jax import vocab_head
from ddt_jax.data import batches
from ddt_jax.data import pair_batches
from ddt_jax.data import two_contexts
from ddt_jax.engine import device_loop
from ddt_jax.engine import loop_state
from ddt_jax.scoring import forward
from ddt_jax.training import distill
from ddt_jax.training import optimizer
from ddt_jax.training import pair_loss
from ddt_jax.training import reference
from ddt_jax.training import train_step
from ddt_jax.vocab_head import teacher_tiles
from ddt_jax.vocab_head import tiles
from experiments.run import checks
from experiments.run import measure
from experiments.run import steps
from experiments.tpu import hlo

_STEPS = 1000  # length of schedule and curriculum; the compiled code is the same
_SMALL = 128  # tokens of a small tile


class Part(NamedTuple):
  """A compiled program.

  Attributes:
    name: heading of its figures.
    compiled: the `jax.stages.Compiled`.
    arguments: abstract arguments by category of memory.
    unknown_trips: trips that a loop is counted with if they depend on data.
  """

  name: str
  compiled: Any
  arguments: dict[str, Any]
  unknown_trips: int = 1


def _placed(tree: Any, where: Any) -> Any:
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)


def _compiled(on, f: Callable[..., Any], *args: Any, **options: Any) -> Any:
  with jax.set_mesh(on):
    return f.trace(*args, **options).lower(lowering_platforms=('tpu',)).compile()


def _params(config: model.ModelConfig, mesh) -> Any:
  params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  return _placed(params, sharding.tree_shardings(params, mesh))


def _trained(c, mesh, config: model.ModelConfig) -> tuple[Any, Any]:
  """(what is trained, the frozen base or None), as `experiments.train` holds them."""
  params = _params(config, mesh)
  if not c.lora.rank:
    return params, None
  options = {k: v for k, v in c.lora.items() if k != 'path'}
  adapters = jax.eval_shape(
      lambda: lora.init(config, jax.random.key(0), **options))
  return tuple(
      _placed(x, sharding.tree_shardings(x, mesh))
      for x in (adapters, _cast(params, config.dtype)))


def _applied(c, mesh, config: model.ModelConfig) -> Any:
  """Parameters for `model.forward`."""
  params = jax.eval_shape(lora.applied, *_trained(c, mesh, config))
  return _placed(params, sharding.tree_shardings(params, mesh))


def _cast(params: Any, dtype: Any) -> Any:
  return jax.eval_shape(lambda p: jax.tree.map(lambda x: x.astype(dtype), p), params)


def _batch(c, mesh) -> batches.Batch:
  shape = c.train.batch, c.data.max_tokens
  return batches.Batch(*(
      jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))
      for dtype in (jnp.int32, jnp.int32, jnp.float32, jnp.int32)
  ))


def _tiles(rows: int, c, mesh, *, scored: bool = False) -> int:
  """Number of tiles of a chip's tokens, if all of them are supervised.

  The loop over tiles skips padding, so its trips depend on the data.

  Args:
    rows: rows of the global batch.
    scored: without a gradient, few tokens are cut into smaller tiles.
  """
  tokens = _tokens(rows, c, mesh)
  small = scored and tokens <= tiles.TILE
  return -(-tokens // (tiles.REMAINDER_TILE if small else tiles.TILE))


def _micro_batch(c) -> int:
  """Rows of a micro-batch of the global batch."""
  sides = 2 if c.loss.name in pair_loss.NAMES else 1
  return sides * c.train.batch // c.train.micro_batches


def _tokens(rows: int, c, mesh) -> int:
  """Tokens of a chip, of `rows` rows of the global batch."""
  return rows * c.data.max_tokens // (mesh.shape['data'] * mesh.shape['fsdp'])


def head(c, mesh, config: model.ModelConfig) -> Iterator[Part]:
  """Loss and gradients by hidden states and head: our two ways, and logits held."""
  micro_batch = _micro_batch(c)
  # Pairs, and weights that read another model's log p, cost the head what sft does.
  loss = measure.measured_loss(c)
  top_k = objectives.needs(**loss).get('top_k', 0)
  # The weights do not depend on what the sum is divided by.
  weighting = {k: v for k, v in loss.items() if k != 'denominator'}

  def in_tiles(hidden, head, targets, mask):
    return vocab_head.weighted_nll(
        hidden, head, targets, mask, objectives.constant_weights(**weighting),
        mesh=mesh,
    )[0]

  def by(statistics):
    def total(hidden, head, targets, mask):
      stats = statistics(hidden, head, targets)
      return objectives.token_loss(stats=stats, mask=mask, **loss)[0]
    return total

  ways = {
      'tiles of tokens': in_tiles,
      'streamed': by(lambda *x: vocab_head.token_stats(
          *x, mesh=mesh, top_k=top_k)),
      'logits held': by(lambda hidden, head, targets: ddt.token_stats(
          model.logits({'head': {'kernel': head}}, hidden), targets, top_k=top_k)),
  }
  if mesh.shape['tensor'] > 1:
    del ways['tiles of tokens']  # every chip would need the whole head
  args = _head_arguments(c, mesh, config)
  for way, f in ways.items():
    yield Part(
        f'head, {way}', _compiled(mesh, _head_gradient(f, args), *args),
        {'head': args[1], 'hidden states': [args[0], *args[2:]]},
        _tiles(micro_batch, c, mesh))


def _head_arguments(c, mesh, config) -> list[jax.ShapeDtypeStruct]:
  """Hidden states, head, targets and mask of a micro-batch."""
  shape = _micro_batch(c), c.data.max_tokens
  rows = sharding.batch_sharding(mesh)
  table = jax.sharding.NamedSharding(mesh, sharding.spec(
      'head/kernel', (config.vocab_size, config.width), mesh))
  made = [
      ((*shape, config.width), config.dtype, rows),
      ((config.vocab_size, config.width), config.dtype, table),
      (shape, jnp.int32, rows), (shape, jnp.float32, rows),
  ]
  return [jax.ShapeDtypeStruct(s, d, sharding=w) for s, d, w in made]


def _head_gradient(f, args) -> Callable[..., Any]:
  """f and its gradients by hidden states and head, which stay where those are."""
  hidden, head = args[0].sharding, args[1].sharding
  return jax.jit(
      jax.value_and_grad(f, (0, 1)),
      out_shardings=(sharding.replicated(hidden.mesh), (hidden, head)))


def divergence(c, mesh, config: model.ModelConfig) -> Iterator[Part]:
  """Forward KL from a teacher of the same shape, and gradients: our ways."""
  hidden, head, _, mask = _head_arguments(c, mesh, config)
  args = hidden, head, hidden, head, mask
  ways = {
      'tiles of tokens': (teacher_tiles.TILE, {}),
      # Less memory, and the gradient of the head is read and written more often.
      f'tiles of {_SMALL} tokens': (_SMALL, dict(chunk=_SMALL)),
      'streamed': (teacher_tiles.TILE, dict(stream=True))}
  if mesh.shape['tensor'] > 1:
    ways = {'streamed': ways['streamed']}  # every chip would need the whole head
  for way, (tile, how) in ways.items():
    def loss(*arrays, how=how):
      return vocab_head.divergence(*arrays, **how, mesh=mesh)[0]

    yield Part(
        f'divergence, {way}', _compiled(mesh, _head_gradient(loss, args), *args),
        {'heads': [head, head], 'hidden states': [hidden, hidden, mask]},
        -(-_tokens(_micro_batch(c), c, mesh) // tile))


def train(c, mesh, config: model.ModelConfig) -> Iterator[Part]:
  """One step of the optimizer, as `experiments.train` jits it."""
  _, tx = optimizer.make(total_steps=_STEPS, **c.optim)
  rule, read = reference.Reference(**c.reference), steps.reads_reference(c)
  trained, base = _trained(c, mesh, config)
  state = jax.eval_shape(
      lambda p: train_step.TrainState.create(p, tx, rule.start(p) if read else None),
      trained)
  where = sharding.tree_shardings(state, mesh)
  state, batch = _placed(state, where), _batch(c, mesh)
  if c.loss.name == distill.NAME:
    batch = _two_contexts(c, mesh)
  elif c.loss.name in pair_loss.NAMES:
    batch = pair_batches.abstract(
        c.train.batch, c.data.max_tokens, sharding.batch_sharding(mesh))
  step = jax.jit(
      steps.pure_step(c, config, tx, mesh, total_steps=_STEPS),
      donate_argnums=0,
      in_shardings=(
          where, sharding.batch_sharding(mesh), None,
          sharding.tree_shardings(base, mesh)),
      out_shardings=(where, sharding.replicated(mesh)),
  )
  yield Part(
      'training step', _compiled(mesh, step, state, batch, None, base),
      ({} if base is None else {'frozen base': base}) | {
          'parameters': state.params, 'moments': state.opt_state,
          'reference': state.reference, 'batch': batch},
      _tiles(_micro_batch(c), c, mesh))


def _two_contexts(c, mesh) -> two_contexts.TwoContexts:
  """A batch of distillation; the teacher's rows are twice as long as the student's."""
  if c.distill.teacher:
    raise errors.InputError(
        f'distill.teacher={c.distill.teacher}: only a model that is its own teacher'
        ' is compiled here')
  return two_contexts.abstract(
      two_contexts.Shape(
          c.train.batch, c.data.max_tokens, 2 * c.data.max_tokens,
          c.curate.max_new_tokens),
      sharding.batch_sharding(mesh))


def scorer(c, mesh, config: model.ModelConfig) -> Iterator[Part]:
  """Token statistics of a batch, with the parameters sharded as in training."""
  params, batch = _applied(c, mesh, config), _batch(c, mesh)
  compiled = _compiled(mesh, forward.batch_stats, params, config, mesh, batch)
  yield Part(
      'scorer', compiled, {'parameters': params, 'batch': batch},
      _tiles(c.train.batch, c, mesh, scored=True))


def decode(c, mesh, config: model.ModelConfig, context: int) -> Iterator[Part]:
  """One decode step of all slots; `context`: most tokens of a stream."""
  mesh = sharding.decoding_mesh(mesh, c.decoding.tensor)
  slots, ring = c.decoding.slots, c.curate.max_new_tokens
  if context <= ring:
    raise errors.InputError(
        f'--context={context} has no room for a prompt before'
        f' curate.max_new_tokens={ring}: raise it')
  params = _cast(
      jax.eval_shape(model.unstacked, _applied(c, mesh, config)), config.dtype)
  params = _placed(params, sharding.tree_shardings(params, mesh))
  made = jax.eval_shape(lambda: loop_state.empty(
      config, (context - ring,) * (2 if c.hint.enabled else 1), slots=slots,
      queue=max(1, min(4 * slots, -(-256 * slots // ring))), ring=ring,
      dtype=checks.cache_dtype(c.decoding.cache_dtype),
  ))
  state, queue = _placed(made, loop_state.shardings(made, mesh))

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.replicated(mesh))

  tables = loop_state.StopTables(
      array((config.vocab_size,), bool),
      array((16, config.vocab_size), jnp.int32), array((), jnp.int32))
  if c.hint.enabled:
    rule = loop_state.SamplingRule(
        c.hint.temperature, c.hint.top_p, first_may_end=False,
        combine=hinted_decode.Mixture(beta=c.hint.beta, schedule=c.hint.schedule))
  else:
    rule = loop_state.SamplingRule(c.curate.temperature, c.curate.top_p)
  compiled = _compiled(
      mesh, device_loop.decode, params, config, state, queue, rule=rule, steps=128,
      most=array((), jnp.int32), tables=tables,
      key=jax.eval_shape(lambda: jax.random.key(0)),
      host_has_more=array((), bool), mesh=mesh)
  yield Part(
      f'decoding, {slots} slots of {context} tokens, tensor={c.decoding.tensor}',
      compiled, {'parameters': params, 'caches': (state, queue)})


class Resharding(NamedTuple):
  """Cost of moving parameters to another mesh of the same chips, for one chip.

  Attributes:
    received: most bytes that the chip receives.
    beside: temporary bytes beside the parameters in the old and the new layout.
    collectives: kinds of collectives.
  """

  received: int
  beside: int
  collectives: list[str]


def resharding(training, decoding, config: model.ModelConfig) -> Resharding:
  """Cost of moving parameters from training's layout to decoding's."""
  halfway = sharding.halfway(decoding)
  params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  kinds, received, beside, done = set(), 0, 0, {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    name = sharding.path_name(path)
    at = [
        jax.sharding.NamedSharding(mesh, sharding.spec(name, x.shape, mesh))
        for mesh in (training, halfway, decoding)
    ]
    kind = x.shape, *(where.spec for where in at)
    if kind not in done:
      spent = 0
      for source, target in zip(at, at[1:], strict=False):
        compiled = jax.jit(lambda x: x, out_shardings=target).lower(
            jax.ShapeDtypeStruct(x.shape, config.dtype, sharding=source)
        ).compile()
        memory = compiled.memory_analysis()
        beside = max(beside, memory.temp_size_in_bytes)
        if found := hlo.cost(compiled.as_text()).collectives:
          kinds.update(kind for kind, _ in found)
          spent += memory.output_size_in_bytes
      done[kind] = spent
    received += done[kind]
  return Resharding(received, beside, sorted(kinds))
