"""Batched decoding: the host's part, which keeps the device's queue filled.

See `slots` for what happens between two visits of the host.
"""

from collections.abc import Callable, Sequence
import functools
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np
import tqdm

from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.engine import cache_plan
from ddt_jax.engine import device_loop
from ddt_jax.engine import ledger
from ddt_jax.engine import requests

STEPS = 128  # between two visits of the host, at most

Generated = ledger.Generated


class Visit(NamedTuple):
  """What happened between two visits of the host.

  Attributes:
    steps: passes over the weights, each of all slots.
    tokens: drawn in them; steps * slots if no slot was idle.
    decode_s: their wall time.
    prompt_tokens: read into the queue before, without padding.
    prefill_s: the wall time of that.
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
    on_result: Callable[[int, Generated], None] | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> list[Generated]:
  """Samples a continuation of each prompt.

  The randomness of a token comes from (key, request id, its position in the
  response) alone, so a result depends on its batch mates, and on their number,
  by rounding only. In float32 that moves hardly a token of 10,000 requests; in
  bfloat16 logits often tie, and another number of slots gives other texts, drawn
  from the same distribution. The same call gives the same texts.

  Args:
    params, config: the model.
    prompts: token ids, each non-empty.
    key: random key.
    max_new_tokens: limit for every request.
    temperature, top_p, order: see `sampling.distribution`; top_p above 0.
    greedy: the likeliest token instead of a draw.
    eos_ids: any of them ends a response and is its last token.
    slots: rows decoded together; default 256 or all, if fewer.
    repetition: (n, times, every): a response is cut when, at a multiple of
      `every` tokens, it `stopping.repeats`.
    official_window: see `stopping.repeats`.
    max_tokens: a lower limit for each request.
    request_ids: names of the random streams, int32, default 0, 1, ...
    on_result: called with (index in `prompts`, result) as they finish.
    cache_dtype: of keys and values, a float of 16 bits or more; default the
      compute dtype.
    mesh: rows are spread over its `data` and `fsdp` axes, heads over `tensor`;
      the parameters are brought there, in the compute dtype. Default: the one
      device that the parameters are on, and they as they are. A copy of the
      layers is held while decoding.
    progress: print the cache's size and show a bar.

  Returns:
    Generated, in the order of `prompts`.

  Raises:
    ValueError: naming the request that cannot be served.
  """
  rule = device_loop.Rule(temperature, top_p, order, greedy)
  asked = requests.make(
      [(p,) for p in prompts], max_new_tokens, max_tokens, request_ids
  )
  return run(
      params, config, asked, rule, key=key, eos_ids=eos_ids, slots=slots,
      repetition=repetition, official_window=official_window,
      on_result=on_result, cache_dtype=cache_dtype, mesh=mesh, progress=progress,
  )


def run(
    params: Any,
    config: model.ModelConfig,
    asked: Sequence[requests.Request],
    rule: device_loop.Rule,
    *,
    key: jax.Array,
    eos_ids: Sequence[int],
    slots: int | None = None,
    automaton: np.ndarray | None = None,
    repetition: tuple[int, int, int] | None = None,
    official_window: bool = False,
    on_result: Callable[[int, Generated], None] | None = None,
    on_visit: Callable[[Visit], None] | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> list[Generated]:
  """Serves requests of one or more streams; arguments as in `generate`.

  Args:
    params, config: the model.
    asked: the requests, all of as many streams.
    rule: how tokens are chosen.
    key, eos_ids, slots, repetition, official_window, on_result, cache_dtype,
      mesh, progress: see `generate`.
    automaton: [states, V], see `stopping.splitter_automaton`.
    on_visit: called after each; the wall times are then those of the device.

  Returns:
    Generated, in the order of `asked`.
  """
  dtype = cache_dtype or config.dtype
  requests.check_options(
      config, rule, eos_ids=eos_ids, slots=slots, repetition=repetition,
      cache_dtype=dtype,
  )
  requests.check(config, asked)
  book = ledger.Ledger(
      asked, rule.first_may_end, eos_ids, automaton, repetition, official_window,
      on_result,
  )
  if not book.left:
    return book.results
  if mesh is None:
    mesh = _mesh_of(params)
  else:
    params = sharding.reshard(params, mesh, config.dtype)
  params = model.unstacked(params)
  # What is free is known only now.
  sizes = cache_plan.plan(config, asked, slots=slots, dtype=dtype, mesh=mesh)
  if progress:
    print(sizes, flush=True)
  state, queue = _empty(config, sizes, dtype, mesh)()
  marks = jax.device_put(
      _marks(config.vocab_size, eos_ids, automaton), sharding.replicated(mesh)
  )
  waiting = 0  # in the queue
  with tqdm.tqdm(total=book.left, desc='decode', disable=not progress) as bar:
    while book.left:
      began, read = time.perf_counter(), 0
      if not waiting and (tickets := book.give(sizes.queue)):
        queue = _fill(params, config, queue, asked, tickets)
        read = sum(len(p) - 1 for i in tickets for p in asked[i].prompts)
        if on_visit is not None:
          jax.block_until_ready(queue)
      filled = time.perf_counter()
      state, queue, *log = device_loop.decode(
          params, config, state, queue, key=key, rule=rule, steps=STEPS,
          marks=marks, more=bool(book.ungiven), mesh=mesh,
      )
      *log, steps, waiting, tickets = jax.device_get(
          (*log, queue.size - queue.head, state.requests.ticket)
      )
      new = ledger.by_ticket(*(x[:steps] for x in log))
      if on_visit is not None:
        on_visit(Visit(
            int(steps), sum(map(len, new.values())),
            time.perf_counter() - filled, read, filled - began,
        ))
      finished, stopped = book.add(new, set(tickets.tolist()))
      bar.update(finished)
      if stopped:
        left = np.where(np.isin(tickets, stopped), device_loop.IDLE, tickets)
        left = _like(left, state.requests.ticket)
        state = state.replace(requests=state.requests.replace(ticket=left))
  return book.results


def _mesh_of(params) -> Mesh:
  """Of the one device that the parameters are on."""
  devices = set().union(*(x.devices() for x in jax.tree.leaves(params)))
  if len(devices) > 1:
    raise ValueError(
        f'the parameters are on {len(devices)} devices: say with mesh= how'
        ' they are to decode'
    )
  return sharding.make_mesh(fsdp=1, devices=list(devices))


@functools.cache
def _empty(config, sizes, dtype, mesh):
  """Compiles what makes idle slots and an empty queue, on a mesh's devices."""
  make = functools.partial(
      device_loop.empty, config, sizes.widths, slots=sizes.slots,
      queue=sizes.queue, ring=sizes.ring, dtype=dtype,
  )
  where = device_loop.shardings(jax.eval_shape(make), mesh)
  return jax.jit(make, out_shardings=where)


