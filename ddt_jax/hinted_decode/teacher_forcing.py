"""log m and log q of given texts, by teacher forcing."""

from collections.abc import Iterator, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import sharding
from ddt_jax import stopping
from ddt_jax.data import buckets
from ddt_jax.hinted_decode import two_streams

# Tokens of a batch, both prompts and padding included; bounds the activations.
_BATCH_TOKENS = 16384
# Logits of one stream that exist together: 2^24 float32 are 64 MiB.
_TILE_LOGITS = 1 << 24


def score(
    params: Any,
    config: model.ModelConfig,
    pairs: Sequence[two_streams.Pair],
    responses: Sequence[Sequence[int]],
    *,
    beta: float,
    schedule: str = 'linear',
    center: float = 0.5,
    bounds: Sequence[float] = (0.3, 0.7),
    temperature: float,
    top_p: float,
    order: str = 'top_p_first',
    splitter: str | None = None,
    tokenizer: Any = None,
    first_from_hint: bool = True,
    mesh: Mesh | None = None,
) -> list[tuple[list[float], list[float]]]:
  """Log-probabilities of texts that `generate` might draw, in one pass each.

  They are those that `generate(log_probs=True)` returns for a text of its own, up
  to float32 rounding. Rounding may also move a token across the border of a
  nucleus; log m is then -inf in one of the two.

  Args:
    params, config: the model.
    pairs: (student ids, hinted ids) of each text, non-empty.
    responses: the texts, token ids without prompts; may be empty.
    mesh: the texts are spread over its `data` and `fsdp` axes. None: where the
      parameters are.
    beta, schedule, center, bounds, temperature, top_p, order, splitter, tokenizer,
      first_from_hint: see `generate`.

  Returns:
    (log_m, log_q) of each text, in order; lists with one number a token, nats.
    log_m is -inf outside the nucleus.

  Raises:
    InputError: naming the option or the text that is invalid.
  """
  options = two_streams.make_options(
      config, beta=beta, schedule=schedule, center=center, bounds=bounds,
      splitter=splitter, tokenizer=tokenizer, first_from_hint=first_from_hint,
      temperature=temperature, top_p=top_p, order=order, eos_ids=(),
  )
  options.check(config)
  _check(config, pairs, responses)
  found: list[Any] = [([], []) for _ in responses]
  if mesh is not None:
    params = sharding.reshard(params, mesh, config.dtype)
  for members, arrays in _batches(pairs, responses, options.automaton, mesh):
    both = np.asarray(_batch_log_probs(
        params, config, *arrays, options.rule().replace(log_probs=True), mesh))
    for i, row in zip(members, both, strict=False):  # rows beyond are padding
      n = len(responses[i])
      found[i] = row[:n, 0].tolist(), row[:n, 1].tolist()
  return found


def _check(config, pairs, responses) -> None:
  """Raises InputError, naming a text that the model cannot read."""
  if len(pairs) != len(responses):
    raise errors.InputError(
        f'{len(pairs)} pairs of prompts for {len(responses)} responses')
  for i, (pair, response) in enumerate(zip(pairs, responses, strict=True)):
    if not all(map(len, pair)):
      raise errors.InputError(f'text {i}: an empty prompt')
    longest = max(map(len, pair)) + len(response)
    if longest > config.max_positions:
      raise errors.InputError(
          f'text {i}: {longest} tokens, prompt and response, exceed the'
          f" model's {config.max_positions} positions")
    ids = [*pair[0], *pair[1], *response]
    if min(ids) < 0 or max(ids) >= config.vocab_size:
      raise errors.InputError(
          f'text {i}: a token id outside the vocabulary of {config.vocab_size}')


