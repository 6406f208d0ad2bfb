"""Which texts the target holds: complete ones, kept short enough, and right."""

from collections.abc import Callable, Sequence

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import stopping

# (texts, index of the pair that each one answers) -> whether each is right
IsRight = Callable[[list[list[int]], list[int]], Sequence[bool]]


class Rules:
  """Tells which texts count; remembers every verdict.

  Attributes:
    limits: most tokens of a text, of each pair.
  """

  def __init__(
      self, pairs, is_right: IsRight, eos_ids, max_new_tokens: int, max_tokens,
      repetition, official_window: bool,
  ):
    self._is_right, self._eos = is_right, frozenset(map(int, eos_ids))
    self._repetition, self._official_window = repetition, official_window
    self.limits = [max_new_tokens] * len(pairs)
    if max_tokens is not None:
      if len(max_tokens) != len(pairs):
        raise errors.InputError('max_tokens must have one limit for each pair')
      self.limits = [min(max_new_tokens, n) for n in max_tokens]
    self._verdicts: dict[tuple[int, tuple[int, ...]], bool] = {}

  def ends_once(self, text: Sequence[int]) -> bool:
    """Whether an end token is the last token and no other."""
    ends = [t in self._eos for t in text]
    return bool(ends) and ends[-1] and sum(ends) == 1

  def repeats(self, text: Sequence[int]) -> bool:
    """Whether `generate` would cut the text off."""
    if self._repetition is None:
      return False
    n, times, every = self._repetition
    return any(
        stopping.repeats(
            text[:stop], n=n, times=times, official_window=self._official_window)
        for stop in range(every, len(text), every))

  def right(self, texts, pairs: Sequence[int]) -> list[bool]:
    """Verdicts; those of texts that were judged before are remembered."""
    keys = [(p, tuple(t)) for p, t in zip(pairs, texts, strict=True)]
    unknown = list(dict.fromkeys(k for k in keys if k not in self._verdicts))
    if unknown:
      # Process 0 judges for all: a time-out in one alone would part their chains.
      found = processes.from_first(lambda: [bool(v) for v in self._is_right(
          [list(text) for _, text in unknown], [pair for pair, _ in unknown])])
      self._verdicts.update(zip(unknown, found, strict=True))
    return [self._verdicts[k] for k in keys]

  def counting(self, texts, finishes, pairs: Sequence[int]) -> list[bool]:
    """Which proposals count. Incomplete ones do not, and are not judged."""
    complete = [
        i for i, finish in enumerate(finishes)
        if finish == 'eos' and self.ends_once(texts[i])]
    right = self.right(
        [texts[i] for i in complete], [pairs[i] for i in complete])
    counting = [False] * len(texts)
    for i, verdict in zip(complete, right, strict=True):
      counting[i] = verdict
    return counting
