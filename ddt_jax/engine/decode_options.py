"""Options of a decoding run in one record, with their checks."""

import dataclasses
import hashlib
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import sampling
from ddt_jax.engine import loop_state


# eq=False: a generated comparison of the automaton's array would be ambiguous.
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DecodeOptions:
  """Options that all requests of a decoding run share.

  Attributes:
    temperature, top_p, order: see `sampling.distribution`; top_p above 0.
    greedy: take the likeliest token instead of a draw.
    combine: see `loop_state.Combine`; None with one stream.
    first_may_end: whether an EOS as the first token ends the response.
    eos_ids: any of them ends a response and is its last token.
    automaton: [states, V], see `stopping.splitter_automaton`; None without a
      splitter.
    repetition: (n, times, every). After every `every` tokens a response is
      checked, and cut if some n tokens occur `times` times (`stopping.repeats`).
      None: no check.
    official_window: see `stopping.repeats`.
    log_probs: whether results have log_m and log_q, see `ledger.Generated`.
    slots: most requests decoded together; None: 256.
    cache_dtype: of keys and values: a float of 16 bits or more, or int8 (with a
      scale for each head and token); or its name. None or '' is the compute dtype.
    mesh: slots are sharded over its `data` and `fsdp` axes, heads over `tensor`.
      The parameters are resharded to it, in the compute dtype. None: the one
      device that holds the parameters, in the dtype that they have.
    journal: keeps and shows what is drawn, see `journaling.Journal`; None: nothing.
  """

  eos_ids: tuple[int, ...]
  temperature: float = 1.0
  top_p: float = 1.0
  greedy: bool = False
  order: str = 'top_p_first'
  combine: loop_state.Combine | None = None
  first_may_end: bool = True
  automaton: np.ndarray | None = None
  repetition: tuple[int, int, int] | None = None
  official_window: bool = False
  log_probs: bool = False
  slots: int | None = None
  cache_dtype: Any = None
  mesh: Mesh | None = None
  journal: Any = None

  def rule(self) -> loop_state.SamplingRule:
    """Returns the options that the compiled loop takes to choose a token."""
    return loop_state.SamplingRule(
        self.temperature, self.top_p, self.order, self.greedy, self.combine,
        self.first_may_end, self.log_probs,
    )

  def identity(self) -> list[Any]:
    """Returns, JSON-able, the options that decide what is drawn."""
    automaton = None
    if self.automaton is not None:
      automaton = hashlib.sha256(self.automaton.tobytes()).hexdigest()
    return [
        self.temperature, self.top_p, self.greedy, self.order, repr(self.combine),
        self.first_may_end, list(map(int, self.eos_ids)), self.repetition,
        self.official_window, automaton, self.log_probs]

  def stop_tables(self, vocab_size: int) -> loop_state.StopTables:
    """Returns the tables of the EOS tokens and the splitter, in NumPy."""
    # A table, not a list: another number of EOS ids does not compile the loop again.
    eos = np.zeros(vocab_size, bool)
    eos[list(self.eos_ids)] = True
    if self.automaton is None:
      # One state that is never left, so the compiled loop needs no other branch.
      splitter = np.zeros((1, vocab_size), np.int32)
      return loop_state.StopTables(eos, splitter, -1)
    # Padded to a multiple of 16 states, so that splitters of up to 15 bytes share
    # a compiled loop, those of 16 to 31 bytes another, and so on.
    states = -(-len(self.automaton) // 16) * 16
    table = np.zeros((states, vocab_size), np.int32)
    table[:len(self.automaton)] = self.automaton
    return loop_state.StopTables(eos, table, len(self.automaton) - 1)

  def resolved_cache_dtype(self, config: model.ModelConfig) -> jnp.dtype:
    """Returns the dtype of keys and values for this model.

    Raises:
      InputError: `cache_dtype` is neither a float of 16 bits or more nor int8.
    """
    given = self.cache_dtype
    if given is None or isinstance(given, str) and not given:
      given = config.dtype
    try:
      dtype = jnp.dtype(given)
    except TypeError:
      dtype = None
    # Floats are stored without scales, so 8 bits would clip them.
    if dtype is None or not (
        dtype == jnp.int8
        or jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize >= 2
    ):
      raise errors.InputError(
          f'decoding.cache_dtype {dtype or given}: choose a float of 16 bits or'
          ' more, such as bfloat16, or int8')
    return dtype

  def check(self, config: model.ModelConfig) -> None:
    """Raises InputError, naming an option that is invalid for this model."""
    # `not >`: NaN is refused too.
    if not self.greedy and not self.temperature > 0:
      raise errors.InputError(
          f'temperature {self.temperature} is not positive; for the likeliest'
          ' token choose greedy=True')
    if not 0 < self.top_p <= 1:
      raise errors.InputError(f'top_p {self.top_p} is not in (0, 1]')
    sampling.check_order(self.order)
    if bad := [i for i in self.eos_ids if not 0 <= i < config.vocab_size]:
      raise errors.InputError(
          f'EOS ids {bad} are outside the vocabulary of {config.vocab_size}')
    if self.slots is not None and self.slots < 1:
      raise errors.InputError(f'decoding.slots {self.slots}: must be at least 1')
    if self.repetition is not None and (
        len(self.repetition) != 3 or min(self.repetition) < 1
    ):
      raise errors.InputError(
          f'repetition {self.repetition}: n, times and every must be positive')
    self.resolved_cache_dtype(config)
