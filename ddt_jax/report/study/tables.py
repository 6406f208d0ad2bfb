"""Tables of the study: all rates, the chosen ones, costs, comparisons, claims."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddt_jax import significance
from ddt_jax.report import table
from ddt_jax.report.study import finished
from ddt_jax.report.study import record

_FEWEST = 3  # seeds for an interval over them
NOTES = (
    'Accuracy in %. pass@1, pass@4 and pass@16: unbiased estimates from the samples'
    ' at temperature 1; greedy: the likeliest answer. ±: half of Student\'s 95 %'
    ' interval over the seeds, from three seeds on. KL: of the untouched model to'
    ' the trained one on samples of the former. NLL, phi, entropy and KL in nats per'
    ' token. The rate of a method is chosen by its validation accuracy.')


class Contrast(NamedTuple):
  """Two methods, each at its chosen rate, on one split.

  Attributes:
    a, b: the methods; the difference is b - a.
    split: of the evaluation.
    seeds: that both have.
    found: difference of pass@1, a share.
    told: whether the two are told apart, false discoveries controlled.
  """

  a: str
  b: str
  split: str
  seeds: int
  found: significance.Bootstrap
  told: bool

  @property
  def verdict(self) -> str:
    """'b is higher', 'b is lower' or 'not told apart'."""
    if not self.told:
      return 'not told apart'
    return f'{self.b} is {"higher" if self.found.mean > 0 else "lower"}'


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
  """Mean of a value over the seeds, and half of its interval where there are enough.

  Example:
    >>> over_seeds([1.0, 3.0]), over_seeds([1.0, 2.0, 3.0])
    ('2.0', '2.0 ± 2.5')
  """
  if not values:
    return ''
  mean = f'{np.mean(values):.{digits}f}'
  if len(values) < _FEWEST:
    return mean
  return f'{mean} ± {significance.student_half_width(np.asarray(values)):.{digits}f}'


def accuracy(cells: Sequence[record.CellRecord], split: str, k: int) -> str:
  """Accuracy over the seeds, in %; '' where there are fewer samples than k."""
  some = [x.splits[split] for x in cells if split in x.splits]
  return over_seeds(
      [100 * float(x.by_problem(k).mean()) for x in some if x.samples >= k])


def chosen(
    found: finished.Results, ks: Sequence[int] = (0, 1, 4, 16)
) -> table.Table:
  """Accuracy of each method at its chosen rate; the untouched model first.

  Args:
    found: the finished cells.
    ks: of pass@k; 0 is the greedy answer.
  """
  ks = [k for k in ks if any(
      s.samples >= k for x in found.cells for s in x.splits.values())]
  header = ['method', 'lr', 'seeds', *(
      f'{split}, {f"pass@{k}" if k else "greedy"}'
      for split in found.splits for k in ks)]
  rows = []
  for method in [finished.UNTOUCHED, *found.methods]:
    cells = found.at(method)
    if cells:
      rows.append([method, _rate(cells[0].rate), str(len(cells)), *(
          accuracy(cells, split, k) for split in found.splits for k in ks)])
  return table.Table(header, rows)


def verdicts(found: finished.Results) -> list[str]:
  """The method with the highest pass@1 on each split, at its chosen rate."""
  said = []
  for split in found.splits:
    means = {
        m: np.mean([x.splits[split].by_problem(1).mean() for x in found.at(m)])
        for m in [*found.methods, finished.UNTOUCHED] if found.at(m)}
    best = max(means, key=means.get)
    base = means.get(finished.UNTOUCHED)
    said.append(f'{split}: {best} has the highest pass@1, {100 * means[best]:.1f} %' + (
        '.' if base is None else f'; untouched {100 * base:.1f} %.'))
  return said


def all_rates(found: finished.Results) -> table.Table:
  """Each method at every rate: pass@1, and how far the model has moved."""
  header = [
      'method', 'lr', 'seeds', 'validation', *(f'{s}, pass@1' for s in found.splits),
      'KL to base, target', 'KL to base, retained', 'entropy of own samples',
      'data NLL before', 'after', 'data phi before', 'after']
  rows = []
  for method in [finished.UNTOUCHED, *found.methods]:
    for rate in found.rates(method):
      cells = found.at(method, rate)
      mark = ' *' if found.chosen.get(method) == rate else ''
      rows.append([
          method, _rate(rate) + mark, str(len(cells)),
          over_seeds([100 * x.validation for x in cells if x.validation is not None]),
          *(accuracy(cells, split, 1) for split in found.splits),
          *(over_seeds(_values(cells, split, 'kl_to_base'), 3)
            for split in (finished.TARGET, finished.RETAINED)),
          over_seeds(
              [own.entropy for own in _values(cells, finished.TARGET, 'own')], 3),
          *(over_seeds([getattr(getattr(x, f'data_{when}'), name) for x in cells
                        if getattr(x, f'data_{when}')], 3)
            for name in ('nll', 'phi') for when in ('before', 'after'))])
  return table.Table(header, rows)


def costs(found: finished.Results) -> table.Table:
  """Tokens, floating-point operations and seconds at the chosen rate."""
  rows = []
  for method in found.methods:
    if cells := found.at(method):
      rows.append([
          method, f'{np.mean([x.examples for x in cells]):,.0f}',
          f'{np.mean([x.steps for x in cells]):,.0f}',
          *(f'{np.mean([getattr(x.cost, name) for x in cells]):,.0f}'
            for name in ('generated', 'trained')),
          f'{np.mean([x.cost.flops for x in cells]):.2g}',
          f'{np.mean([x.cost.seconds for x in cells]):,.0f}'])
  return table.Table(
      ['method', 'examples', 'steps', 'tokens generated', 'tokens trained', 'FLOPs',
       'seconds'], rows)


def contrasts(
    found: finished.Results, pairs: Sequence[tuple[str, str]]
) -> list[Contrast]:
  """Compares methods at their chosen rates, on every split.

  False discoveries are controlled over all contrasts together.

  Args:
    found: the finished cells.
    pairs: (a, b); pairs without a common seed are left out.
  """
  tested = []
  for a, b in pairs:
    for split in (s for s in finished.SPLITS if s in found.splits):
      difference = found.paired((a, None), (b, None), split)
      if difference is not None and a in found.chosen and b in found.chosen:
        tested.append(Contrast(
            a, b, split, len(difference),
            significance.paired_bootstrap(difference), False))
  told = significance.false_discoveries(
      np.array([x.found.p_value for x in tested]))
  return [x._replace(told=bool(t)) for x, t in zip(tested, told, strict=True)]


def comparisons(some: Sequence[Contrast]) -> table.Table:
  """Differences of pass@1 with their intervals, in points."""
  return table.Table(
      ['compared', 'split', 'seeds', 'difference', '95 % interval', 'p', 'verdict'],
      [[f'{x.b} - {x.a}', x.split, str(x.seeds), f'{100 * x.found.mean:+.1f}',
        f'[{100 * x.found.low:+.1f}, {100 * x.found.high:+.1f}]',
        f'{x.found.p_value:.2g}', x.verdict] for x in some], words=(0, 1, 6))


def ablations(
    found: finished.Results, changed: Mapping[str, str]
) -> table.Table:
  """What one change does to a method at its chosen rate, on the seeds of both.

  Args:
    found: the finished cells.
    changed: name of an ablation -> its method.
  """
  rows = []
  for name, method in changed.items():
    cells = found.at(name)
    if not cells:
      continue
    rows.append([name, method, _rate(cells[0].rate), str(len(cells))])
    for split in found.splits:
      difference = found.paired((method, cells[0].rate), (name, None), split)
      rows[-1] += [accuracy(cells, split, 1), '' if difference is None else (
          f'{100 * difference.mean():+.1f}')]
    rows[-1].append(over_seeds(_values(cells, finished.TARGET, 'kl_to_base'), 3))
  return table.Table(
      ['ablation', 'of', 'lr', 'seeds', *(
          word for split in found.splits for word in (f'{split}, pass@1', 'change')),
       'KL to base, target'], rows, words=(0, 1))


def _values(cells: Sequence[record.CellRecord], split: str, name: str) -> list:
  found = [getattr(x.splits[split], name) for x in cells if split in x.splits]
  return [x for x in found if x is not None]


def _rate(rate: float) -> str:
  return f'{rate:g}' if rate else ''
