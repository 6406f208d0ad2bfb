"""The device's part of decoding: slots, a queue, and one loop over tokens.

A request occupies a slot from its first token to its last. Others wait in a
queue on the device with their prompts already read; a slot that falls free takes
the next of them inside the loop, so that a long answer holds up nobody.

A request has one prompt or more, its *streams*, to which the same tokens are
appended. All streams of all slots are rows of one batch: one pass over the
weights a token.

Keys and values of a slot are P columns for the prompt, copied from the queue,
and a ring of R columns that all slots write at the same place: a slice instead
of a scatter. What a request has not written itself is masked by its position.
"""

import functools
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ddt_jax import model
from ddt_jax import sampling

_static = functools.partial(struct.field, pytree_node=False)

IDLE = -1  # the ticket of a slot without a request
PREFILL_TOKENS = 2048  # read at once, so that the weights are read rarely


class Combine(Protocol):
  """One next-token distribution out of the streams'; a pytree."""

  def __call__(
      self, logits: jax.Array, count: jax.Array, past_splitter: jax.Array
  ) -> jax.Array:
    """logits [streams, S, V], tokens so far [S], bool [S] -> log m [S, V].

    Up to a constant a row: a softmax follows.
    """


@struct.dataclass
class Rule:
  """How a token is chosen; a pytree of `combine`, all else being static.

  Attributes:
    temperature, top_p, order: see `sampling.distribution`.
    greedy: the likeliest token instead of a draw.
    combine: of several streams; None: there is one.
    first_may_end: whether an EOS as the first token ends the response.
  """

  temperature: float = _static(default=1.0)
  top_p: float = _static(default=1.0)
  order: str = _static(default='top_p_first')
  greedy: bool = _static(default=False)
  combine: Combine | None = None
  first_may_end: bool = _static(default=True)


@struct.dataclass
class Marks:
  """Tokens that mean something.

  Attributes:
    eos: [V], true where a token ends the response.
    splitter: [states, V], see `stopping.splitter_automaton`.
    found: scalar, the state in which the splitter has been found.
  """

  eos: Any
  splitter: Any
  found: Any


@struct.dataclass
class Requests:
  """What tells requests apart; n of them, in slots or in the queue.

  Attributes:
    ticket: [n], place in the caller's list, or IDLE.
    name: [n], of the random stream.
    limit: [n], tokens it may have.
    length: [n, streams], tokens of its prompts.
    last: [n, streams], last tokens of its prompts.
  """

  ticket: Any
  name: Any
  limit: Any
  length: Any
  last: Any


@struct.dataclass
class Slots:
  """Requests in progress.

  Attributes:
    requests: of S slots.
    count: [S], tokens drawn.
    token: [S, streams], to be read next.
    splitter: [S], state of the splitter's automaton.
    caches: of each stream, [S, ..., P + R columns, ...].
    step: scalar, steps taken; the ring is written at step % R.
  """

  requests: Requests
  count: jax.Array
  token: jax.Array
  splitter: jax.Array
  caches: tuple[model.Cache, ...]
  step: jax.Array


@struct.dataclass
class Queue:
  """Requests in waiting, their prompts read but for the last token.

  Attributes:
    requests: of Q places.
    caches: of each stream, [Q, ..., P columns, ...].
    head: scalar, the next to be taken.
    size: scalar, how many places are filled.
  """

  requests: Requests
  caches: tuple[model.Cache, ...]
  head: Any
  size: Any


def empty(
    config: model.ModelConfig,
    widths: tuple[int, ...],
    *,
    slots: int,
    queue: int,
    ring: int,
    dtype: Any = None,
) -> tuple[Slots, Queue]:
  """Idle slots and an empty queue; `widths`: P of each stream."""

  def requests(n):
    one, each = jnp.zeros(n, jnp.int32), jnp.zeros((n, len(widths)), jnp.int32)
    return Requests(one + IDLE, one, one, each, each)

  def caches(n, columns):
    return tuple(
        model.init_cache(config, n, width + columns, dtype) for width in widths
    )

  zero, none = jnp.zeros((), jnp.int32), jnp.zeros(slots, jnp.int32)
  waiting = Queue(requests(queue), caches(queue, 0), zero, zero)
  return Slots(
      requests(slots), none, jnp.zeros((slots, len(widths)), jnp.int32), none,
      caches(slots, ring), zero,
  ), waiting


