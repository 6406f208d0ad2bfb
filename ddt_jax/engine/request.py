"""Requests of a decoding run, and their checks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddt_jax import errors
from ddt_jax import model

_LARGEST_NAME = np.iinfo(np.int32).max


class Request(NamedTuple):
  """A request to `engine.run`.

  Attributes:
    prompts: token ids of each stream, non-empty.
    limit: most tokens of the response.
    name: of its random stream, a non-negative int32.
  """

  prompts: tuple[Sequence[int], ...]
  limit: int
  name: int


def make_requests(
    prompts: Sequence[tuple[Sequence[int], ...]],
    max_new_tokens: int,
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
) -> list[Request]:
  """Returns requests with these prompts, limits and names.

  Args:
    prompts: of each request, the prompts of its streams.
    max_new_tokens: most tokens of any response.
    max_tokens: most tokens of each response; None: max_new_tokens.
    request_ids: names, all different; None: 0, 1, ...

  Raises:
    InputError: not one limit and one name for each prompt.
  """
  limits = [max_new_tokens] * len(prompts)
  if max_tokens is not None:
    if len(max_tokens) != len(prompts):
      raise errors.InputError('max_tokens must have one limit for each prompt')
    limits = [min(max_new_tokens, n) for n in max_tokens]
  ids = range(len(prompts)) if request_ids is None else request_ids
  if not len(ids) == len(set(ids)) == len(prompts):
    raise errors.InputError('request_ids must differ, one for each prompt')
  return list(map(Request, prompts, limits, ids))


def check(config: model.ModelConfig, requests: Sequence[Request]) -> None:
  """Raises InputError, naming a request that the model cannot serve."""
  for prompts, limit, name in requests:
    longest = max(map(len, prompts))
    if not all(map(len, prompts)) or limit < 0:
      raise errors.InputError(
          f'request {name}: an empty prompt, or a limit below 0')
    if longest + limit > config.max_positions:
      raise errors.InputError(
          f'request {name}: {longest} prompt and {limit} new tokens exceed the'
          f" model's {config.max_positions} positions; lower max_new_tokens"
      )
    if min(map(min, prompts)) < 0 or max(map(max, prompts)) >= config.vocab_size:
      raise errors.InputError(
          f'request {name}: a token id outside the vocabulary of'
          f" {config.vocab_size}; is the tokenizer the model's?"
      )
    if not 0 <= name <= _LARGEST_NAME:
      raise errors.InputError(
          f'request id {name} is not in [0, {_LARGEST_NAME}]')
