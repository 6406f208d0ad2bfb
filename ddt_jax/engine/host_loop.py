"""The host's part of decoding: it keeps the device's queue filled.

Between two host syncs the device decodes alone, see `device_loop`.
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

STEPS = 128  # most decode steps between two host syncs
_PREFILL_TOKENS = 2048  # per prefill: many, since each reads all weights


class HostSync(NamedTuple):
  """Work between two host syncs.

  Attributes:
    steps: decode steps, each one pass over the weights for all slots.
    tokens: drawn in them; steps * slots if no slot was idle.
    decode_s: seconds for the steps, wall time.
    prompt_tokens: prefilled before, without padding.
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

  The randomness of a token comes from (key, request id, its place in the
  response) alone. Batch mates and the number of slots change a result by
  rounding only. In float32 that is rare (a test allows 1 request in 200 of
  10,000 with 7 instead of 64 slots). In bfloat16 logits often tie, and another
  number of slots gives other texts, drawn from the same distribution. The same
  call gives the same texts.

  Args:
    params, config: the model. A copy of the layers is held while decoding.
    prompts: token ids, each non-empty.
    key: random key.
    max_new_tokens: most tokens of any response.
    max_tokens: most tokens of each response, if lower.
    request_ids: names of the random streams, int32, all different; default
      0, 1, ...
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
  """Raises InputError for what `run` would refuse, before any decoding."""
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
    on_sync: called after every host sync. It makes the host wait for each
      prefill, so that the timings are those of the device.

  Returns:
    Generated, in the order of `requests`.

  Raises:
    InputError: naming the option or the request that is invalid.
  """
  check(config, requests, options)
  book = ledger.Ledger(requests, options, on_result)
  if not book.unfinished:
    return book.results
  params, mesh = _placed(params, config, options.mesh)
  dtype = options.dtype(config)
  # Free memory is known only now that the parameters are in place.
  sizes = cache_plan.plan(
      config, requests, slots=options.slots, dtype=dtype, mesh=mesh)
  if options.progress:
    print(sizes, flush=True)
  slots, queue = _empty(config, sizes, dtype, mesh)()
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
        if on_sync is not None:
          jax.block_until_ready(queue)
      filled = time.perf_counter()
      slots, queue, *log = device_loop.decode(
          params, config, slots, queue, key=key, rule=rule, steps=STEPS,
          tables=tables, more=bool(book.waiting), mesh=mesh,
      )
      # One transfer for all that the host reads: each would wait on its own.
      *log, steps, queued, tickets = jax.device_get(
          (*log, queue.size - queue.head, slots.requests.ticket)
      )
      new = ledger.by_ticket(*(x[:steps] for x in log))
      if on_sync is not None:
        on_sync(HostSync(
            int(steps), sum(map(len, new.values())),
            time.perf_counter() - filled, prompt_tokens, filled - began,
        ))
      finished, to_free = book.record(new, set(tickets.tolist()))
      bar.update(finished)
      if to_free:  # the device cannot see that a text repeats itself
        slots = _freed(slots, tickets, to_free)
  return book.results


def _placed(
    params: Any, config: model.ModelConfig, mesh: Mesh | None
) -> tuple[Any, Mesh]:
  """Unstacked parameters on the mesh for decoding, and that mesh."""
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


@functools.cache
def _empty(config, sizes, dtype, mesh):
  """Compiles the function that makes idle slots and an empty queue on a mesh."""
  make = functools.partial(
      loop_state.empty, config, sizes.widths, slots=sizes.slots,
      queue=sizes.queue, ring=sizes.ring, dtype=dtype,
  )
  where = loop_state.shardings(jax.eval_shape(make), mesh)
  return jax.jit(make, out_shardings=where)


# --- Updates of the device's state by the host.


def _refill(params, config, queue, requests, tickets) -> loop_state.Queue:
  """Prefills these requests into an empty queue."""
  batch = [requests[i] for i in tickets]
  places = queue.requests.ticket.shape[0]
  length = np.zeros((places, len(batch[0].prompts)), np.int32)
  last = np.zeros_like(length)
  ticket, name, limit = np.zeros((3, places), np.int32)
  for i, (t, r) in enumerate(zip(tickets, batch, strict=True)):
    ticket[i], name[i], limit[i] = t, r.name, r.limit
    length[i] = [len(p) for p in r.prompts]
    last[i] = [p[-1] for p in r.prompts]
  caches = tuple(
      _prefill_stream(params, config, cache, prompts) for cache, prompts in
      zip(queue.caches, zip(*(r.prompts for r in batch), strict=True), strict=True)
  )
  new = loop_state.Requests(ticket, name, limit, length, last), 0, len(batch)
  old = queue.requests, queue.head, queue.size
  new, head, size = jax.tree.map(put_like, new, old)
  return loop_state.Queue(new, caches, head, size)


def _prefill_stream(params, config, cache, prompts) -> model.Cache:
  """Prefills prompts into places 0, 1, ... of one stream's queue.

  Prompts are grouped by the bucket of their length. All batches of a bucket have
  the same number of rows, so a bucket is compiled once.
  """
  places = cache.positions.shape[0]
  groups: dict[int, list[int]] = {}
  for i, prompt in enumerate(prompts):
    groups.setdefault(cache_plan.bucket(len(prompt) - 1), []).append(i)
  for width, members in groups.items():
    rows = min(places, max(1, _PREFILL_TOKENS // width))
    for first in range(0, len(members), rows):
      tokens = np.zeros((rows, width), np.int32)
      positions = np.full((rows, width), model.PADDING, np.int32)
      place = np.full(rows, places, np.int32)  # beyond the queue: dropped
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
  """Puts a host array on an old array's sharding, in its dtype.

  Another sharding would recompile the loop.
  """
  return jax.device_put(np.asarray(new, old.dtype), old.sharding)
