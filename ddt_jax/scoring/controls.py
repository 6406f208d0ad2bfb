"""Controls of the self-test: changes that it has to tell from own samples.

A test that cannot fail proves nothing. A control changes the weights a little, or
shifts the mask by one token. Both change the summed phi of a response, whose mean
is 0 for own samples. The change is measured pair by pair, on the same texts, so
that their common noise cancels.

A change that is too small to be seen makes a control *too weak*. Then it says
nothing about the test.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax.data import chat
from ddt_jax.scoring import calibration
from ddt_jax.scoring import forward

# Scores examples: (params, examples) -> Pending, see `forward.dispatch`.
Dispatch = Callable[..., forward.Pending]


@dataclasses.dataclass(frozen=True)
class Control:
  """Own samples after a change.

  Attributes:
    test: the self-test after the change.
    change, change_se: of a response's summed phi, mean and standard error, nats.
  """

  test: calibration.SelfTest
  change: float
  change_se: float

  @property
  def is_told(self) -> bool:
    """Whether the change is seen; otherwise the control is too weak."""
    seen = abs(self.change) > calibration.STANDARD_ERRORS * self.change_se
    return seen or not self.test.passed


def perturbed(params: Any, key: jax.Array, scale: float) -> Any:
  """Parameters, each times 1 + scale * a standard normal: another model."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  return jax.tree.unflatten(tree, [
      x * (1 + scale * jax.random.normal(k, x.shape, x.dtype))
      for k, x in zip(keys, leaves, strict=True)
  ])


def noisy_weights(
    params: Any, texts: calibration.Texts, prompts: Sequence[Sequence[int]],
    dispatch: Dispatch, *, noise: float, seed: int, most: int = 500,
    check_stop: Callable[[], None] = lambda: None,
) -> Control:
  """Own samples under weights with relative noise.

  Args:
    params: of the model that wrote the texts.
    texts: its samples.
    prompts: one for each text.
    dispatch: scores examples.
    noise: relative, on every weight.
    seed: of the noise and of the randomised PIT.
    most: texts, the first ones, that are scored.
    check_stop: called after each batch; may raise to end the call.
  """
  lengths = texts.lengths[:most]
  examples = [
      chat.answered(prompt, ids[:n]) for prompt, ids, n in zip(
          prompts, texts.ids[:most], lengths, strict=False)]
  _, stats = dispatch(
      perturbed(params, jax.random.key(seed), noise), examples=examples, tail=True
  ).collect(check_stop)
  starts = np.cumsum(lengths) - lengths
  mask = texts.mask[:most]
  change = np.add.reduceat(
      (stats.phi - texts.stats.phi[:most][mask]).astype(np.float64), starts)
  return Control(
      calibration.measured(stats, calibration.randomised_pit(stats, seed), lengths),
      *_mean(change))


def shifted_mask(
    params: Any, texts: calibration.Texts, prompts: Sequence[Sequence[int]],
    dispatch: Dispatch, *, seed: int
) -> Control:
  r"""Own samples under a mask that is one token too early.

  It is the mistake of the paper's trainer, see `batches.collate`: the prompt's last
  token is supervised and the response's last token is not. All tokens between stay
  the same, so a response's summed phi changes by

  .. math:: \phi(\text{last of the prompt}) - \phi(\text{last of the response}).

  Chat templates often write both without doubt. Then the control is too weak.

  Args:
    params, texts, prompts, dispatch: see `noisy_weights`.
    seed: of the randomised PIT.
  """
  # Many texts answer the same prompt: each is scored once.
  distinct = list(dict.fromkeys(map(tuple, prompts)))
  _, stats = dispatch(params, examples=[
      _last_token(prompt) for prompt in distinct], tail=True).collect()
  index = {prompt: i for i, prompt in enumerate(distinct)}
  of_text = np.array([index[tuple(prompt)] for prompt in prompts])
  before = stats.map(lambda x: x[of_text])
  pit = calibration.randomised_pit(before, seed)

  ends = texts.lengths - 1, np.arange(len(texts.ids))
  last = texts.stats.map(lambda x: x[ends[1], ends[0]])
  change = (before.phi - last.phi).astype(np.float64)
  # A token that is nearly certain has nearly the same phi in every text, until the
  # model draws another one. The spread of a few texts would then be far too small.
  expected = float(np.mean(before.varentropy + last.varentropy))

  moved = ddt.TokenStats(*(
      _one_earlier(getattr(before, name), getattr(texts.stats, name))
      for name in ('log_p', 'entropy', 'varentropy')))
  mask = texts.mask
  return Control(
      calibration.measured(
          moved.map(lambda x: x[mask]), _one_earlier(pit, texts.pit)[mask],
          texts.lengths),
      *_mean(change, expected))


def _last_token(prompt: Sequence[int]) -> chat.Example:
  """The prompt with its last token supervised."""
  return chat.answered(prompt[:-1], prompt[-1:])


def _one_earlier(first: np.ndarray, x: np.ndarray) -> np.ndarray:
  """[texts, T] moved by one place, `first` [texts] before it."""
  return np.concatenate([first[:, None], x[:, :-1]], 1)


def _mean(x: np.ndarray, variance: float = 0.0) -> tuple[float, float]:
  """Mean and standard error; the variance is at least the given one."""
  error = np.sqrt(max(float(np.var(x)), variance) / max(len(x), 1))
  return float(np.mean(x)), float(error)
