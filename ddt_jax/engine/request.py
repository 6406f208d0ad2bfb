"""Requests of a decoding run, and their checks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddt_jax import errors
from ddt_jax import model

_LARGEST_ID = np.iinfo(np.int32).max  # ids are folded into keys on the device


class Request(NamedTuple):
  """A request to `engine.run`.

  Attributes:
    prompts: token ids of each stream, non-empty.
    limit: most tokens of the response.
    request_id: seeds its draws; a non-negative int32.
    begun: tokens of the response that are written already. They count towards
      the limit and are part of the result's tokens.
  """

  prompts: tuple[Sequence[int], ...]
  limit: int
  request_id: int
  begun: Sequence[int] = ()

  @property
  def contexts(self) -> list[list[int]]:
    """What each stream reads before the first new token."""
    return [[*prompt, *self.begun] for prompt in self.prompts]


def make_requests(
    prompts: Sequence[tuple[Sequence[int], ...]],
    max_new_tokens: int,
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[Request]:
  """Returns requests with these prompts, limits, ids and texts begun.

  Args:
    prompts: for each request, a tuple with the prompt of each stream.
    max_new_tokens: most tokens of any response.
    max_tokens: most tokens of each response, if lower; None: no further limit.
    request_ids: all different, see `Request`; None: 0, 1, ...
    prefixes: `begun` of each request, see `Request`; None: none is.

  Raises:
    InputError: the numbers of prompts, limits, ids and prefixes differ, or two
      ids agree.
  """
  limits = [max_new_tokens] * len(prompts)
  if max_tokens is not None:
    if len(max_tokens) != len(prompts):
      raise errors.InputError('max_tokens must have one limit for each prompt')
    limits = [min(max_new_tokens, n) for n in max_tokens]
  ids = range(len(prompts)) if request_ids is None else request_ids
  # Two requests of one id and prompt would draw the same text.
  if not len(ids) == len(set(ids)) == len(prompts):
    raise errors.InputError('request_ids must differ, one for each prompt')
  begun = [()] * len(prompts) if prefixes is None else prefixes
  if len(begun) != len(prompts):
    raise errors.InputError('prefixes must be as many as prompts')
  return list(map(Request, prompts, limits, ids, begun))


def check(config: model.ModelConfig, requests: Sequence[Request]) -> None:
  """Raises InputError, naming a request that the model cannot serve."""
  for prompts, limit, request_id, begun in requests:
    longest = max(map(len, prompts))
    if not all(map(len, prompts)) or limit < 0:
      raise errors.InputError(
          f'request {request_id}: an empty prompt, or a limit below 0')
    if len(begun) > max(limit - 1, 0):
      raise errors.InputError(
          f'request {request_id}: {len(begun)} tokens are written already, and its'
          f' limit is {limit}')
    # The longest stream: the same new tokens are appended to all.
    if longest + limit > config.max_positions:
      raise errors.InputError(
          f'request {request_id}: {longest} prompt and {limit} new tokens exceed'
          f" the model's {config.max_positions} positions; lower max_new_tokens"
      )
    read = [*prompts, *([begun] if begun else [])]
    if min(map(min, read)) < 0 or max(map(max, read)) >= config.vocab_size:
      raise errors.InputError(
          f'request {request_id}: a token id outside the vocabulary of'
          f" {config.vocab_size}; is the tokenizer the model's?"
      )
    if not 0 <= request_id <= _LARGEST_ID:
      raise errors.InputError(
          f'request id {request_id} is not in [0, {_LARGEST_ID}]')
