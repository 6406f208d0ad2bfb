"""The self-test: the model's own samples must look like its own.

If they do not, something between sampling and scoring is wrong: the tokenizer,
the chat template, a dtype or the mask. Then no score can be trusted.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import significance
from ddt_jax.data import chat
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import forward
from ddt_jax.scoring import response_scores
from ddt_jax.scoring import sources
from ddt_jax.scoring import token_sums

# Bounds that a sound model rarely exceeds by chance: |mean phi| in 0.3 % of the
# tests, the PIT in 1 %, the variance of z in 0.2 % at 2,000 samples (its standard
# error is sqrt(2 / samples), so use about that many).
STANDARD_ERRORS = 3.0
MIN_P = 0.01
VARIANCE = (0.9, 1.1)

# Scores examples: (params, examples) -> Pending, see `forward.dispatch`.
Dispatch = Callable[..., forward.Pending]


@dataclasses.dataclass(frozen=True)
class SelfTest:
  """Measurements on own samples, and whether they are as they must be.

  Attributes:
    phi, phi_se: mean over tokens and its standard error, nats.
    pit: test of the tokens' PIT against the uniform distribution.
    z_variance: see `stopped_variance`; None where it was not measured.
  """

  phi: float
  phi_se: float
  pit: significance.KolmogorovSmirnov
  z_variance: float | None = None

  @classmethod
  def of(
      cls, numbers: corpus_summary.Numbers, z_variance: float | None = None
  ) -> 'SelfTest':
    return cls(numbers.phi, numbers.phi_se, numbers.pit, z_variance)

  @property
  def phi_is_zero(self) -> bool:
    return abs(self.phi) <= STANDARD_ERRORS * self.phi_se

  @property
  def pit_is_uniform(self) -> bool:
    return self.pit.p_value > MIN_P

  @property
  def variance_is_one(self) -> bool:
    """Also true where it was not measured."""
    if self.z_variance is None:
      return True
    return VARIANCE[0] <= self.z_variance <= VARIANCE[1]

  @property
  def passed(self) -> bool:
    return self.phi_is_zero and self.pit_is_uniform and self.variance_is_one


@dataclasses.dataclass(frozen=True)
class FalsePositives:
  """Own samples of one length that the tests reject at 5 %.

  Attributes:
    length: tokens.
    varentropy: median over samples of the summed varentropy, nats^2.
    z_variance: over samples.
    z, pit: shares rejected by the z-test and by the PIT test.
  """

  length: int
  varentropy: float
  z_variance: float
  z: significance.Interval
  pit: significance.Interval


def perturbed(params: Any, key: jax.Array, scale: float) -> Any:
  """Parameters, each times 1 + scale * a standard normal: another model."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  return jax.tree.unflatten(tree, [
      x * (1 + scale * jax.random.normal(k, x.shape, x.dtype))
      for k, x in zip(keys, leaves, strict=True)
  ])


def shifted(example: chat.Example) -> chat.Example:
  """The example with its mask one token too early, without the stop token."""
  # The mistake of the paper's trainer, see `batches.collate`.
  return example._replace(supervised=np.append(example.supervised[1:], False))


def randomised_pit(stats: ddt.TokenStats, seed: int) -> np.ndarray:
  """The PIT of each token, randomised by NumPy's generator of this seed."""
  uniform = np.random.default_rng(seed).random(stats.log_p.shape)
  return ddt.randomised_pit(stats, uniform.astype(np.float32))


def self_test(pending: forward.Pending, seed: int) -> SelfTest:
  """The self-test of examples that are being scored, without the variance of z.

  Args:
    pending: the examples.
    seed: of the randomised PIT.
  """
  lengths, stats = pending.collect()
  pit = randomised_pit(stats, seed)
  columns = response_scores.per_response(stats, lengths, pit)
  columns['rejected'] = significance.false_discoveries(columns['pit_p_value'])
  sums = token_sums.TokenSums.of(stats.phi, lengths, pit)
  return SelfTest.of(corpus_summary.numbers(columns, sums))