def _batches(
    pairs: Sequence[two_streams.Pair],
    responses: Sequence[Sequence[int]],
    automaton: np.ndarray | None,
    mesh: Mesh | None,
) -> Iterator[tuple[list[int], tuple[Any, ...]]]:
  """Yields (indices of the texts, arguments of `_batch_log_probs`).

  Texts of similar length share a batch; lengths are rounded up for few shapes.
  """
  def size(i):
    return max(map(len, pairs[i])) + len(responses[i])

  devices = 1 if mesh is None else mesh.shape['data'] * mesh.shape['fsdp']
  order = sorted(
      (i for i, r in enumerate(responses) if len(r)), key=size, reverse=True)
  while order:
    time = buckets.padded_length(size(order[0]))
    # The number of rows follows from the length alone, unless texts are few.
    few = 1 << (len(order) - 1).bit_length()
    rows = max(min(_BATCH_TOKENS // (2 * time), few), 1)
    rows = -(-rows // devices) * devices
    members, order = order[:rows], order[rows:]
    width = min(
        time, buckets.padded_length(max(len(responses[i]) for i in members)))
    # [2, rows, time]: hinted before student, as everywhere in the engine.
    tokens = np.zeros((2, rows, time), np.int32)
    start = np.ones((2, rows), np.int32)
    targets = np.zeros((rows, width), np.int32)
    past_splitter = np.zeros((rows, width), bool)
    for row, i in enumerate(members):
      student, hinted = pairs[i]
      n = len(responses[i])
      targets[row, :n] = responses[i]
      for stream, prompt in enumerate((hinted, student)):
        tokens[stream, row, :len(prompt) + n] = [*prompt, *responses[i]]
        start[stream, row] = len(prompt)
      found = stopping.found_at(automaton, responses[i])
      if found is not None:
        past_splitter[row, found:] = True
    yield members, (tokens, start, targets, past_splitter)


@functools.partial(jax.jit, static_argnames=('config', 'mesh'))
def _batch_log_probs(
    params: Any,
    config: model.ModelConfig,
    tokens: jax.Array,
    start: jax.Array,
    targets: jax.Array,
    past_splitter: jax.Array,
    rule: Any,
    mesh: Mesh | None,
) -> jax.Array:
  """log m and log q of the targets of a batch.

  Args:
    params, config, mesh: see `score`.
    tokens: [2, B, T], prompt and response of both streams; 0 beyond.
    start: [2, B], tokens of each prompt.
    targets: [B, R], the responses; 0 beyond.
    past_splitter: bool [B, R], whether the splitter stands before the token.
    rule: `engine`'s SamplingRule.

  Returns:
    [B, R, 2] float32; any numbers beyond a response.
  """
  _, rows, time = tokens.shape
  # Padding stands to the right of all tokens, so no query sees it.
  hidden, _ = model.forward(
      params, config, tokens.reshape(2 * rows, time), return_hidden=True, mesh=mesh)
  count = jnp.broadcast_to(jnp.arange(targets.shape[1]), targets.shape)
  # The token before a target predicts it. [2, B, R], bounded for padding.
  at = jnp.minimum(start[..., None] - 1 + count, time - 1)
  hidden = jnp.take_along_axis(
      hidden.reshape(2, rows, time, -1), at[..., None], 2)

  found = _in_tiles(params, config, hidden, targets, count, past_splitter, rule)
  if mesh is not None:  # every process reads all of it
    found = jax.lax.with_sharding_constraint(found, sharding.replicated(mesh))
  return found


def _in_tiles(params, config, hidden, targets, count, past_splitter, rule):
  """log m and log q [B, R, 2] from hidden [2, B, R, D]; others are [B, R].

  Goes through the tokens a tile at a time: the logits of all would not fit.
  """
  n = targets.size
  size = min(n, max(1, _TILE_LOGITS // config.vocab_size))
  padding = -n % size

  def tile(x):
    hidden, targets, count, past_splitter = x  # [2, size, D], others [size]
    logits = model.logits(params, hidden)
    mixed = rule.combine(logits, count, past_splitter)
    log_m = sampling.log_distribution(
        mixed, temperature=rule.temperature, top_p=rule.top_p, order=rule.order)
    both = jnp.stack([log_m, jax.nn.log_softmax(logits[1])])
    return jnp.take_along_axis(both, targets[None, :, None], -1)[..., 0].T

  hidden = jnp.pad(hidden.reshape(2, n, -1), ((0, 0), (0, padding), (0, 0)))
  hidden = hidden.reshape(2, -1, size, hidden.shape[-1])
  others = [
      jnp.pad(x.reshape(-1), (0, padding)).reshape(-1, size)
      for x in (targets, count, past_splitter)]
  found = jax.lax.map(tile, (jnp.moveaxis(hidden, 1, 0), *others))
  found = found.reshape(-1, 2)[:n].reshape(*targets.shape, 2)
  return found.astype(jnp.float32)
