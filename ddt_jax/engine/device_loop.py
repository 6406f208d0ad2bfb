"""The device's part of decoding: prefill, admission, and one loop over tokens.

A request occupies a slot from its first token to its last. Others wait in a
queue on the device, their prompts prefilled. A freed slot admits the next queued
request inside the loop, so one long answer does not stall the batch.

A request has one or more *streams*. Each stream has a prompt of its own, and the
same new tokens are appended to all. The streams of all slots are rows of one
batch, so a decode step is one pass over the weights.

A slot's cache has P columns for the prompt, copied from the queue, and a ring of
R columns for new tokens. All slots write the same ring column in a step: a slice
update, which is cheaper than a scatter. Columns of an earlier request are masked
by their positions.
"""

from collections.abc import Callable
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
    tokens: [n, T], T at most P.
    positions: [n, T]; `model.PADDING` marks padding.
    places: [n]; a row whose place is beyond the queue is dropped.

  Returns:
    The updated cache.
  """
  # A fresh cache of exactly T columns: the prompt fills it, so long prompts are read
  # in blocks, see `layers.attend_cached`.
  n, time = tokens.shape
  _, new = model.forward(
      params, config, tokens, positions=positions,
      cache=model.init_cache(config, n, time, cache.k[0].dtype),
      return_hidden=True,  # logits would cost the vocabulary head
  )

  def put(old, new):
    # Columns from T to P keep old values, which padding positions mask.
    # A scatter by place, not a slice: the rows of a batch go to places apart.
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
    most: jax.Array,
    tables: loop_state.StopTables,
    host_has_more: jax.Array,
    mesh: Mesh,
) -> tuple[Slots, Queue, jax.Array, jax.Array, jax.Array | None, jax.Array]:
  """Runs decode steps until the host is needed.

  Args:
    params, config: the model.
    slots, queue: donated.
    key: random key. A draw's randomness comes from it, the request id and the
      token's place in the response alone.
    rule: see `loop_state.SamplingRule`.
    steps: most steps of any call: the size of the buffers for tokens.
    most: scalar, most steps of this call.
    tables: see `loop_state.StopTables`.
    host_has_more: scalar bool, whether the host has further requests. If so, the
      loop ends as soon as a slot is idle and the queue is empty.
    mesh: for decoding. Arrays that the host reads are replicated over it.

  Returns:
    (slots, queue, tokens [steps, S], tickets [steps, S], log_probs, number of
    steps done). tickets has the request of each token; log_probs [steps, S, 2] its
    log m and log q, or None, see `_log_probs`. Rows of steps that were not done
    are 0.
  """

  def not_done(carry):
    slots, queue, *_, step = carry
    idle, waiting = slots.requests.ticket == IDLE, queue.head < queue.size
    # Otherwise the slot would stay idle up to the last of `steps`.
    needs_host = host_has_more & ~waiting & jnp.any(idle)
    return (step < most) & (waiting | ~jnp.all(idle)) & ~needs_host

  def may_admit(carry):
    slots, queue = carry
    idle = jnp.any(slots.requests.ticket == IDLE)
    return idle & (queue.head < queue.size)

  def advance(carry):
    slots, queue, tokens, tickets, log_probs, step = carry
    # A loop: several slots may have become idle in the last step.
    slots, queue = jax.lax.while_loop(
        may_admit, lambda s: _admit(*s), (_unpacked(slots), queue)
    )
    new, token, log_prob = _decode_step(
        params, config, slots, queue, key=key, rule=rule, tables=tables
    )
    tokens = tokens.at[step].set(token)
    # Not `new`: there the slots of requests that end in this step are idle.
    tickets = tickets.at[step].set(slots.requests.ticket)
    if rule.log_probs:
      log_probs = log_probs.at[step].set(log_prob)
    return _packed(new), queue, tokens, tickets, log_probs, step + 1

  # [steps, S]: the host fetches all tokens of a call at once.
  unwritten = jnp.zeros((steps, slots.count.shape[0]), jnp.int32)
  log_probs = None
  if rule.log_probs:
    log_probs = jnp.zeros((*unwritten.shape, 2), jnp.float32)
  slots, queue, tokens, tickets, log_probs, steps_done = jax.lax.while_loop(
      not_done, advance,
      (_packed(slots), queue, unwritten, unwritten, log_probs, 0))
  slots = _unpacked(slots)

  def replicate(tree):
    # Every process reads these arrays, and can read only what its devices hold.
    where = sharding.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, where), tree
    )

  return (
      slots.replace(requests=replicate(slots.requests)),
      queue.replace(head=replicate(queue.head), size=replicate(queue.size)),
      *replicate((tokens, tickets, log_probs, steps_done)),
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
) -> tuple[Slots, jax.Array, jax.Array | None]:
  """Draws one token in every slot, idle ones too: (slots, tokens [S], log_probs)."""
  requests = slots.requests
  active = requests.ticket != IDLE
  # The input is at first the prompt's last token, which was not prefilled; then the
  # token drawn last.
  positions = requests.length - 1 + slots.count[:, None]
  # Attention masks padding, so no later request sees what an idle slot writes.
  positions = jnp.where(active[:, None], positions, model.PADDING)
  caches = tuple(
      cache.replace(index=_ring_column(cache, waiting, slots.step))
      for cache, waiting in zip(slots.caches, queue.caches, strict=True)
  )
  # Rows of the batch: all slots of the first stream, then all of the next.
  hidden, caches = model.forward(
      params, config, slots.token.T.reshape(-1, 1),
      positions=positions.T.reshape(-1, 1), cache=caches, return_hidden=True,
  )
  logits = model.next_logits(params, hidden[:, 0])
  # From the request's id and count alone, so that no batch mate changes a draw.
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, requests.request_id)
  token, log_probs = _choose(
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
      count=count,
      token=jnp.broadcast_to(token[:, None], slots.token.shape),
      splitter=tables.splitter[slots.splitter, token],
      caches=caches,
      step=slots.step + 1,
  ), token, log_probs


def _choose(
    rule: loop_state.SamplingRule,
    logits: jax.Array,
    keys: jax.Array,
    count: jax.Array,
    past_splitter: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
  """Tokens [S] from logits [streams, S, V], and their `_log_probs` if wanted."""
  if rule.combine is None:
    # [1, S, V]: one stream alone.
    mixed, = logits
  else:
    mixed = rule.combine(logits, count, past_splitter)
  # Argmax of logits, not of probabilities, where rounding would add ties.
  if rule.greedy:
    p, token = None, jnp.argmax(mixed, -1).astype(jnp.int32)
  else:
    p = sampling.distribution(
        mixed, temperature=rule.temperature, top_p=rule.top_p, order=rule.order
    )
    # The place in the response is folded in last: a key for each token of each
    # request.
    token = sampling.draw(jax.vmap(jax.random.fold_in)(keys, count), p)
  # The student is the last stream, and a stream alone is its own student.
  return token, _log_probs(p, logits[-1], token) if rule.log_probs else None


def _log_probs(
    p: jax.Array | None, student: jax.Array, token: jax.Array
) -> jax.Array:
  """log m and log q of drawn tokens, [S, 2] float32.

  Args:
    p: [S, V], the distribution that the tokens are drawn from, m; None: greedy, m
      is 1 at the token.
    student: [S, V], logits of the student stream, q at temperature 1.
    token: [S].
  """
  def of_token(x):
    return jnp.take_along_axis(x, token[:, None], -1)[:, 0]

  log_q = of_token(student) - jax.nn.logsumexp(student, -1)
  # A drawn token has p > 0, so its logarithm is finite.
  log_m = jnp.zeros_like(log_q) if p is None else jnp.log(of_token(p))
  return jnp.stack([log_m, log_q], -1).astype(jnp.float32)


# Admission -----------------------------------------------------------------------


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
    # Padding positions in the ring mask the tokens of the slot's last request.
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
      count=take(slots.count, queue.requests.begun),
      token=take(slots.token, queue.requests.last),
      splitter=take(slots.splitter, queue.requests.splitter),
      caches=tuple(map(take_cache, slots.caches, queue.caches)),
  ), queue.replace(head=place + 1)


def _put_row(old: jax.Array, new: jax.Array, row: jax.Array) -> jax.Array:
  """Writes new [1, ...] over the first elements of a row of old."""
  return jax.lax.dynamic_update_slice(old, new, (row,) + (0,) * (old.ndim - 1))


def _ring_column(
    cache: model.Cache, waiting: model.Cache, step: jax.Array
) -> jax.Array:
  """Column that all slots write in a step: one of the R after the prompt's P."""
  width = waiting.positions.shape[1]
  return width + step % (cache.positions.shape[1] - width)


# The loop's carry ----------------------------------------------------------------


def _packed(slots: Slots) -> Slots:
  """The slots as the loop carries them.

  One slot alone is carried without the slot axis of keys and values: XLA:CPU
  copies the whole cache at every step otherwise.
  """
  return _each_cache(slots, lambda x: x[0])


def _unpacked(slots: Slots) -> Slots:
  """The slots as every other function takes them; inverse of `_packed`."""
  return _each_cache(slots, lambda x: x[None])


def _each_cache(
    slots: Slots, change: Callable[[jax.Array], jax.Array]
) -> Slots:
  """Changes keys and values if there is only one slot."""
  if len(slots.count) > 1:
    return slots
  return slots.replace(caches=tuple(
      c.replace(k=jax.tree.map(change, c.k), v=jax.tree.map(change, c.v))
      for c in slots.caches
  ))
