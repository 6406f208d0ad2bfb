"""The cells of the study, in the order in which they are run."""

from collections.abc import Callable, Iterator
import dataclasses

from ddt_jax import errors

UNTOUCHED = 'untouched'  # the model before training, a cell of each seed


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of the study.

  Attributes:
    method: a key of the config's `methods`, or `UNTOUCHED`.
    rate: learning rate; 0 of the untouched model.
    seed: of its problems, sampling and shuffling.
  """

  method: str
  rate: float
  seed: int

  @property
  def name(self) -> str:
    """Names the cell's folder.

    Example:
      >>> Cell('sft', 3e-4, 0).name, Cell('untouched', 0.0, 1).name
      ('sft-0.0003-seed0', 'untouched-seed1')
    """
    rate = f'-{self.rate:g}' if self.rate else ''
    return f'{self.method}{rate}-seed{self.seed}'


def rates(c, method: str) -> tuple[float, ...]:
  """Learning rates of a method, rising; of an ablation those of its method."""
  at = c.methods[method].get('at', method)
  return tuple(sorted(c.methods[at].get('rates', c.rates)))


def ablations(c) -> list[str]:
  """Methods that are run at the chosen rate of another one."""
  return [m for m in c.methods if 'at' in c.methods[m]]


def compared(c) -> list[str]:
  """Methods of the main tables: neither ablations nor of the phase diagram alone."""
  others = {m for pair in c.phase[1:] for m in pair} | set(ablations(c))
  return [m for m in c.methods if m not in others]


def order(c, chosen: Callable[[str], float | None]) -> Iterator[Cell]:
  """All cells; an early stop leaves out the least important ones.

  First one seed of the main methods, then their other seeds, then the other
  methods, then more seeds around the chosen rate of each main method, then the
  phase diagram and the ablations with one seed.

  Args:
    c: the study's config.
    chosen: method -> its best rate so far, None if no cell is finished; called
      when the order comes to the further seeds.
  """
  others = [m for m in compared(c) if m not in c.main]
  for group in (c.main, others):
    for seed in range(c.seeds):
      yield Cell(UNTOUCHED, 0.0, seed)
      for method in group:
        for rate in rates(c, method):
          yield Cell(method, rate, seed)
  for seed in range(c.seeds, c.more_seeds):
    yield Cell(UNTOUCHED, 0.0, seed)
    for method in c.main:
      for rate in around(rates(c, method), chosen(method)):
        yield Cell(method, rate, seed)
  for pair in c.phase:
    for method in pair:
      for rate in rates(c, method):
        yield Cell(method, rate, 0)
  for method in ablations(c):
    if rate := chosen(c.methods[method]['at']):
      yield Cell(method, rate, 0)


def around(
    all_rates: tuple[float, ...], rate: float | None
) -> tuple[float, ...]:
  """A rate and its neighbours; none without a rate.

  Example:
    >>> around((1e-4, 3e-4, 1e-3, 3e-3), 1e-4)
    (0.0001, 0.0003)
  """
  if rate is None:
    return ()
  i = all_rates.index(rate)
  return all_rates[max(i - 1, 0): i + 2]


def unique(cells: Iterator[Cell]) -> Iterator[Cell]:
  """Each cell once, where it comes first."""
  seen = set()
  for cell in cells:
    if cell not in seen:
      seen.add(cell)
      yield cell


def check(c) -> None:
  """Refuses a config whose parts do not fit together.

  Raises:
    errors.InputError: names the field.
  """
  for method in c.main:
    if method not in c.methods:
      raise errors.InputError(
          f'main names {method!r}; the methods are {", ".join(c.methods)}')
  for name in (m for pair in c.phase for m in pair):
    if name not in c.methods:
      raise errors.InputError(
          f'phase names {name!r}; the methods are {", ".join(c.methods)}')
  for name, method in c.methods.items():
    if method.get('at', name) not in c.methods:
      raise errors.InputError(f'methods.{name}.at={method["at"]!r} is no method')
    if method.corpus and method.corpus not in c.corpora:
      raise errors.InputError(
          f'methods.{name}.corpus={method.corpus!r}; the corpora are'
          f' {", ".join(c.corpora)}')
    if not all(rate > 0 for rate in rates(c, name)):
      raise errors.InputError(f'methods.{name}: learning rates are above 0')
  for field in ('problems', 'seeds'):
    if c[field] < 1:
      raise errors.InputError(f'{field}={c[field]}: at least 1')
