"""The self-test: does the model take its own samples for its own?

If not, something between sampling and scoring is wrong: the tokenizer, the chat
template, a dtype or the mask. No score is to be trusted then.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import significance
from ddt_jax.data import chat
from ddt_jax.report import run_words
from ddt_jax.scoring import corpus_stats

# What chance alone exceeds seldom enough.
STANDARD_ERRORS = 3.0
VARIANCE = (0.9, 1.1)
MIN_P = 0.01


def check(
    numbers: dict[str, Any], stopped: float | None = None
) -> list[tuple[str, str, bool]]:
  """(what should be, what is, whether it is so) for own samples.

  Args:
    numbers: of a corpus, see `score_summary.numbers`.
    stopped: see `stopped_variance`.
  """
  phi, error, pit = numbers['phi'], numbers['phi_se'], numbers['pit']
  checks = [
      (f'mean phi is 0 within {STANDARD_ERRORS:g} standard errors',
       f'{phi:+.5f}, standard error {error:.5f}',
       abs(phi) <= STANDARD_ERRORS * error),
      (f'the PIT is uniform: Kolmogorov-Smirnov p > {MIN_P:g}',
       f'D = {pit["distance"]:.5f}, p = {pit["p_value"]:.3g}',
       pit['p_value'] > MIN_P),
  ]
  if stopped is not None:
    checks.append((
        f'Var z is 1 within {VARIANCE[1] - 1:.1f} once varentropies sum to'
        f' {corpus_stats.ENOUGH_VARENTROPY:g} nats^2',
        f'{stopped:.3f}', VARIANCE[0] <= stopped <= VARIANCE[1]))
  return checks


def passed(checks: Sequence[tuple[str, str, bool]]) -> bool:
  return all(ok for _, _, ok in checks)


def checks_table(
    checks: Sequence[tuple[str, str, bool]]
) -> run_words.Table:
  return run_words.Table(
      ['what should be', 'found', 'so'],
      [[what, found, 'yes' if ok else 'NO'] for what, found, ok in checks])


def perturbed(params: Any, key: jax.Array, scale: float) -> Any:
  """Parameters, each times 1 + scale * a standard normal: another model."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  return jax.tree.unflatten(tree, [
      x * (1 + scale * jax.random.normal(k, x.shape, x.dtype))
      for k, x in zip(keys, leaves, strict=True)
  ])


def shifted(example: chat.Example) -> chat.Example:
  """With a mask that is off by one: the end of the turn is left out."""
  return example._replace(supervised=np.append(example.supervised[1:], False))


def stopped_variance(
    stats: ddt.TokenStats, enough: float = corpus_stats.ENOUGH_VARENTROPY
) -> float:
  """Variance of z of texts that are cut where they have said enough.

  That is, where the varentropies so far first sum to `enough`: cut without
  looking ahead, they are still samples. (Of texts that end by themselves those
  with a large sum are not: one odd token makes what follows uncertain.)

  Args:
    stats: see `false_positives`.
  """
  variance = np.cumsum(stats.varentropy, 1, dtype=np.float64)
  last = np.minimum((variance < enough).sum(1), variance.shape[1] - 1)[:, None]
  phi = np.take_along_axis(np.cumsum(stats.phi, 1, dtype=np.float64), last, 1)
  return float(np.var(phi / np.sqrt(np.take_along_axis(variance, last, 1))))


def false_positives(
    stats: ddt.TokenStats, pit: np.ndarray, lengths: Sequence[int]
) -> list[dict[str, Any]]:
  """How often either test rejects own samples at 5 %, by length.

  Args:
    stats: TokenStats of numpy arrays [texts, T]: each text goes on for T tokens,
      whatever it says.
    pit: [texts, T].
    lengths: at most T; of each text its beginning is tested.

  Returns:
    For each length {length, varentropy, z_variance, z, pit}: the median of the
    summed varentropy, and shares with 95 % intervals.
  """
  found = []
  for n in lengths:
    begun, mask = stats.map(lambda x, n=n: x[:, :n]), np.ones((len(pit), n))
    test = ddt.on_policy_test(begun, mask)
    by_pit = ddt.pit_test(pit[:, :n], begun.varentropy, mask)
    found.append({
        'length': n,
        'varentropy': float(np.median(begun.varentropy.sum(1))),
        'z_variance': float(np.var(test.z)),
        **{name: significance.wilson(
            int(np.sum(p < corpus_stats.LEVEL)), len(p))._asdict()
           for name, p in (('z', test.p_value), ('pit', by_pit))},
    })
  return found


def false_positives_table(
    found: Sequence[dict[str, Any]]
) -> run_words.Table:
  def share(x):
    return '{:.1%} [{:.1%}, {:.1%}]'.format(x['value'], x['low'], x['high'])

  return run_words.Table(
      ['tokens', 'median summed varentropy', 'Var z', 'z-test', 'PIT test'],
      [[str(f['length']), f'{f["varentropy"]:.2f}', f'{f["z_variance"]:.3f}',
        share(f['z']), share(f['pit'])] for f in found])
