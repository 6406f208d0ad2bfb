r"""Hinted Decoding: two streams, one text.

Both streams are the same model, with different prompts. The hinted stream p has
read a reference solution, the student stream q the question alone. Each token is
drawn from the mixture

.. math:: \log m = (1 - \lambda) \log p + \lambda \log q

and is appended to both streams. lambda follows from the entropy of p, see
`hinting`. After the *splitter*, a string such as ``\boxed{``, only the student
decides, so the hint cannot rescue a wrong derivation.

Source: arXiv:2602.12222, section on Hinted Decoding.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import hinting
from ddt_jax import model
from ddt_jax import stopping

Generated = engine.Generated

# (student ids, hinted ids): the prompts of one request. Callers give this order;
# the engine's streams have the other one, hinted before student, like (p, q).
Pair = tuple[Sequence[int], Sequence[int]]


@struct.dataclass
class Mixture:
  """Mixes the logits of two streams, hinted before student, see `hinting`.

  Attributes:
    beta, center: see `hinting.hint_weight`. They are traced, so other values use
      the same compiled loop.
    schedule, bounds: see `hinting.hint_weight`; static.
    first_from_hint: draw the first token from the hinted stream alone, as the
      official code does.
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
    """Returns log m [S, V] up to a constant per row.

    Args:
      logits: [2, S, V], of the hinted stream, then of the student.
      count: [S], tokens drawn so far.
      past_splitter: bool [S], whether these tokens contain the splitter.
    """
    # Each [S, V]; raw logits, as `mix` needs them only up to a constant per row.
    hinted, student = logits
    lam = self.student_weight(
        hinting.entropy(hinted), logits.shape[-1], count, past_splitter)
    return hinting.mix(hinted, student, lam)

  def student_weight(
      self, entropy_p: jax.Array, vocab_size: int, count: jax.Array,
      past_splitter: jax.Array,
  ) -> jax.Array:
    """Returns lam [S]; entropy_p [S] is the hinted stream's, see `__call__`."""
    lam = hinting.hint_weight(
        entropy_p, vocab_size, schedule=self.schedule, beta=self.beta,
        center=self.center, bounds=self.bounds)
    if self.first_from_hint:
      lam = jnp.where(count == 0, 0.0, lam)
    # After the rule of the first token, which a splitter overrules.
    return jnp.where(past_splitter, 1.0, lam)


def generate(
    params: Any,
    config: model.ModelConfig,
    pairs: Sequence[Pair],
    *,
    key: jax.Array,
    max_new_tokens: int,
    beta: float,
    schedule: str = 'linear',
    center: float = 0.5,
    bounds: Sequence[float] = (0.3, 0.7),
    temperature: float,
    top_p: float,
    greedy: bool = False,
    order: str = 'top_p_first',
    splitter: str | None = None,
    tokenizer: Any = None,
    eos_ids: Sequence[int],
    slots: int | None = None,
    first_from_hint: bool = True,
    repetition: tuple[int, int, int] | None = (30, 5, 100),  # the official code's
    official_window: bool = False,
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    log_probs: bool = False,
    on_result: Callable[[int, Generated], None] | None = None,
    cache_dtype: Any = None,
    mesh: Mesh | None = None,
    journal: engine.Journal | None = None,
) -> list[Generated]:
  """Continues two prompts by one text, drawn from the mixture of both streams.

  Args:
    params, config: the model, the same for both streams.
    pairs: (student ids, hinted ids) of each request, non-empty, of any lengths.
    beta, schedule, center, bounds: see `hinting.hint_weight`. Linear with
      beta = 0 is self-distillation: the hinted stream alone.
    splitter: string after which only the student decides, e.g. '\\boxed{'; needs
      the tokenizer. None: both streams decide up to the end.
    tokenizer: of transformers; needed for a splitter only.
    first_from_hint: draw the first token from the hinted stream alone. An EOS
      there does not end the response. Both are rules of the official code.
    prefixes: of each request, tokens of the text that are written already. Limit,
      splitter, repetition and the rule of the first token count them; they are
      not returned.
    log_probs: whether the results have log m and log q of each token.
    key, max_new_tokens, max_tokens, request_ids, on_result: see
      `engine.generate`.
    temperature, top_p, greedy, order, eos_ids, slots, repetition,
      official_window, cache_dtype, mesh, journal: see `engine.DecodeOptions`.

  Returns:
    Generated, in the order of `pairs`; `student_only_from` counts the prefix too.

  Raises:
    InputError: naming the option or the request that is invalid; or the cache of
      both streams does not fit the free memory.
  """
  options = make_options(
      config, beta=beta, schedule=schedule, center=center, bounds=bounds,
      splitter=splitter, tokenizer=tokenizer, first_from_hint=first_from_hint,
      temperature=temperature, top_p=top_p, greedy=greedy, order=order,
      eos_ids=tuple(eos_ids), slots=slots, repetition=repetition,
      official_window=official_window, cache_dtype=cache_dtype, mesh=mesh,
      journal=journal, log_probs=log_probs,
  )
  requests = make_requests(
      pairs, max_new_tokens, max_tokens, request_ids, prefixes)

  def new(i, result):
    return result._replace(tokens=result.tokens[len(requests[i].begun):])

  drawn = engine.run(
      params, config, requests, options, key=key,
      on_result=on_result and (lambda i, result: on_result(i, new(i, result))))
  return [new(i, result) for i, result in enumerate(drawn)]


