"""What decoding is asked for, and what of it is refused."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddt_jax import model
from ddt_jax import sampling
from ddt_jax.engine import device_loop

_LAST_NAME = np.iinfo(np.int32).max


class Request(NamedTuple):
  """What `engine.run` is asked for.

  Attributes:
    prompts: token ids of each stream, non-empty.
    limit: tokens it may have.
    name: of its random stream, int32.
  """

  prompts: tuple[Sequence[int], ...]
  limit: int
  name: int


def make(
    prompts: Sequence[tuple[Sequence[int], ...]],
    max_new_tokens: int,
    max_tokens: Sequence[int] | None,
    request_ids: Sequence[int] | None,
) -> list[Request]:
  """Requests of these prompts, limits and names; see `engine.generate`."""
  limits = [max_new_tokens] * len(prompts)
  if max_tokens is not None:
    if len(max_tokens) != len(prompts):
      raise ValueError('max_tokens must have one limit for each prompt')
    limits = [min(max_new_tokens, n) for n in max_tokens]
  ids = range(len(prompts)) if request_ids is None else request_ids
  if not len(ids) == len(set(ids)) == len(prompts):
    raise ValueError('request_ids must differ, one for each prompt')
  return list(map(Request, prompts, limits, ids))


def check(config: model.ModelConfig, asked: Sequence[Request]) -> None:
  """Raises ValueError, naming the request that cannot be served."""
  for prompts, limit, name in asked:
    longest = max(map(len, prompts))
    if not all(map(len, prompts)) or limit < 0:
      raise ValueError(f'request {name}: an empty prompt, or a limit below 0')
    if longest + limit > config.max_positions:
      raise ValueError(
          f'request {name}: {longest} prompt and {limit} new tokens exceed the'
          f" model's {config.max_positions} positions"
      )
    if min(map(min, prompts)) < 0 or max(map(max, prompts)) >= config.vocab_size:
      raise ValueError(
          f'request {name}: a token id outside the vocabulary of'
          f" {config.vocab_size}; is the tokenizer the model's?"
      )
    if not 0 <= name <= _LAST_NAME:
      raise ValueError(f'request id {name} is not in [0, {_LAST_NAME}]')


def check_options(
    config: model.ModelConfig,
    rule: device_loop.Rule,
    *,
    eos_ids: Sequence[int],
    slots: int | None,
    repetition: tuple[int, int, int] | None,
    cache_dtype: Any,
) -> None:
  """Raises ValueError, naming an option of `engine.run` that cannot be meant."""
  if not rule.greedy and not rule.temperature > 0:
    raise ValueError(f'temperature {rule.temperature}: positive, or greedy=True')
  if not 0 < rule.top_p <= 1:
    raise ValueError(f'top_p {rule.top_p} is not in (0, 1]')
  sampling.check_order(rule.order)
  if bad := [i for i in eos_ids if not 0 <= i < config.vocab_size]:
    raise ValueError(f'EOS ids {bad} are outside the vocabulary')
  if slots is not None and slots < 1:
    raise ValueError(f'slots {slots}: at least one')
  if repetition is not None and min(repetition) < 1:
    raise ValueError(
        f'repetition {repetition}: n, times and every must be positive')
  # Keys and values are not scaled: 8 bits would cut them off.
  dtype = jnp.dtype(cache_dtype)
  if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 2:
    raise ValueError(f'cache_dtype {dtype} is no float of 16 bits or more')