def controls(
    params: Any, samples: sources.Samples, dispatch: Dispatch, *, noise: float,
    seed: int, block: int
) -> dict[str, SelfTest]:
  """The self-test of own samples under other weights and under a wrong mask.

  Both must fail: they show that the test can.

  Args:
    params: of the model that wrote the samples.
    samples: its own.
    dispatch: scores examples.
    noise: relative, on every weight.
    seed: of the noise and of the randomised PIT.
    block: samples tokenised at a time.
  """
  examples = [row.example for rows in samples.blocks(block, 0) for row in rows]
  # A test that cannot fail proves nothing: it has to notice a slightly different
  # model and a mask that is off by one.
  noisy = perturbed(params, jax.random.key(seed), noise)
  moved = [shifted(example) for example in examples]
  return {
      name: self_test(dispatch(weights, examples=texts, tail=True), seed)
      for name, weights, texts in (
          (f'weights with {noise:.0%} noise', noisy, examples),
          ('a mask shifted by one token', params, moved))
  }


def endless_samples(
    params: Any,
    config: model.ModelConfig,
    prompts: Sequence[Sequence[int]],
    dispatch: Dispatch,
    *,
    samples: int,
    length: int,
    max_tokens: int,
    key: jax.Array,
    seed: int,
    temperature: float,
    decoding: Mapping[str, Any],
    block: int,
) -> tuple[ddt.TokenStats, np.ndarray]:
  """Samples of exactly `length` tokens, which no stop token ends.

  Args:
    params, config: the model.
    prompts: taken in turn; those that leave no room are left out.
    dispatch: scores examples.
    samples: number of texts.
    length: tokens of each.
    max_tokens: of prompt and text together.
    key, seed: of the samples, and of the randomised PIT.
    temperature: of the samples, above 0.
    decoding: options of `engine.generate`; its eos_ids are ignored.
    block: texts scored at a time.

  Returns:
    TokenStats and the PIT, NumPy arrays [samples, length].

  Raises:
    errors.InputError: no prompt leaves room.
  """
  fitting = [p for p in prompts if len(p) + length <= max_tokens]
  if not fitting:
    raise errors.InputError(
        f'no prompt leaves room for {length} tokens in {max_tokens}; choose'
        ' shorter --config.calibration.lengths')
  chosen = [fitting[i % len(fitting)] for i in range(samples)]
  drawn = engine.generate(
      params, config, chosen, key=key, max_new_tokens=length,
      # Without stop tokens all texts have one length, which the count by length
      # needs. They stay samples of the model: a stop token is then a token like
      # others.
      temperature=temperature, **{**decoding, 'eos_ids': ()})
  examples = [
      chat.answered(p, g.tokens) for p, g in zip(chosen, drawn, strict=True)]
  parts = []
  for first in range(0, samples, block):
    _, stats = dispatch(
        params, examples=examples[first: first + block], tail=True).collect()
    parts.append(stats.map(lambda x: x.reshape(-1, length)))
  stats = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return stats, randomised_pit(stats, seed)


def stopped_variance(
    stats: ddt.TokenStats, enough: float = response_scores.ENOUGH_VARENTROPY
) -> float:
  """Variance of z of texts, each cut where its varentropies first sum to `enough`.

  Cut without looking ahead, they are still samples of the model. Texts selected
  by their final sum are not: one unlikely token makes all that follows uncertain.

  Args:
    stats: TokenStats of [texts, T].
    enough: nats^2.
  """
  variance = np.cumsum(stats.varentropy, 1, dtype=np.float64)
  last = np.minimum((variance < enough).sum(1), variance.shape[1] - 1)[:, None]
  phi = np.take_along_axis(np.cumsum(stats.phi, 1, dtype=np.float64), last, 1)
  return float(np.var(phi / np.sqrt(np.take_along_axis(variance, last, 1))))


def false_positives(
    stats: ddt.TokenStats, pit: np.ndarray, lengths: Sequence[int]
) -> list[FalsePositives]:
  """Share of own samples that either test rejects at 5 %, by length.

  Args:
    stats: TokenStats of NumPy arrays [texts, T], see `endless_samples`.
    pit: [texts, T].
    lengths: at most T each; the beginning of each text is tested.
  """
  found = []
  for n in lengths:
    begun, mask = stats.map(lambda x, n=n: x[:, :n]), np.ones((len(pit), n))
    by_z = ddt.on_policy_test(begun, mask)
    by_pit = ddt.pit_test(pit[:, :n], begun.varentropy, mask)
    shares = [
        significance.wilson(int(np.sum(p < significance.LEVEL)), len(p))
        for p in (by_z.p_value, by_pit)]
    found.append(FalsePositives(
        n, float(np.median(begun.varentropy.sum(1))), float(np.var(by_z.z)),
        *shares))
  return found
