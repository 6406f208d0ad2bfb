"""Training, validation and evaluation parts, decided by the problem's text."""

from collections.abc import Sequence
import dataclasses
import hashlib

from ddt_jax import errors
from ddt_jax.data import records


@dataclasses.dataclass(frozen=True)
class Splits:
  """Three parts without a common problem text, each in the given order."""
  train: list[records.Problem]
  validation: list[records.Problem]
  evaluation: list[records.Problem]
  shares: tuple[float, float]  # of validation and evaluation, as configured

  def describe(self) -> str:
    """The sizes in one line, with the options that change them."""
    parts = {'train': self.train, 'validation': self.validation,
             'evaluation': self.evaluation}
    sizes = ', '.join(f'{len(part)} {name}' for name, part in parts.items())
    count = sum(map(len, parts.values()))
    return (f'{count} problem{"s" * (count != 1)}: {sizes} '
            f'(shares {self.shares[0]:g} and {self.shares[1]:g}; '
            '--config.data.validation=, --config.data.evaluation=)')


def split(problems: Sequence[records.Problem], *, validation: float,
          evaluation: float, seed: int = 0) -> Splits:
  """Holds out shares of the distinct problem texts.

  The texts are sorted by sha256(seed, text). The first go to validation, the next
  to evaluation, the rest to training. So the split depends neither on the order
  of the file nor on how many solutions a problem has, and no problem is both
  trained on and held out.

  Args:
    problems: at least one.
    validation: share of the distinct texts, in [0, 1). The number of texts is
      rounded to the nearest integer, which may be 0.
    evaluation: likewise.
    seed: another seed gives another split.

  Returns:
    The parts; training keeps at least one problem.

  Raises:
    errors.InputError: there are no problems, or the shares leave none to train on.
  """
  if not problems:
    raise errors.InputError('there are no problems to split')
  for name, share in [('validation', validation), ('evaluation', evaluation)]:
    if not 0 <= share < 1:
      raise errors.InputError(f'data.{name} is {share}; it must be in [0, 1)')
  if validation + evaluation >= 1:
    raise errors.InputError(
        f'data.validation={validation} and data.evaluation={evaluation} leave'
        ' nothing to train on; they must sum to less than 1')

  texts = sorted({p.problem for p in problems}, key=lambda text: hashlib.sha256(
      f'{seed}\n{text}'.encode()).digest())
  room = len(texts) - 1  # one text stays for training
  first = min(_nearest(validation * len(texts)), room)
  second = min(_nearest(evaluation * len(texts)), room - first)
  held_out = dict.fromkeys(texts[:first], 'validation')
  held_out |= dict.fromkeys(texts[first:first + second], 'evaluation')

  parts = {'train': [], 'validation': [], 'evaluation': []}
  for problem in problems:
    parts[held_out.get(problem.problem, 'train')].append(problem)
  return Splits(**parts, shares=(validation, evaluation))


def _nearest(x: float) -> int:
  return int(x + 0.5)  # round() rounds 0.5 and 2.5 down, to even
