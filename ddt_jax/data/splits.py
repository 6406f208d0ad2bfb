"""Training, validation and evaluation parts, decided by the whole prompt.

A prompt is all that precedes the last answer. A dialogue that was cut at several
turns gives several rows. So a row whose prompt begins with the whole prompt of
another row goes to the same part: no turn of a held-out dialogue is trained on.
Chats that merely end alike may go to different parts.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json

from ddt_jax import errors
from ddt_jax.data import records


@dataclasses.dataclass(frozen=True)
class Splits:
  """Three parts without a common prompt, each in the given order."""
  train: list[records.Problem]
  validation: list[records.Problem]
  evaluation: list[records.Problem]
  shares: tuple[float, float]  # of validation and evaluation, as configured
  prompts: int  # distinct ones; the shares are of them

  def describe(self) -> str:
    """The sizes in one line, with the options that change them."""
    parts = {'train': self.train, 'validation': self.validation,
             'evaluation': self.evaluation}
    sizes = ', '.join(f'{len(part)} {name}' for name, part in parts.items())
    count = sum(map(len, parts.values()))
    text = (f'{count} problem{"s" * (count != 1)}: {sizes} '
            f'(shares {self.shares[0]:g} and {self.shares[1]:g}; '
            '--config.data.validation=, --config.data.evaluation=)')
    for name, share in zip(('validation', 'evaluation'), self.shares, strict=True):
      if share and not parts[name]:
        text += (f'; data.{name}={share:g} of {self.prompts} distinct'
                 f' prompt{"s" * (self.prompts != 1)} comes out as 0')
    return text


def split(problems: Sequence[records.Problem], *, validation: float,
          evaluation: float, seed: int = 0) -> Splits:
  """Holds out shares of the distinct prompts.

  The prompts are sorted by sha256(seed, prompt). The first go to validation, the
  next to evaluation, the rest to training. So the split depends neither on the
  order of the file nor on how many solutions a problem has, and no problem is both
  trained on and held out.

  Args:
    problems: at least one.
    validation: share of the distinct prompts, in [0, 1), see `keys`. Their number
      is rounded to the nearest integer, which may be 0.
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

  of_problem = keys(problems)
  prompts = sorted(set(of_problem), key=lambda text: hashlib.sha256(
      f'{seed}\n{text}'.encode()).digest())
  room = len(prompts) - 1  # one prompt stays for training
  first = min(_nearest(validation * len(prompts)), room)
  second = min(_nearest(evaluation * len(prompts)), room - first)
  held_out = dict.fromkeys(prompts[:first], 'validation')
  held_out |= dict.fromkeys(prompts[first:first + second], 'evaluation')

  parts = {'train': [], 'validation': [], 'evaluation': []}
  for problem, key in zip(problems, of_problem, strict=True):
    parts[held_out.get(key, 'train')].append(problem)
  return Splits(**parts, shares=(validation, evaluation), prompts=len(prompts))


def keys(problems: Sequence[records.Problem]) -> list[str]:
  """For each problem the prompt that decides its part.

  It is the shortest prompt of any row with which the problem's own prompt begins;
  mostly its own. The key of a single user turn is its text.
  """
  prompts = [
      tuple((turn['role'], turn['content']) for turn in p.conversation[:-1])
      for p in problems]
  whole = set(prompts)
  return [_key(_root(prompt, whole)) for prompt in prompts]


def _root(prompt, whole):
  # The shortest first, so that all continuations of a dialogue share one key.
  starts = (prompt[:n] for n in range(len(prompt) + 1))
  return next(start for start in starts if start in whole)


def _key(prompt) -> str:
  if [role for role, _ in prompt] == ['user']:
    return prompt[0][1]
  return json.dumps(prompt)


def _nearest(x: float) -> int:
  return int(x + 0.5)  # round() rounds 0.5 and 2.5 down, to even
