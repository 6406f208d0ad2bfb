"""State of the decoding loop: slots and queue, the sampling rule, lookup tables.

Fields of type `Any` hold NumPy arrays on the host and JAX arrays on the device.
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

_static = functools.partial(struct.field, pytree_node=False)

IDLE = -1  # ticket of a slot without a request


class Combine(Protocol):
  """Turns the logits of several streams into those of one.

  An instance is a pytree: its leaves are traced, the rest of it is static.
  """

  def __call__(
      self, logits: jax.Array, count: jax.Array, past_splitter: jax.Array
  ) -> jax.Array:
    """Returns log m [S, V] up to a constant per row; a softmax follows.

    Args:
      logits: [streams, S, V].
      count: [S], tokens drawn so far.
      past_splitter: bool [S], whether these tokens contain the splitter.
    """


@struct.dataclass
class SamplingRule:
  """Options that choose a token. All are static, except the leaves of `combine`.

  Attributes:
    temperature, top_p, order: see `sampling.distribution`.
    greedy: take the likeliest token instead of a draw.
    combine: see `Combine`; None with one stream.
    first_may_end: whether an EOS as the first token ends the response.
    log_probs: also return the log-probabilities of the tokens.
  """

  temperature: float = _static(default=1.0)
  top_p: float = _static(default=1.0)
  order: str = _static(default='top_p_first')
  greedy: bool = _static(default=False)
  combine: Combine | None = None
  first_may_end: bool = _static(default=True)
  log_probs: bool = _static(default=False)


@struct.dataclass
class StopTables:
  """Lookup tables by token id: the EOS tokens and the splitter's automaton.

  Attributes:
    eos: bool [V], true for tokens that end the response.
    splitter: [states, V], see `stopping.splitter_automaton`.
    found: scalar, the automaton's last state, in which the text contains the
      splitter. Without a splitter it is -1, which no state equals.
  """

  eos: Any
  splitter: Any
  found: Any


@struct.dataclass
class RequestArrays:
  """Data of n requests, in slots or in the queue.

  Attributes:
    ticket: [n], index in the caller's list of requests, or IDLE.
    request_id: [n], see `engine.Request`.
    limit: [n], most tokens of the response.
    length: [n, streams], tokens of the prompts.
    last: [n, streams], last token of each prompt, or of the text begun.
    begun: [n], tokens of the text that are in the prompts' columns already.
    splitter: [n], state of the splitter's automaton after them.
  """

  ticket: Any
  request_id: Any
  limit: Any
  length: Any
  last: Any
  begun: Any
  splitter: Any


@struct.dataclass
class Slots:
  """Requests in progress.

  Attributes:
    requests: of S slots.
    count: [S], tokens of the response so far.
    token: [S, streams], input of the next step. Streams differ in it only at a
      request's first step, which reads the last token of each prompt.
    splitter: [S], state of the splitter's automaton.
    caches: of each stream, [S, ..., P + R columns, ...].
    step: scalar, steps done; step % R is the ring column of the next one.
  """

  requests: RequestArrays
  count: jax.Array
  token: jax.Array
  splitter: jax.Array
  caches: tuple[model.Cache, ...]
  step: jax.Array


@struct.dataclass
class Queue:
  """Waiting requests. Their prompts are prefilled, except for the last token.

  Attributes:
    requests: of Q places.
    caches: of each stream, [Q, ..., P columns, ...].
    head: scalar, the next place to admit from.
    size: scalar, number of places that were filled, admitted ones included.
  """

  requests: RequestArrays
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
  """Returns idle slots and an empty queue.

  Args:
    config: the model.
    widths: P of each stream, columns for its prompts.
    slots: S.
    queue: Q, places.
    ring: R, columns for new tokens.
    dtype: of keys and values; default the compute dtype.
  """

  def requests(n):
    # Shared zeros, although the loop donates its state: `empty` runs under jit,
    # which gives every output a buffer of its own.
    per_request = jnp.zeros(n, jnp.int32)
    per_stream = jnp.zeros((n, len(widths)), jnp.int32)
    return RequestArrays(
        per_request + IDLE, per_request, per_request, per_stream, per_stream,
        per_request, per_request)

  def caches(n, columns):
    return tuple(
        model.init_cache(config, n, width + columns, dtype) for width in widths
    )

  zero, per_slot = jnp.zeros((), jnp.int32), jnp.zeros(slots, jnp.int32)
  waiting = Queue(requests(queue), caches(queue, 0), zero, zero)
  return Slots(
      requests(slots), count=per_slot,
      token=jnp.zeros((slots, len(widths)), jnp.int32), splitter=per_slot,
      caches=caches(slots, ring), step=zero,
  ), waiting


def shardings(
    loop: tuple[Slots, Queue], mesh: Mesh
) -> tuple[Slots, Queue]:
  """NamedShardings of `empty`'s arrays: slots over data and fsdp, heads over tensor.

  The queue is replicated over data and fsdp, because any slot may admit from it.

  Args:
    loop: the arrays, or their abstract shapes.
    mesh: for decoding, see `sharding.decoding_mesh`.
  """

  def used(*axes):
    # The spec as XLA returns it, without axes of size 1: an equivalent but
    # different spec would recompile the loop at its second call.
    axes = tuple(a for a in axes if mesh.shape[a] > 1)
    return axes if len(axes) > 1 else axes[0] if axes else None

  def where(rows):
    def leaf(x):
      if x.ndim < 4:  # all else is small and replicated
        return NamedSharding(mesh, P())
      # Keys and values, [n, K, ...].
      tensor = None if x.shape[1] % mesh.shape['tensor'] else used('tensor')
      spec = (rows, tensor) if tensor else (rows,) if rows else ()
      return NamedSharding(mesh, P(*spec))

    return leaf

  slots, queue = loop
  return (
      jax.tree.map(where(used('data', 'fsdp')), slots),
      jax.tree.map(where(None), queue),
  )
