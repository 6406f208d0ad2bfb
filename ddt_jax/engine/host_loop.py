"""The host's part of decoding: fills the device's queue and collects the tokens.

Between two host syncs the device decodes without the host, see `device_loop`.
"""

from collections.abc import Callable, Sequence
import functools
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np
import tqdm

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.engine import cache_plan
from ddt_jax.engine import decode_options
from ddt_jax.engine import device_loop
from ddt_jax.engine import ledger
from ddt_jax.engine import loop_state
from ddt_jax.engine import request

# Most decode steps between two host syncs. More would find repetitions and report
# results later; fewer would stall the device more often.
STEPS_PER_SYNC = 128
# Tokens per prefill. Each prefill reads all weights, so few tokens would waste it.
_PREFILL_TOKENS = 2048


class HostSync(NamedTuple):
  """Work between two host syncs: a prefill of the queue, if empty, then steps.

  Attributes:
    steps: decode steps, each one pass over the weights for all slots.
    tokens: drawn in these steps; steps * slots if no slot was idle.
    decode_s: seconds for the steps, wall time.
    prompt_tokens: tokens prefilled, without padding.
    prefill_s: seconds for the prefill, wall time.
  """

  steps: int
  tokens: int
  decode_s: float
  prompt_tokens: int
  prefill_s: float


