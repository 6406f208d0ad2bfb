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

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.engine import cache_plan
from ddt_jax.engine import decode_options
from ddt_jax.engine import device_loop
from ddt_jax.engine import journaling
from ddt_jax.engine import ledger
from ddt_jax.engine import loop_state
from ddt_jax.engine import refill
from ddt_jax.engine import request

# Most decode steps between two host syncs. More would find repetitions and report
# results later; fewer would stall the device more often.
STEPS_PER_SYNC = 128


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
    journal: journaling.Journal | None = None,
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
      official_window, cache_dtype, mesh, journal: see `DecodeOptions`.

  Returns:
    Generated, in the order of `prompts`.

  Raises:
    InputError: naming the option or the request that is invalid.
  """
  options = decode_options.DecodeOptions(
      eos_ids=tuple(eos_ids), temperature=temperature, top_p=top_p,
      greedy=greedy, order=order, repetition=repetition,
      official_window=official_window, slots=slots, cache_dtype=cache_dtype,
      mesh=mesh, journal=journal,
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
  requests, book = _opened(requests, options, key, on_result)
  if not book.unfinished:
    return book.results
  params, mesh = _placed(params, config, options.mesh)
  dtype, journal = options.resolved_cache_dtype(config), options.journal
  # Free memory is known only now that the parameters are in place.
  sizes = cache_plan.plan(
      config, requests, slots=options.slots, dtype=dtype, mesh=mesh)
  if journal is not None:
    journal.planned(sizes)
  slots, queue = _compiled_empty(config, sizes, dtype, mesh)()
  tables = jax.device_put(
      options.stop_tables(config.vocab_size), sharding.replicated(mesh))
  rule = options.rule()
  queued, left = 0, 0
  while book.unfinished:
    began, prompt_tokens = time.perf_counter(), 0
    if not left:  # a host sync
      left = STEPS_PER_SYNC
      # Only an empty queue is refilled: many prompts share a prefill then.
      if not queued and (taken := book.take_next(sizes.queue)):
        queue = refill.refill(params, config, queue, requests, taken, options, book)
        prompt_tokens = sum(
            len(c) - 1 for i in taken for c in requests[i].contexts)
        # Else the device would prefill within the time that is booked on decoding.
        if on_sync is not None:
          jax.block_until_ready(queue)
    filled = time.perf_counter()
    # A look at the device between two syncs changes nothing there, so the texts do
    # not depend on when it comes.
    most = left if journal is None else journal.steps(left)
    slots, queue, tokens, tickets, log_probs, steps = device_loop.decode(
        params, config, slots, queue, key=key, rule=rule, steps=STEPS_PER_SYNC,
        most=most, tables=tables, host_has_more=bool(book.waiting), mesh=mesh,
    )
    # One transfer for all: each would wait for the device on its own.
    tokens, tickets, log_probs, steps, queued, in_slots = jax.device_get((
        tokens, tickets, log_probs, steps, queue.size - queue.head,
        slots.requests.ticket,
    ))
    # Fewer steps than allowed: the device needs the host.
    left = left - int(steps) if steps == most else 0
    # Rows beyond `steps` are zeros, which would read as tokens of ticket 0.
    new = ledger.by_ticket(tokens[:steps], tickets[:steps])
    if log_probs is not None:
      log_probs = ledger.by_ticket(log_probs[:steps], tickets[:steps])
    drawn, seconds = sum(map(len, new.values())), time.perf_counter() - filled
    if on_sync is not None:
      on_sync(HostSync(
          int(steps), drawn, seconds, prompt_tokens, filled - began))
    finished, to_free = book.record(new, set(in_slots.tolist()), log_probs)
    if journal is not None:
      journal.look(
          book, steps=int(steps), seconds=seconds, finished=finished, tokens=drawn)
    if to_free and not left:  # the device cannot see that a text repeats itself
      slots = _freed(slots, in_slots, to_free)
  if journal is not None:
    journal.ended(book)
  return book.results


def _opened(
    requests: Sequence[request.Request],
    options: decode_options.DecodeOptions,
    key: jax.Array,
    on_result: Callable[[int, ledger.Generated], None] | None,
) -> tuple[list[request.Request], ledger.Ledger]:
  """The requests with what the journal has of their texts, and their record."""
  if options.journal is None:
    return list(requests), ledger.Ledger(requests, options, on_result)
  kept = options.journal.restore(requests, options, key)
  requests, finished, begun = list(requests), {}, {}
  for i, (tokens, finish, log_probs) in kept.items():
    if finish is not None:
      finished[i] = ledger.generated(
          options.automaton, tokens, finish, log_probs)
      continue
    requests[i] = requests[i]._replace(begun=tokens)
    if log_probs is not None:
      begun[i] = log_probs
  book = ledger.Ledger(requests, options, on_result, finished, begun)
  options.journal.look(book, finished=len(finished))
  return requests, book


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


def _freed(
    slots: loop_state.Slots, tickets: np.ndarray, to_free: list[int]
) -> loop_state.Slots:
  """Marks the slots of these requests as idle."""
  kept = np.where(np.isin(tickets, to_free), loop_state.IDLE, tickets)
  kept = refill.put_like(kept, slots.requests.ticket)
  return slots.replace(requests=slots.requests.replace(ticket=kept))
