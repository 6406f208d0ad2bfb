"""The paper's claims, each as a comparison of two methods of the study."""

from collections.abc import Sequence
from typing import NamedTuple

from ddt_jax.report import table
from ddt_jax.report.study import finished
from ddt_jax.report.study import tables

HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'cannot be tested at this size'
NOT_RUN = 'not run'


class Claim(NamedTuple):
  """One claim: b is better than a on a split, or as good.

  Attributes:
    text: in words.
    a, b: methods.
    split: of the evaluation.
    margin: points of pass@1 by which b may be worse, for "as good"; 0: b is better.
  """

  text: str
  a: str
  b: str
  split: str
  margin: float = 0.0


_T, _R = finished.TARGET, finished.RETAINED


def _of_idft(suffix: str, bound: str) -> list[Claim]:
  """The claims about IDFT, by the bound of its exponent: the authors have both."""
  of, idft, hinted = f' ({bound})', f'idft{suffix}', f'hd_idft{suffix}'
  return [
      Claim(f'IDFT{of} learns more than SFT on given solutions', 'sft', idft, _T),
      Claim(f'IDFT{of} forgets less than SFT on given solutions', 'sft', idft, _R),
      Claim(f'IDFT{of} learns more than DFT on given solutions', 'dft', idft, _T),
      Claim(f'IDFT{of} learns as much as SFT on hinted data', 'hd_sft', hinted, _T, 2.0),
      Claim(f'HD + IDFT{of} learns more than DPO', 'dpo', hinted, _T),
      Claim(f'HD + IDFT{of} generalises better than DPO', 'dpo', hinted,
            finished.HARDER),
      Claim(f'HD + IDFT{of} forgets as little as DPO', 'dpo', hinted, _R, 2.0)]


CLAIMS = (
    *_of_idft('', 'gamma_max 2'), *_of_idft('_gamma1', 'gamma_max 1'),
    Claim('DFT learns more than SFT on given solutions', 'sft', 'dft', _T),
    Claim('EAFT learns as much as SFT on given solutions', 'sft', 'eaft', _T, 2.0),
    Claim('SFT on hinted data learns more than on given ones', 'sft', 'hd_sft', _T),
    Claim('SFT on hinted data forgets less than on given ones', 'sft', 'hd_sft', _R),
)


def pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
  """The pairs of methods that are compared: those of the claims, and with SFT.

  Args:
    methods: of the study.
  """
  of_claims = [(x.a, x.b) for x in CLAIMS]
  with_sft = [('sft', m) for m in methods if m != 'sft']
  further = [('rft', 'hd_sft'), ('rft', 'sdft'), ('sft_kl', 'idft'),
             ('hd_sft', 'projected_sft')]
  return [pair for pair in dict.fromkeys(of_claims + with_sft + further)
          if set(pair) <= set(methods)]


def verdict(claim: Claim, some: Sequence[tables.Contrast]) -> list[str]:
  """The claim's row: what was found, and whether the claim holds.

  A difference counts where it is told from 0 with false discoveries controlled;
  "as good" holds where the whole interval is above minus the margin.
  """
  found = [x for x in some if (x.a, x.b, x.split) == (
      claim.a, claim.b, claim.split)]
  if not found:
    return [claim.text, f'{claim.b} - {claim.a}', claim.split, '', '', NOT_RUN]
  mean, low, high = (100 * x for x in found[0].found[:3])
  if claim.margin:
    said = HOLDS if low > -claim.margin else FAILS if high < -claim.margin else OPEN
  else:
    said = OPEN if not found[0].told else HOLDS if mean > 0 else FAILS
  return [claim.text, f'{claim.b} - {claim.a}', claim.split, f'{mean:+.1f}',
          f'[{low:+.1f}, {high:+.1f}]', said]


def claims(some: Sequence[tables.Contrast]) -> table.Table:
  """Each claim with its interval, points of pass@1, and its verdict."""
  return table.Table(
      ['claim', 'compared', 'split', 'difference', '95 % interval', 'verdict'],
      [verdict(claim, some) for claim in CLAIMS], words=(0, 1, 2, 5))