def generate(
    params: Any,
    config: model.ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    key: jax.Array,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    greedy: bool = False,
    order: str = 'top_p_first',
    eos_ids: Sequence[int],
    slots: int | None = None,
    repetition: tuple[int, int, int] | None = None,
    official_window: bool = False,
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
    on_result: Callable[[int, ledger.Generated], None] | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> list[ledger.Generated]:
  """Samples a continuation of each prompt.

  The randomness of a token comes from the key, the request id and the token's
  place in the response alone. The same call gives the same texts. Other requests
  in the batch, or another number of slots, change a text only where rounding
  decides between two tokens. That is rare in float32: a test of 10,000 requests,
  7 slots against 64, allows 1 in 200. In bfloat16 logits often tie, so another
  number of slots gives other texts, drawn from the same distribution.

  Args:
    params, config: the model. Decoding holds a second copy of the layers.
    prompts: token ids, each non-empty.
    key: random key.
    max_new_tokens: most tokens of any response.
    max_tokens: most tokens of each response, if lower.
    request_ids: seed the draws of each request; non-negative int32, all
      different; default 0, 1, ...
    on_result: called with (index in `prompts`, result) when a request finishes.
    temperature, top_p, greedy, order, eos_ids, slots, repetition,
      official_window, cache_dtype, mesh, progress: see `DecodeOptions`.

  Returns:
    Generated, in the order of `prompts`.

  Raises:
    InputError: naming the option or the request that is invalid.
  """
  options = decode_options.DecodeOptions(
      eos_ids=tuple(eos_ids), temperature=temperature, top_p=top_p,
      greedy=greedy, order=order, repetition=repetition,
      official_window=official_window, slots=slots, cache_dtype=cache_dtype,
      mesh=mesh, progress=progress,
  )
  requests = request.make_requests(
      [(p,) for p in prompts], max_new_tokens, max_tokens, request_ids
  )
  return run(params, config, requests, options, key=key, on_result=on_result)


def check(
    config: model.ModelConfig,
    requests: Sequence[request.Request],
    options: decode_options.DecodeOptions,
) -> None:
  """Raises InputError, naming an option or a request that is invalid.

  `run` checks the same. It can check the size of the cache only later, when the
  parameters are in place and the free memory is known.
  """
  options.check(config)
  request.check(config, requests)


def run(
    params: Any,
    config: model.ModelConfig,
    requests: Sequence[request.Request],
    options: decode_options.DecodeOptions,
    *,
    key: jax.Array,
    on_result: Callable[[int, ledger.Generated], None] | None = None,
    on_sync: Callable[[HostSync], None] | None = None,
) -> list[ledger.Generated]:
  """Serves requests of one or more streams.

  Args:
    params, config: the model.
    requests: all with the same number of streams.
    options: the same for all requests.
    key, on_result: see `generate`.
    on_sync: called after every host sync. If given, the host also waits for each
      prefill, which separates the two timings.

  Returns:
    Generated, in the order of `requests`.

  Raises:
    InputError: naming the option or the request that is invalid; the cache does
      not fit the free memory; or the parameters are on several devices and
      options.mesh is None.
  """
  check(config, requests, options)
  book = ledger.Ledger(requests, options, on_result)
  if not book.unfinished:
    return book.results
  params, mesh = _placed(params, config, options.mesh)
  dtype = options.resolved_cache_dtype(config)
  # Free memory is known only now that the parameters are in place.
  sizes = cache_plan.plan(
      config, requests, slots=options.slots, dtype=dtype, mesh=mesh)
  if options.progress:
    print(sizes, flush=True)
  make_empty = _compiled_empty(config, sizes, dtype, mesh)
  slots, queue = make_empty()
  tables = jax.device_put(
      options.stop_tables(config.vocab_size), sharding.replicated(mesh))
  rule = options.rule()
  queued = 0
  with tqdm.tqdm(
      total=book.unfinished, desc='decode', disable=not options.progress
  ) as bar:
    while book.unfinished:
      began, prompt_tokens = time.perf_counter(), 0
      # Only an empty queue is refilled: many prompts share a prefill then.
      if not queued and (taken := book.take_next(sizes.queue)):
        queue = _refill(params, config, queue, requests, taken)
        prompt_tokens = sum(
            len(p) - 1 for i in taken for p in requests[i].prompts)
        # Else the device would prefill within the time that is booked on decoding.
        if on_sync is not None:
          jax.block_until_ready(queue)
      filled = time.perf_counter()
      slots, queue, tokens, tickets, steps = device_loop.decode(
          params, config, slots, queue, key=key, rule=rule,
          steps=STEPS_PER_SYNC, tables=tables,
          host_has_more=bool(book.waiting), mesh=mesh,
      )
      # One transfer for all: each would wait for the device on its own.
      tokens, tickets, steps, queued, in_slots = jax.device_get((
          tokens, tickets, steps, queue.size - queue.head, slots.requests.ticket,
      ))
      # Rows beyond `steps` are zeros, which would read as tokens of ticket 0.
      new = ledger.by_ticket(tokens[:steps], tickets[:steps])
      if on_sync is not None:
        on_sync(HostSync(
            int(steps), sum(map(len, new.values())),
            time.perf_counter() - filled, prompt_tokens, filled - began,
        ))
      finished, to_free = book.record(new, running=set(in_slots.tolist()))
      bar.update(finished)
      if to_free:  # the device cannot see that a text repeats itself
        slots = _freed(slots, in_slots, to_free)
  return book.results


def _placed(
    params: Any, config: model.ModelConfig, mesh: Mesh | None
) -> tuple[Any, Mesh]:
  """Parameters on the mesh for decoding, unstacked by layer, and that mesh."""
  if mesh is not None:
    return model.unstacked(sharding.reshard(params, mesh, config.dtype)), mesh
  devices = set().union(*(x.devices() for x in jax.tree.leaves(params)))
  if len(devices) > 1:
    raise errors.InputError(
        f'the parameters are on {len(devices)} devices: choose the layout for'
        ' decoding by mesh=, see sharding.decoding_mesh'
    )
  mesh = sharding.make_mesh(fsdp=1, devices=list(devices))
  return model.unstacked(params), mesh


@functools.cache  # a new `jax.jit` compiles again, even for the same function
def _compiled_empty(
    config: model.ModelConfig, sizes: cache_plan.Plan, dtype: Any, mesh: Mesh
) -> Callable[[], tuple[loop_state.Slots, loop_state.Queue]]:
  """Returns the function that makes idle slots and an empty queue on a mesh."""
  make = functools.partial(
      loop_state.empty, config, sizes.widths, slots=sizes.slots,
      queue=sizes.queue, ring=sizes.ring, dtype=dtype,
  )
  where = loop_state.shardings(jax.eval_shape(make), mesh)
  return jax.jit(make, out_shardings=where)


# The host's updates of the device's state ------------------------------------------


def _refill(
    params: Any,
    config: model.ModelConfig,
    queue: loop_state.Queue,
    requests: Sequence[request.Request],
    tickets: list[int],
) -> loop_state.Queue:
  """Prefills the requests of these tickets into an empty queue."""
  batch = [requests[i] for i in tickets]
  # Arrays of all Q places, filled or not: another shape would compile again.
  places = queue.requests.ticket.shape[0]
  length = np.zeros((places, len(batch[0].prompts)), np.int32)  # [Q, streams]
  last = np.zeros_like(length)
  ticket, request_id, limit = np.zeros((3, places), np.int32)
  for i, (t, r) in enumerate(zip(tickets, batch, strict=True)):
    ticket[i], request_id[i], limit[i] = t, r.request_id, r.limit
    length[i] = [len(p) for p in r.prompts]
    last[i] = [p[-1] for p in r.prompts]
  streams = zip(*(r.prompts for r in batch), strict=True)
  caches = tuple(
      _prefill_stream(params, config, cache, prompts)
      for cache, prompts in zip(queue.caches, streams, strict=True)
  )
  arrays, head, size = jax.tree.map(
      put_like,
      (loop_state.RequestArrays(ticket, request_id, limit, length, last), 0,
       len(batch)),
      (queue.requests, queue.head, queue.size),
  )
  return loop_state.Queue(arrays, caches, head, size)


def _prefill_stream(
    params: Any,
    config: model.ModelConfig,
    cache: model.Cache,
    prompts: Sequence[Sequence[int]],
) -> model.Cache:
  """Prefills prompts into places 0, 1, ... of one stream's queue.

  Prompts are grouped by the bucket of their length. All batches of a bucket have
  the same number of rows, so `prefill` is compiled once for each bucket.
  """
  places = cache.positions.shape[0]
  groups: dict[int, list[int]] = {}
  for i, prompt in enumerate(prompts):
    groups.setdefault(cache_plan.bucket(len(prompt) - 1), []).append(i)
  for width, members in groups.items():
    # From the width alone, not from the number of members: one shape per bucket.
    rows = min(places, max(1, _PREFILL_TOKENS // width))
    for first in range(0, len(members), rows):
      tokens = np.zeros((rows, width), np.int32)
      positions = np.full((rows, width), model.PADDING, np.int32)
      place = np.full(rows, places, np.int32)  # beyond the queue, thus dropped
      for row, i in enumerate(members[first: first + rows]):
        prompt = prompts[i][:-1]  # the first decode step reads the last token
        tokens[row, :len(prompt)] = prompt
        positions[row, :len(prompt)] = np.arange(len(prompt))
        place[row] = i
      cache = device_loop.prefill(
          params, config, cache, tokens, positions, place)
  return cache


def _freed(
    slots: loop_state.Slots, tickets: np.ndarray, to_free: list[int]
) -> loop_state.Slots:
  """Marks the slots of these requests as idle."""
  kept = np.where(np.isin(tickets, to_free), loop_state.IDLE, tickets)
  kept = put_like(kept, slots.requests.ticket)
  return slots.replace(requests=slots.requests.replace(ticket=kept))


def put_like(new: Any, old: jax.Array) -> jax.Array:
  """Puts a host array on the devices, with an old array's sharding and dtype.

  The loop would be compiled again for another sharding.
  """
  return jax.device_put(np.asarray(new, old.dtype), old.sharding)
