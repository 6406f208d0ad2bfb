"""Batched sampling with a KV cache: prefill, then one loop on the device."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import sharding

PROMPT_MULTIPLE = 32  # prompts are padded to it: few compiled shapes


class Generated(NamedTuple):
  """A finished request.

  Attributes:
    tokens: at most max_new_tokens ids, the EOS included.
    finish: 'eos' | 'length'.
  """

  tokens: list[int]
  finish: str


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
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
    on_result: Callable[[int, Generated], None] | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
) -> list[Generated]:
  """Samples a continuation of each prompt.

  The randomness of a token comes from (key, request id, its position in the
  response) alone, so a result does not depend on batch mates.

  Args:
    params, config: the model.
    prompts: token ids, each non-empty.
    key: random key.
    max_new_tokens: limit for every request.
    temperature, top_p, order: see `sampling.distribution`.
    greedy: the likeliest token instead of a draw.
    eos_ids: any of them ends a response and is its last token.
    slots: rows decoded together; default 256 or all, if fewer.
    max_tokens: a lower limit for each request.
    request_ids: names of the random streams, default 0, 1, ...
    on_result: called with (index in `prompts`, result) as they finish.
    cache_dtype: of keys and values, default the compute dtype.
    mesh: rows are spread over its `data` and `fsdp` axes.

  Returns:
    Generated, in the order of `prompts`.

  Raises:
    ValueError: naming the request that cannot be served.
  """
  limits = [max_new_tokens] * len(prompts)
  if max_tokens is not None:
    if len(max_tokens) != len(prompts):
      raise ValueError('max_tokens must have one limit for each prompt')
    limits = [min(max_new_tokens, n) for n in max_tokens]
  _check(config, prompts, limits, temperature, top_p)
  if not prompts:
    return []
  ids = range(len(prompts)) if request_ids is None else request_ids
  if not len(ids) == len(set(ids)) == len(prompts):
    raise ValueError('request_ids must differ, one for each prompt')
  slots = min(slots or 256, len(prompts))
  if mesh is not None:
    rows = mesh.shape['data'] * mesh.shape['fsdp']
    slots = -(-slots // rows) * rows

  # Prompts of a length go together, so that little of a batch is padding.
  by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
  results: list[Any] = [None] * len(prompts)
  for first in range(0, len(prompts), slots):
    requests = by_length[first: first + slots]
    tokens, lengths = _run(
        params, config, [prompts[i] for i in requests],
        key=key, ids=[ids[i] for i in requests],
        limits=[limits[i] for i in requests], rows=slots,
        max_new_tokens=max_new_tokens, eos_ids=tuple(eos_ids),
        temperature=temperature, top_p=top_p, greedy=greedy, order=order,
        cache_dtype=cache_dtype, mesh=mesh,
    )
    for i, row, n in zip(requests, tokens, lengths, strict=False):
      response = row[:n].tolist()
      finish = 'eos' if response[-1] in eos_ids else 'length'
      results[i] = Generated(response, finish)
      if on_result is not None:
        on_result(i, results[i])
  return results


def _check(config, prompts, limits, temperature, top_p) -> None:
  if temperature <= 0:
    raise ValueError(f'temperature {temperature}: positive, or greedy=True')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p {top_p} is not in (0, 1]')
  for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
    if not len(prompt) or limit < 1:
      raise ValueError(f'request {i}: an empty prompt, or a limit below 1')
    if len(prompt) + limit > config.max_positions:
      raise ValueError(
          f'request {i}: {len(prompt)} prompt and {limit} new tokens exceed the'
          f" model's {config.max_positions} positions"
      )


def _run(params, config, prompts, *, key, ids, limits, rows, mesh, **static):
  """One batch of at most `rows` requests -> host arrays of tokens, lengths."""
  width = -(-max(map(len, prompts)) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
  # Left-padded, so that every row writes the same column of the cache.
  tokens = np.zeros((rows, width), np.int32)
  positions = np.full((rows, width), model.PADDING, np.int32)
  request = np.zeros((rows, 2), np.int32)  # id, limit; unused rows have 0, 0
  for row, prompt in enumerate(prompts):
    tokens[row, width - len(prompt):] = prompt
    positions[row, width - len(prompt):] = np.arange(len(prompt))
    request[row] = ids[row], limits[row]
  inputs = (tokens, positions, request)
  if mesh is not None:
    inputs = jax.device_put(inputs, sharding.batch_sharding(mesh))
  out = _decode(params, config, *inputs, key, **static)
  return jax.tree.map(np.asarray, out)


@functools.partial(
    jax.jit,
    static_argnames=(
        'config', 'max_new_tokens', 'eos_ids', 'temperature', 'top_p',
        'greedy', 'order', 'cache_dtype',
    ),
)
def _decode(
    params, config, tokens, positions, request, key, *, max_new_tokens, eos_ids,
    temperature, top_p, greedy, order, cache_dtype,
):
  rows, width = tokens.shape
  request_id, limit = request[:, 0], request[:, 1]
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, request_id)

  def choose(logits, position):
    if greedy:
      return jnp.argmax(logits, -1).astype(jnp.int32)
    p = sampling.distribution(
        logits, temperature=temperature, top_p=top_p, order=order
    )
    fold = jax.vmap(jax.random.fold_in, (0, None))
    return sampling.draw(fold(keys, position), p)

  def last_logits(tokens, positions, cache):
    hidden, cache = model.forward(
        params, config, tokens, positions=positions, cache=cache,
        return_hidden=True,
    )
    # Of a prompt only the last position needs the vocabulary head.
    return model.logits(params, hidden[:, -1]), cache

  def unfinished(state):
    step, _, _, done, _, _ = state
    return (step < max_new_tokens) & ~jnp.all(done)

  def advance(state):
    step, logits, cache, done, out, length = state
    token = choose(logits, step)
    out = out.at[:, step].set(jnp.where(done, 0, token))
    length = jnp.where(done, length, step + 1)
    done |= jnp.isin(token, jnp.array(eos_ids)) | (length >= limit)
    position = jnp.where(done, model.PADDING, positions[:, -1] + 1 + step)
    logits, cache = last_logits(token[:, None], position[:, None], cache)
    return step + 1, logits, cache, done, out, length

  cache = model.init_cache(config, rows, width + max_new_tokens, cache_dtype)
  logits, cache = last_logits(tokens, positions, cache)
  out = jnp.zeros((rows, max_new_tokens), jnp.int32)
  state = (0, logits, cache, limit == 0, out, jnp.zeros(rows, jnp.int32))
  *_, out, length = jax.lax.while_loop(unfinished, advance, state)
  return out, length
