"""Fills the device's queue: prompts are prefilled in batches of one shape each."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ddt_jax import model
from ddt_jax import stopping
from ddt_jax.engine import cache_plan
from ddt_jax.engine import decode_options
from ddt_jax.engine import device_loop
from ddt_jax.engine import ledger
from ddt_jax.engine import loop_state
from ddt_jax.engine import request

# Tokens per prefill. Each prefill reads all weights, so few tokens would waste it.
_PREFILL_TOKENS = 2048


def refill(
    params: Any,
    config: model.ModelConfig,
    queue: loop_state.Queue,
    requests: Sequence[request.Request],
    tickets: list[int],
    options: decode_options.DecodeOptions,
    book: ledger.Ledger,
) -> loop_state.Queue:
  """Prefills the requests of these tickets into an empty queue."""
  batch = [requests[i] for i in tickets]
  # Arrays of all Q places, filled or not: another shape would compile again.
  places = queue.requests.ticket.shape[0]
  length = np.zeros((places, len(batch[0].prompts)), np.int32)  # [Q, streams]
  last = np.zeros_like(length)
  ticket, request_id, limit, begun, splitter = np.zeros((5, places), np.int32)
  for i, (t, r) in enumerate(zip(tickets, batch, strict=True)):
    ticket[i], request_id[i], limit[i] = t, r.request_id, r.limit
    length[i] = [len(p) for p in r.prompts]
    last[i] = [c[-1] for c in r.contexts]
    begun[i] = len(r.begun)
    splitter[i] = stopping.state_after(options.automaton, r.begun)
  streams = zip(*(r.contexts for r in batch), strict=True)

  def after_batch(cache):
    # Waits for the device: otherwise all batches are queued on it at once, and a
    # stop would have to wait for them.
    if options.journal is not None:
      jax.block_until_ready(cache)
      options.journal.look(book)

  caches = tuple(
      _prefill_stream(params, config, cache, contexts, after_batch)
      for cache, contexts in zip(queue.caches, streams, strict=True)
  )
  arrays, head, size = jax.tree.map(
      put_like,
      (loop_state.RequestArrays(
          ticket, request_id, limit, length, last, begun, splitter), 0, len(batch)),
      (queue.requests, queue.head, queue.size),
  )
  return loop_state.Queue(arrays, caches, head, size)


def _prefill_stream(
    params: Any,
    config: model.ModelConfig,
    cache: model.Cache,
    prompts: Sequence[Sequence[int]],
    after_batch: Callable[[model.Cache], None],
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
      after_batch(cache)
  return cache


def put_like(new: Any, old: jax.Array) -> jax.Array:
  """Puts a host array on the devices, with an old array's sharding and dtype.

  The loop would be compiled again for another sharding.
  """
  return jax.device_put(np.asarray(new, old.dtype), old.sharding)
