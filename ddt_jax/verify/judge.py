"""Judges whether two mathematical answers are equal: True, False, or None.

None means abstained: an answer is too large or ambiguous. The reason depends on the
text alone, never on the speed of the machine.
"""
import re

from ddt_jax.verify import compare
from ddt_jax.verify import grammar
from ddt_jax.verify import values
from ddt_jax.verify.tokens import Abstain

MAX_ANSWER = 1_000  # characters, inside the box
# Python refuses int() of more than 4300 digits; 400 is `tokens.MAX_DIGITS`.
_INTEGER = re.compile(r'-?\d{1,400}')
# 1,234 is one number, two numbers, or 1.234 in other countries.
_COMMA = re.compile(r'(?<=\d),(?=\d)')


def judge(got: str, want: str, algebra=None) -> tuple[bool | None, str] | None:
  """(correct, reason) for the content of a box and the reference.

  The module `algebra` decides where a value is no rational number. Without it the
  result is None there.
  """
  # The fast way for most answers; the grammar would decide the same.
  if _INTEGER.fullmatch(got) and _INTEGER.fullmatch(want):
    equal = int(got) == int(want)  # most answers
  else:
    try:
      equal = _same_texts(got.strip(), want.strip(), compare.Comparison(algebra))
    except compare.NeedsAlgebra:
      return None
    except RecursionError:
      return None, 'an answer with too many parts'
    except Abstain as e:
      return None, str(e)
    except Exception as e:  # a bug of ours costs one answer, not a run of hours
      return None, f'the verifier failed: {type(e).__name__}: {e}'
  return equal, 'equal to the answer' if equal else 'differs from the answer'


def _same_texts(got: str, want: str, comparison: compare.Comparison) -> bool:
  if max(len(got), len(want)) > MAX_ANSWER:
    raise Abstain(f'more than {MAX_ANSWER} characters in the answer')
  if not want:
    raise Abstain('empty reference answer')
  if got == want:
    return True
  a, b = grammar.parse(got), grammar.parse(want)
  values.check_size((a, b))
  if comparison.same(a, b):
    return True
  # n against N: a slip of the pen, or another quantity?
  if {c.swapcase() for c in _single_letters(got)} & _single_letters(want):
    raise Abstain('a letter in both cases')
  # Only before a False: if another reading of a comma makes them equal, nobody
  # knows.
  for text, other in ((got, b), (want, a)):
    for variant in _other_commas(text):
      if _reads_as(variant, other, comparison):
        raise Abstain('a comma that can be read in two ways')
  return False


def _single_letters(text: str) -> set[str]:
  return set(re.findall(r'(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])', text))


def _other_commas(text: str) -> set[str]:
  """A text whose commas between digits separate, group, or mark decimals."""
  if not _COMMA.search(text):
    return set()
  # 1.234,5 is how much of Europe writes 1,234.5.
  swapped = text.translate(str.maketrans(',.', '.,'))
  return {_COMMA.sub(', ', text), _COMMA.sub('', text), swapped} - {text}


def _reads_as(text: str, other, comparison: compare.Comparison) -> bool:
  try:
    return comparison.same(grammar.parse(text), other)
  except Abstain:
    return False
