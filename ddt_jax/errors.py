"""The one exception for mistakes in what a user gave, and the nearest right word."""

from collections.abc import Iterable
import difflib

_ALIKE = 0.6  # the least ratio of `difflib` that is worth a suggestion


class InputError(ValueError):
  """An option, a file or a row cannot be used as it is.

  Commands print its message as one line and exit with status 2. Any other
  exception is a bug of ours and keeps its traceback. The message names the
  file and line, or the option, and says what to change.
  """


def no_choice(name: str, value: str, known: Iterable[str]) -> InputError:
  """Returns the error for a value that is none of the choices.

  Example:
    >>> print(no_choice('optim.schedule', 'cosnie', ('cosine', 'wsd')))
    optim.schedule='cosnie': choose from 'cosine', 'wsd'; did you mean 'cosine'?
  """
  known = tuple(known)
  near = nearest(value, known)
  return InputError(
      f'{name}={value!r}: choose from {", ".join(map(repr, known))}'
      + (f'; did you mean {near!r}?' if near is not None else ''))


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
  """Returns '; did you mean NAME?', or '' where no name is near.

  Example:
    >>> did_you_mean('trian', ['train', 'score'])
    '; did you mean train?'
  """
  near = nearest(wrong, known)
  return f'; did you mean {near}?' if near is not None else ''


def nearest(wrong: str, known: Iterable[str]) -> str | None:
  """Returns the known name that a mistyped one most probably means, or None.

  One slip of a finger counts most: a character too many, one missing, another
  one, or two swapped. Otherwise the names must look alike to `difflib`.

  Example:
    >>> nearest('1b', ['b2', 'b1']), nearest('lr', ['batch', 'epochs'])
    ('b1', None)
  """
  wrong, known = str(wrong), list(known)

  def likeness(name: str) -> float:
    return difflib.SequenceMatcher(None, wrong.lower(), name.lower()).ratio()

  def surest(name: str) -> tuple[bool, float]:
    # Two letters are swapped more often than one is lost: dfet is deft, not dft.
    return sorted(wrong) == sorted(name), likeness(name)

  slips = [name for name in known if is_slip(wrong, name)]
  near = slips or [name for name in known if likeness(name) >= _ALIKE]
  return max(near, key=surest, default=None)


def is_slip(wrong: str, right: str) -> bool:
  """Whether one slip of a finger makes `wrong` out of `right`.

  Example:
    >>> [is_slip(w, 'lr') for w in ('rl', 'l', 'lrr', 'lt', 'lr', 'x')]
    [True, True, True, True, False, False]
  """
  if wrong == right:
    return False
  # Without the common beginning and end, a slip is all that remains.
  while wrong and right and wrong[0] == right[0]:
    wrong, right = wrong[1:], right[1:]
  while wrong and right and wrong[-1] == right[-1]:
    wrong, right = wrong[:-1], right[:-1]
  return len(wrong) <= 1 and len(right) <= 1 or (
      len(wrong) == 2 and wrong == right[::-1])