def shardings(made: tuple[Slots, Queue], mesh: Mesh) -> tuple[Slots, Queue]:
  """Where they lie: slots over data and fsdp, heads over tensor.

  What waits is on every device that may take it.
  """

  def used(*axes):
    # As the compiler would say it, or what comes back would be compiled again.
    axes = tuple(a for a in axes if mesh.shape[a] > 1)
    return axes if len(axes) > 1 else axes[0] if axes else None

  def where(rows):
    def leaf(x):
      if x.ndim < 4:
        return NamedSharding(mesh, P())
      # Keys and values, [n, K, ...].
      tensor = None if x.shape[1] % mesh.shape['tensor'] else used('tensor')
      spec = (rows, tensor) if tensor else (rows,) if rows else ()
      return NamedSharding(mesh, P(*spec))

    return leaf

  slots, queue = made
  return (
      jax.tree.map(where(used('data', 'fsdp')), slots),
      jax.tree.map(where(None), queue),
  )


@functools.partial(
    jax.jit, static_argnames='config', donate_argnames='cache'
)
def prefill(
    params: Any,
    config: model.ModelConfig,
    cache: model.Cache,
    tokens: jax.Array,
    positions: jax.Array,
    places: jax.Array,
) -> model.Cache:
  """Reads prompts into places of a stream's queue.

  Args:
    params, config: the model.
    cache: of the queue, P columns.
    tokens, positions: [n, bucket], at most P.
    places: [n]; a row whose place is beyond the queue is dropped.
  """
  n, bucket = tokens.shape
  _, new = model.forward(
      params, config, tokens, positions=positions,
      cache=model.init_cache(config, n, bucket, cache.k[0].dtype),
      return_hidden=True,
  )

  def put(old, new):
    within = tuple(map(slice, new.shape[1:]))
    return old.at[(places, *within)].set(new, mode='drop')

  unused = cache.positions.shape[1] - bucket
  rows = jnp.pad(positions, ((0, 0), (0, unused)), constant_values=model.PADDING)
  return model.Cache(
      *jax.tree.map(put, (cache.k, cache.v), (new.k, new.v)),
      cache.positions.at[places].set(rows, mode='drop'), cache.index,
  )


def _put_row(old: jax.Array, new: jax.Array, row: jax.Array) -> jax.Array:
  """new [1, ...] over the beginning of a row of old."""
  return jax.lax.dynamic_update_slice(old, new, (row,) + (0,) * (old.ndim - 1))


def _admit(slots: Slots, queue: Queue) -> tuple[Slots, Queue]:
  """The first in the queue takes the first idle slot."""
  slot, place = jnp.argmax(slots.requests.ticket == IDLE), queue.head

  def first(waiting):
    return jax.lax.dynamic_slice_in_dim(waiting, place, 1)

  def take(old, waiting):
    return _put_row(old, first(waiting), slot)

  def take_cache(old, waiting):
    ring = old.positions.shape[1] - waiting.positions.shape[1]
    seen = jnp.pad(
        first(waiting.positions), ((0, 0), (0, ring)),
        constant_values=model.PADDING,
    )
    return model.Cache(
        *jax.tree.map(take, (old.k, old.v), (waiting.k, waiting.v)),
        _put_row(old.positions, seen, slot), old.index,
    )

  return slots.replace(
      requests=jax.tree.map(take, slots.requests, queue.requests),
      count=slots.count.at[slot].set(0),
      token=take(slots.token, queue.requests.last),
      splitter=slots.splitter.at[slot].set(0),
      caches=tuple(map(take_cache, slots.caches, queue.caches)),
  ), queue.replace(head=place + 1)


def _choose(rule: Rule, logits, keys, count, past_splitter) -> jax.Array:
  """Tokens [S] out of logits [streams, S, V]."""
  if rule.combine is None:
    logits, = logits
  else:
    logits = rule.combine(logits, count, past_splitter)
  if rule.greedy:
    return jnp.argmax(logits, -1).astype(jnp.int32)
  p = sampling.distribution(
      logits, temperature=rule.temperature, top_p=rule.top_p, order=rule.order
  )
  return sampling.draw(jax.vmap(jax.random.fold_in)(keys, count), p)