def make_options(
    config: model.ModelConfig,
    *,
    beta: float,
    temperature: float,
    top_p: float,
    schedule: str = 'linear',
    center: float = 0.5,
    bounds: Sequence[float] = (0.3, 0.7),
    splitter: str | None = None,
    tokenizer: Any = None,
    first_from_hint: bool = True,
    repetition: tuple[int, int, int] | None = (30, 5, 100),
    **decoding: Any,
) -> engine.DecodeOptions:
  """Options of the engine for two streams; those of the mixture are checked."""
  # A tuple, because static fields must be hashable; configs give lists.
  mixture = Mixture(beta, center, schedule, tuple(bounds), first_from_hint)
  check_mixture(mixture, config.vocab_size)
  # Without an EOS every response would run to its limit: refuse before decoding.
  if tokenizer is not None:
    stopping.check_eos(tokenizer, config.vocab_size)
  automaton = None
  if splitter is not None:
    automaton = stopping.splitter_automaton(
        tokenizer, splitter, config.vocab_size)
  return engine.DecodeOptions(
      temperature=temperature, top_p=top_p, combine=mixture,
      first_may_end=not first_from_hint, automaton=automaton,
      repetition=repetition, **decoding,
  )


def check_mixture(mixture: Mixture, vocab_size: int) -> None:
  """Raises InputError, naming an option of the mixture that is invalid."""
  # Not in `Mixture.__post_init__`: under jit beta and center are tracers there.
  if not 0 <= mixture.beta < math.inf:
    raise errors.InputError(f'hint.beta {mixture.beta}: must be finite, and at least 0')
  if not math.isfinite(mixture.center):
    raise errors.InputError(f'hint.center {mixture.center} is not finite')
  # The bounds come from a config, where they may be text.
  numbers = [b for b in mixture.bounds if isinstance(b, int | float)]
  if len(mixture.bounds) != 2 or len(list(filter(math.isfinite, numbers))) != 2:
    raise errors.InputError(
        f'hint.bounds {mixture.bounds}: two numbers, the lower one first')
  hinting.hint_weight(  # checks the schedule, and the order of the bounds
      jnp.zeros(()), vocab_size, schedule=mixture.schedule, beta=mixture.beta,
      center=mixture.center, bounds=mixture.bounds,
  )


def make_requests(
    pairs: Sequence[Pair],
    max_new_tokens: int,
    max_tokens: Sequence[int] | None = None,
    request_ids: Sequence[int] | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[engine.Request]:
  """Requests of the engine with the streams (hinted, student), as in `Mixture`."""
  # The one place that turns the callers' order into the engine's.
  prompts = [(hinted, student) for student, hinted in pairs]
  return engine.make_requests(
      prompts, max_new_tokens, max_tokens, request_ids, prefixes)