def _fill(params, config, queue, asked, tickets):
  """The queue with these requests, their prompts read."""
  batch = [asked[i] for i in tickets]
  size = queue.requests.ticket.shape[0]
  lengths = np.zeros((size, len(batch[0].prompts)), np.int32)
  last = np.zeros_like(lengths)
  ticket, name, limit = np.zeros((3, size), np.int32)
  for i, (t, r) in enumerate(zip(tickets, batch, strict=True)):
    ticket[i], name[i], limit[i] = t, r.name, r.limit
    lengths[i] = [len(p) for p in r.prompts]
    last[i] = [p[-1] for p in r.prompts]
  caches = list(queue.caches)
  for stream, cache in enumerate(caches):
    groups: dict[int, list[int]] = {}
    for i, r in enumerate(batch):
      width = cache_plan.bucket(len(r.prompts[stream]) - 1)
      groups.setdefault(width, []).append(i)
    for width, members in groups.items():
      rows = min(size, max(1, device_loop.PREFILL_TOKENS // width))
      for first in range(0, len(members), rows):
        tokens = np.zeros((rows, width), np.int32)
        positions = np.full((rows, width), model.PADDING, np.int32)
        places = np.full(rows, size, np.int32)
        for row, i in enumerate(members[first: first + rows]):
          prompt = batch[i].prompts[stream][:-1]
          tokens[row, :len(prompt)] = prompt
          positions[row, :len(prompt)] = np.arange(len(prompt))
          places[row] = i
        cache = device_loop.prefill(
            params, config, cache, tokens, positions, places
        )
    caches[stream] = cache
  small = device_loop.Requests(ticket, name, limit, lengths, last), 0, len(batch)
  where = queue.requests, queue.head, queue.size
  read, head, size = jax.tree.map(_like, small, where)
  return device_loop.Queue(read, tuple(caches), head, size)


def _like(new, old):
  """A host array where an old one lies: another place would be compiled for."""
  return jax.device_put(np.asarray(new, old.dtype), old.sharding)


def _marks(vocab_size, eos_ids, automaton) -> device_loop.Marks:
  eos = np.zeros(vocab_size, bool)
  eos[list(eos_ids)] = True
  if automaton is None:
    return device_loop.Marks(eos, np.zeros((1, vocab_size), np.int32), -1)
  # Splitters of up to 15, 31, ... bytes share a compiled loop.
  states = -(-len(automaton) // 16) * 16
  table = np.zeros((states, vocab_size), np.int32)
  table[:len(automaton)] = automaton
  return device_loop.Marks(eos, table, len(automaton) - 1)
