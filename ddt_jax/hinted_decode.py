r"""Hinted Decoding: two streams, one text.

The hinted stream p has read a reference solution, the student stream q the
question alone; both are rows of one batch. Each token is drawn from

.. math:: \log m = (1 - \lambda) \log p + \lambda \log q

with lambda from the entropy of p (see `hinting`), and appended to both. Once the
splitter has appeared the student alone speaks: a wrong derivation is not rescued
by the hint. Source: arXiv:2602.12222, section on Hinted Decoding.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddt_jax import engine
from ddt_jax import hinting
from ddt_jax import model
from ddt_jax import stopping
from ddt_jax.engine import device_loop
from ddt_jax.engine import requests

Generated = engine.Generated


@struct.dataclass
class Mixture:
  """How the streams' distributions become one; see `hinting`.

  Attributes:
    beta, center: see `hinting.hint_weight`; another number needs no compilation.
    schedule, bounds: see `hinting.hint_weight`.
    first_from_hint: the first token is the hinted stream's alone.
  """

  beta: float
  center: float = 0.5
  schedule: str = struct.field(pytree_node=False, default='linear')
  bounds: tuple[float, float] = struct.field(
      pytree_node=False, default=(0.3, 0.7)
  )
  first_from_hint: bool = struct.field(pytree_node=False, default=True)

  def __call__(
      self, logits: jax.Array, count: jax.Array, past_splitter: jax.Array
  ) -> jax.Array:
    """logits [2, S, V], tokens so far [S], bool [S] -> log m + constant [S, V]."""
    hinted, student = logits
    lam = hinting.hint_weight(
        hinting.entropy(hinted), logits.shape[-1], schedule=self.schedule,
        beta=self.beta, center=self.center, bounds=self.bounds,
    )
    if self.first_from_hint:
      lam = jnp.where(count == 0, 0.0, lam)
    lam = jnp.where(past_splitter, 1.0, lam)
    return hinting.mix(hinted, student, lam)


def generate(
    params: Any,
    config: model.ModelConfig,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    key: jax.Array,
    max_new_tokens: int,
    beta: float,
    schedule: str = 'linear',
    center: float = 0.5,
    bounds: tuple[float, float] = (0.3, 0.7),
    temperature: float,
    top_p: float,
    greedy: bool = False,
    order: str = 'top_p_first',
    splitter: str | None = None,
    tokenizer: Any = None,
    eos_ids: Sequence[int],
    slots: int | None = None,
    first_from_hint: bool = True,
    repetition: tuple[int, int, int] | None = (30, 5, 100),
    official_window: bool = False,
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
    on_result: Callable[[int, Generated], None] | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> list[Generated]:
  """Continues two contexts with one text; see the module.

  Args:
    params, config: the model, the same for both streams.
    pairs: (student ids, hinted ids), each non-empty, of any lengths.
    beta, schedule, center, bounds: see `hinting.hint_weight`; linear with
      beta = 0 is self-distillation, the hinted stream alone.
    splitter: what ends the hint's say, e.g. '\\boxed{'; needs the tokenizer.
    tokenizer: of transformers.
    first_from_hint: the first token comes from the hinted stream alone, and
      does not end the response.
    repetition: (window, times, every), see `engine.generate`.
    key, max_new_tokens, temperature, top_p, greedy, order, eos_ids, slots,
      official_window, max_tokens, request_ids, on_result, cache_dtype, mesh,
      progress: see `engine.generate`.

  Returns:
    Generated, in the order of `pairs`.

  Raises:
    ValueError: an option or a request that cannot be served, by name.
  """
  if beta < 0:
    raise ValueError(f'hint.beta {beta} is negative')
  mixture = Mixture(beta, center, schedule, tuple(bounds), first_from_hint)
  hinting.hint_weight(
      jnp.zeros(()), config.vocab_size, schedule=schedule, beta=beta,
      center=center, bounds=bounds,
  )
  if tokenizer is not None:
    stopping.check_eos(tokenizer, config.vocab_size)
  automaton = None
  if splitter is not None:
    automaton = stopping.splitter_automaton(
        tokenizer, splitter, config.vocab_size
    )
  rule = device_loop.Rule(
      temperature, top_p, order, greedy, mixture,
      first_may_end=not first_from_hint,
  )
  asked = requests.make(
      [(hinted, student) for student, hinted in pairs], max_new_tokens,
      max_tokens, request_ids,
  )
  return engine.run(
      params, config, asked, rule, key=key, eos_ids=eos_ids, slots=slots,
      automaton=automaton, repetition=repetition,
      official_window=official_window, on_result=on_result,
      cache_dtype=cache_dtype, mesh=mesh, progress=progress,
  )


class Rewritten(NamedTuple):
  """A reference solution in the model's own words.

  Attributes:
    tokens, finish, student_only_from: see `engine.Generated`; finish is
      'skipped' where there are no tokens for `reason`.
    analysis: tokens that the model wrote before, up to the marker.
    reason: why the request was skipped, or ''.
  """

  tokens: list[int]
  finish: str
  student_only_from: int | None
  analysis: list[int]
  reason: str


def rewrite(
    params: Any,
    config: model.ModelConfig,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    tokenizer: Any,
    key: jax.Array,
    max_new_tokens: int,
    max_analysis_tokens: int,
    eos_ids: Sequence[int],
    marker: str = '# CoT\n',
    slots: int | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    **options: Any,
) -> list[Rewritten]:
  """Lets the model analyse each solution greedily, then rewrite it.

  What it wrote is cut, in token space, after the last marker; from there on the
  hinted stream goes on as in `generate`. Its context is read again: reading is
  many times as fast as decoding, and a slot that kept its cache until all
  analyses are written would stand idle. A request without a marker, or too long
  for the model's positions, is skipped and says why.

  Args:
    params, config: the model.
    requests: (student ids, ids of a `prompts.Template`'s chat), see
      `chat.encode_prompt`.
    tokenizer: of transformers.
    key: random key.
    max_new_tokens: of a rewritten solution.
    max_analysis_tokens: of an analysis and what follows it unasked; fewer where
      the model's positions would not hold the rewritten solution as well.
    eos_ids: any of them ends a text.
    marker: after it the model speaks in its own words.
    slots, cache_dtype, mesh, progress: see `engine.generate`.
    **options: of `generate`, the same for all requests.

  Returns:
    Rewritten, in the order of `requests`.

  Raises:
    ValueError: an option or a request that cannot be served, by name, before
      anything is decoded.
  """
  shared = dict(
      key=key, eos_ids=eos_ids, slots=slots, cache_dtype=cache_dtype, mesh=mesh,
      progress=progress,
  )
  if own := {'max_tokens', 'request_ids', 'on_result'} & options.keys():
    raise ValueError(f'{sorted(own)} go with single requests, not with `rewrite`')
  tell = functools.partial(
      generate, params, config, tokenizer=tokenizer, **shared, **options
  )
  results: list[Any] = [None] * len(requests)

  def skip(i, analysis, reason):
    results[i] = Rewritten([], 'skipped', None, analysis, reason)

  ids, rooms = [], []
  for i, (student, hinted) in enumerate(requests):
    room = config.max_positions - max_new_tokens - len(hinted)
    if room < 1 or len(student) + max_new_tokens > config.max_positions:
      longer = max(len(student), len(hinted))
      skip(i, [], f'{longer} tokens leave no room for {max_new_tokens}')
    else:
      ids.append(i)
      rooms.append(room)
  # Decodes nothing: what is wrong with an option or a request is said here.
  tell([requests[i] for i in ids], max_new_tokens=0, request_ids=ids)
  written = engine.generate(
      params, config, [requests[i][1] for i in ids], greedy=True,
      max_new_tokens=max_analysis_tokens, max_tokens=rooms, request_ids=ids,
      **shared,
  )
  pieces = stopping.token_bytes(tokenizer, config.vocab_size)
  pairs = {}
  for i, found in zip(ids, written, strict=True):
    stop = stopping.after_last(pieces, marker, found.tokens)
    if stop is None:
      skip(i, found.tokens, f'no {marker!r} in the analysis ({found.finish})')
    else:
      student, hinted = requests[i]
      pairs[i] = student, [*hinted, *found.tokens[:stop]]
  told = tell(
      list(pairs.values()), max_new_tokens=max_new_tokens,
      request_ids=list(pairs),
  )
  for (i, (_, context)), found in zip(pairs.items(), told, strict=True):
    analysis = context[len(requests[i][1]):]
    results[i] = Rewritten(*found, analysis, '')
  return results
