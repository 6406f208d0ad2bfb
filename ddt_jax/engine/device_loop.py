"""The device's part of decoding: prefill, admission, and one loop over tokens.

A request occupies a slot from its first token to its last. Others wait in a
queue on the device, their prompts prefilled. A freed slot admits the next queued
request inside the loop, so one long answer does not stall the batch.

A request has one prompt or more, its *streams*, to which the same tokens are
appended. The streams of all slots are rows of one batch: a decode step is one
pass over the weights.

A slot's cache has P columns for the prompt, copied from the queue, and a ring of
R columns. All slots write the same ring column in a step, which is a slice
update instead of a scatter. Columns left by an earlier request are masked by
position.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import sharding
from ddt_jax.engine import loop_state
from ddt_jax.engine.loop_state import IDLE
from ddt_jax.engine.loop_state import Queue
from ddt_jax.engine.loop_state import Slots


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
  """Reads prompts and stores their keys and values in places of the queue.

  Args:
    params, config: the model.
    cache: of one stream of the queue, P columns; donated.
    tokens, positions: [n, T], T at most P; `model.PADDING` marks padding.
    places: [n]; a row whose place is beyond the queue is dropped.

  Returns:
    The updated cache.
  """
  n, time = tokens.shape
  _, new = model.forward(
      params, config, tokens, positions=positions,
      cache=model.init_cache(config, n, time, cache.k[0].dtype),
      return_hidden=True,
  )

  def put(old, new):
    within = tuple(map(slice, new.shape[1:]))
    return old.at[(places, *within)].set(new, mode='drop')

  unused = cache.positions.shape[1] - time
  rows = jnp.pad(positions, ((0, 0), (0, unused)), constant_values=model.PADDING)
  return model.Cache(
      *jax.tree.map(put, (cache.k, cache.v), (new.k, new.v)),
      cache.positions.at[places].set(rows, mode='drop'), cache.index,
  )


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
    rule: loop_state.SamplingRule,
    steps: int,
    tables: loop_state.StopTables,
    more: jax.Array,
    mesh: Mesh,
) -> tuple[Slots, Queue, jax.Array, jax.Array, jax.Array]:
  """Runs decode steps until the host is needed.

  Args:
    params, config: the model.
    slots, queue: donated.
    key: random key; with a request's name and a token's place in the response it
      determines the draw.
    rule: how tokens are chosen.
    steps: most steps.
    tables: what ends a response, or the hint's part in it.
    more: scalar bool, whether the host has further requests. If so, the loop
      ends as soon as a slot is idle and the queue empty.
    mesh: for decoding; all that the host reads is replicated over it.

  Returns:
    slots, queue, tokens [steps, S], their tickets [steps, S], and the number of
    steps done. Rows of later steps are 0.
  """

  def not_done(carry):
    slots, queue, _, _, step = carry
    idle, waiting = slots.requests.ticket == IDLE, queue.head < queue.size
    needs_host = more & ~waiting & jnp.any(idle)
    return (step < steps) & (waiting | ~jnp.all(idle)) & ~needs_host

  def may_admit(carry):
    slots, queue = carry
    idle = jnp.any(slots.requests.ticket == IDLE)
    return idle & (queue.head < queue.size)

  def advance(carry):
    slots, queue, tokens, tickets, step = carry
    # A loop: several slots may have become idle in the last step.
    slots, queue = jax.lax.while_loop(
        may_admit, lambda s: _admit(*s), (_unpacked(slots), queue)
    )
    new, token = _decode_step(
        params, config, slots, queue, key=key, rule=rule, tables=tables
    )
    tokens = tokens.at[step].set(token)
    tickets = tickets.at[step].set(slots.requests.ticket)
    return _packed(new), queue, tokens, tickets, step + 1

  log = jnp.zeros((steps, slots.count.shape[0]), jnp.int32)
  carry = (_packed(slots), queue, log, log, 0)
  slots, queue, *log = jax.lax.while_loop(not_done, advance, carry)
  slots = _unpacked(slots)

  def replicate(tree):
    # Every process reads these, so every process needs all of them.
    where = sharding.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, where), tree
    )

  return (
      slots.replace(requests=replicate(slots.requests)),
      queue.replace(head=replicate(queue.head), size=replicate(queue.size)),
      *replicate(log),
  )


def _decode_step(
    params: Any,
    config: model.ModelConfig,
    slots: Slots,
    queue: Queue,
    *,
    key: jax.Array,
    rule: loop_state.SamplingRule,
    tables: loop_state.StopTables,
) -> tuple[Slots, jax.Array]:
  """One token for every slot: (slots, tokens [S]). Idle slots compute too."""
  requests = slots.requests
  active = requests.ticket != IDLE
  # What an idle slot writes is padding, so no request will see it.
  # The prompt's last token was not prefilled: the first step (count 0) reads it.
  positions = requests.length - 1 + slots.count[:, None]
  positions = jnp.where(active[:, None], positions, model.PADDING)
  caches = tuple(
      new.replace(index=_ring_column(new, old, slots.step))
      for new, old in zip(slots.caches, queue.caches, strict=True)
  )
  hidden, caches = model.forward(
      params, config, slots.token.T.reshape(-1, 1),
      positions=positions.T.reshape(-1, 1), cache=caches, return_hidden=True,
  )
  logits = model.next_logits(params, hidden[:, 0])
  # From the request's name and count alone, so that no batch mate changes a draw.
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, requests.name)
  token = _choose(
      rule, logits.reshape(-1, len(slots.count), logits.shape[-1]), keys,
      slots.count, slots.splitter == tables.found,
  )
  count = slots.count + active
  ends = tables.eos[token]
  if not rule.first_may_end:
    ends &= count > 1
  ends |= count >= requests.limit
  return Slots(
      requests.replace(ticket=jnp.where(ends, IDLE, requests.ticket)),
      count, jnp.broadcast_to(token[:, None], slots.token.shape),
      tables.splitter[slots.splitter, token], caches, slots.step + 1,
  ), token


def _choose(
    rule: loop_state.SamplingRule,
    logits: jax.Array,
    keys: jax.Array,
    count: jax.Array,
    past_splitter: jax.Array,
) -> jax.Array:
  """Tokens [S] from logits [streams, S, V]."""
  if rule.combine is None:
    logits, = logits
  else:
    logits = rule.combine(logits, count, past_splitter)
  # Argmax of logits, not of probabilities, where rounding would add ties.
  if rule.greedy:
    return jnp.argmax(logits, -1).astype(jnp.int32)
  p = sampling.distribution(
      logits, temperature=rule.temperature, top_p=rule.top_p, order=rule.order
  )
  return sampling.draw(jax.vmap(jax.random.fold_in)(keys, count), p)


# --- Admission.


def _admit(slots: Slots, queue: Queue) -> tuple[Slots, Queue]:
  """Moves the first request of the queue into the first idle slot."""
  # argmax of booleans is the first true one.
  slot, place = jnp.argmax(slots.requests.ticket == IDLE), queue.head

  def first(waiting):
    return jax.lax.dynamic_slice_in_dim(waiting, place, 1)

  def take(old, waiting):
    return _put_row(old, first(waiting), slot)

  def take_cache(old, waiting):
    ring = old.positions.shape[1] - waiting.positions.shape[1]
    # The ring's positions are reset, which masks the last request's tokens.
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


def _put_row(old: jax.Array, new: jax.Array, row: jax.Array) -> jax.Array:
  """Writes new [1, ...] over the beginning of a row of old."""
  return jax.lax.dynamic_update_slice(old, new, (row,) + (0,) * (old.ndim - 1))


def _ring_column(slots: model.Cache, queue: model.Cache, step: jax.Array):
  """Column that all slots write in a step; the ring follows the prompt's P."""
  width = queue.positions.shape[1]
  return width + step % (slots.positions.shape[1] - width)


# --- Form of the loop's carry.


def _packed(slots: Slots) -> Slots:
  """Loop-carry form: with one slot, keys and values without the slot axis.

  XLA:CPU would copy caches of a single row at every step.
  """
  return _each_cache(slots, lambda x: x[0])


def _unpacked(slots: Slots) -> Slots:
  """Inverse of `_packed`."""
  return _each_cache(slots, lambda x: x[None])


def _each_cache(slots: Slots, change) -> Slots:
  if len(slots.count) > 1:
    return slots
  return slots.replace(caches=tuple(
      c.replace(k=jax.tree.map(change, c.k), v=jax.tree.map(change, c.v))
      for c in slots.caches
  ))
