"""The self-test: does the model take its own samples for its own?

If not, something between sampling and scoring is wrong: the tokenizer, the chat
template, a dtype or the mask. No score is to be trusted then.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddt_jax import corpus_stats
from ddt_jax import ddt
from ddt_jax import evaluate
from ddt_jax import report_summary

# What chance alone exceeds seldom enough.
STANDARD_ERRORS = 3.0
VARIANCE = (0.9, 1.1)
MIN_P = 0.01


def check(numbers: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
  """(what should be, what is, whether it is so) for own samples.

  Args:
    numbers: of a corpus, see `score_summary.describe`.

  Returns:
    None for the verdict where there is too little to tell.
  """
  phi, error = numbers['phi'], numbers['phi_se']
  variance, enough = numbers['z_variance_enough'], numbers['enough']
  pit = numbers['pit']
  return [
      (f'mean phi is 0 within {STANDARD_ERRORS:g} standard errors',
       f'{phi:+.5f}, standard error {error:.5f}',
       abs(phi) <= STANDARD_ERRORS * error),
      (f'Var z is 1 within {VARIANCE[1] - 1:.1f} where varentropies sum to'
       f' {corpus_stats.ENOUGH_VARENTROPY:g} or more',
       f'{variance:.3f} of {enough:,} texts' if enough else 'no such text',
       VARIANCE[0] <= variance <= VARIANCE[1] if enough >= 1000 else None),
      (f'the PIT is uniform: Kolmogorov-Smirnov p > {MIN_P:g}',
       f'D = {pit["distance"]:.5f}, p = {pit["p_value"]:.3g}',
       pit['p_value'] > MIN_P),
  ]


def passed(checks: Sequence[tuple[str, str, bool | None]]) -> bool:
  return all(ok is not False for _, _, ok in checks)


def checks_table(
    checks: Sequence[tuple[str, str, bool | None]]
) -> report_summary.Table:
  words = {True: 'yes', False: 'NO', None: 'too few to tell'}
  return report_summary.Table(
      ['what should be', 'found', 'so'],
      [[what, found, words[ok]] for what, found, ok in checks])


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
        **{name: evaluate.wilson(int(np.sum(p < corpus_stats.LEVEL)), len(p))
           for name, p in (('z', test.p_value), ('pit', by_pit))},
    })
  return found


def false_positives_table(
    found: Sequence[dict[str, Any]]
) -> report_summary.Table:
  def share(x):
    return '{:.1%} [{:.1%}, {:.1%}]'.format(x['value'], x['low'], x['high'])

  return report_summary.Table(
      ['tokens', 'median summed varentropy', 'Var z', 'z-test', 'PIT test'],
      [[str(f['length']), f'{f["varentropy"]:.2f}', f'{f["z_variance"]:.3f}',
        share(f['z']), share(f['pit'])] for f in found])