@functools.partial(
    jax.jit, static_argnames=('config', 'steps', 'mesh'),
    donate_argnames=('slots', 'queue'),
)
def decode(
    params: Any,
    config: model.ModelConfig,
    slots: Slots,
    queue: Queue,
    *,
    key: jax.Array,
    rule: Rule,
    steps: int,
    marks: Marks,
    more: jax.Array,
    mesh: Mesh,
) -> tuple[Slots, Queue, jax.Array, jax.Array, jax.Array]:
  """Draws tokens until the host is needed.

  Args:
    params, config: the model.
    slots, queue: donated.
    key: with a request's name and the place of a token it fixes the draw.
    rule: how tokens are chosen.
    steps: at most so many.
    marks: what ends a response, or the hint's part in it.
    more: whether the host has further requests; then the loop ends as soon as
      a slot is idle and the queue empty.
    mesh: every process of it gets all that the host looks at.

  Returns:
    slots, queue, tokens [steps, S], the tickets they belong to [steps, S], and
    how many of these steps were taken.
  """
  n = slots.count.shape[0]

  def going_on(state):
    slots, queue, _, _, step = state
    idle, waiting = slots.requests.ticket == IDLE, queue.head < queue.size
    stuck = more & ~waiting & jnp.any(idle)
    return (step < steps) & (waiting | ~jnp.all(idle)) & ~stuck

  def may_admit(state):
    slots, queue = state
    idle = jnp.any(slots.requests.ticket == IDLE)
    return idle & (queue.head < queue.size)

  def advance(state):
    slots, queue, tokens, tickets, step = state
    slots, queue = jax.lax.while_loop(
        may_admit, lambda s: _admit(*s), (_unpacked(slots), queue)
    )
    requests = slots.requests
    active = requests.ticket != IDLE
    positions = requests.length - 1 + slots.count[:, None]
    positions = jnp.where(active[:, None], positions, model.PADDING)
    caches = tuple(
        new.replace(index=_ring_index(new, old, slots.step))
        for new, old in zip(slots.caches, queue.caches, strict=True)
    )
    hidden, caches = model.forward(
        params, config, slots.token.T.reshape(-1, 1),
        positions=positions.T.reshape(-1, 1), cache=caches, return_hidden=True,
    )
    logits = model.next_logits(params, hidden[:, 0])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, requests.name)
    token = _choose(
        rule, logits.reshape(-1, n, logits.shape[-1]), keys, slots.count,
        slots.splitter == marks.found,
    )
    count = slots.count + active
    ends = marks.eos[token]
    if not rule.first_may_end:
      ends &= count > 1
    ends |= count >= requests.limit
    tokens = tokens.at[step].set(token)
    tickets = tickets.at[step].set(requests.ticket)
    slots = Slots(
        requests.replace(ticket=jnp.where(ends, IDLE, requests.ticket)),
        count, jnp.broadcast_to(token[:, None], slots.token.shape),
        marks.splitter[slots.splitter, token], caches, slots.step + 1,
    )
    return _packed(slots), queue, tokens, tickets, step + 1

  log = jnp.zeros((steps, n), jnp.int32)
  state = (_packed(slots), queue, log, log, 0)
  slots, queue, *log = jax.lax.while_loop(going_on, advance, state)
  slots = _unpacked(slots)

  def everywhere(tree):
    where = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, where), tree
    )

  return (
      slots.replace(requests=everywhere(slots.requests)),
      queue.replace(head=everywhere(queue.head), size=everywhere(queue.size)),
      *everywhere(log),
  )


def _packed(slots: Slots) -> Slots:
  """As the loop carries them: of one slot, caches without the axis of slots.

  XLA on CPU would copy caches of a single row at every step.
  """
  return _each_cache(slots, lambda x: x[0])


def _unpacked(slots: Slots) -> Slots:
  return _each_cache(slots, lambda x: x[None])


def _each_cache(slots: Slots, change) -> Slots:
  if len(slots.count) > 1:
    return slots
  return slots.replace(caches=tuple(
      c.replace(k=jax.tree.map(change, c.k), v=jax.tree.map(change, c.v))
      for c in slots.caches
  ))


def _ring_index(slots: model.Cache, queue: model.Cache, step: jax.Array):
  """Where all slots write: behind the columns that the queue has."""
  width = queue.positions.shape[1]
  return width + step % (slots.positions.shape[1] - width)
