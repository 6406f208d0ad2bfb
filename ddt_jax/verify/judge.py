"""Judges whether two answers are equal: True, False, or None for abstained.

The reason of an abstention depends on the text alone, never on the speed of the
machine.
"""
import re
import unicodedata

from ddt_jax.verify import answer
from ddt_jax.verify import compare
from ddt_jax.verify import grammar
from ddt_jax.verify.tokens import Abstain

MAX_ANSWER = 1_000  # characters, inside the box
# Python refuses int() of more than 4300 digits; 400 is `tokens.MAX_DIGITS`.
_INTEGER = re.compile(r'-?\d{1,400}')
# 1,234 is one number, two numbers, or 1.234 in other countries.
_COMMA = re.compile(r'(?<=\d),(?=\d)')
_SINGLE_LETTER = re.compile(r'(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])')

# \text{Paris}, \mathrm{B}
_WRAPPED = re.compile(r'\\(?:text|math)\w*\s*\{([^{}]*)\}')
# B, (B), B., B) 12, B: twelve, Option B, the answer is (B)
_CHOICE = re.compile(
    r'(?:the )?(?:correct |final )?(?:answer|option|choice)?(?: is)?:?\s*'
    r'(?:\(\s*([A-Z])\s*\)|([A-Z])(?=[).:,]|\s*$|\s+[-–—]\s))[).:,]*\s*(.*)',
    re.IGNORECASE | re.DOTALL)
# Several choices at once: A, C and (D)
_LETTERS = re.compile(r'[(\s]*[A-J][)\s]*(?:(?:,|and|&|\s)[(\s]*[A-J][)\s]*)+',
                      re.IGNORECASE)


def judge(got: str, want: str, algebra=None) -> tuple[bool | None, str] | None:
  """(correct, reason) for two mathematical answers.

  The module `algebra` decides where a value is no rational number. Without it the
  result is None there.
  """
  # The fast way for most answers; the grammar would decide the same.
  if _INTEGER.fullmatch(got) and _INTEGER.fullmatch(want):
    equal = int(got) == int(want)
  else:
    try:
      equal = _same(got.strip(), want.strip(), compare.Comparison(algebra))
    except compare.NeedsAlgebra:
      return None
    except RecursionError:
      return None, 'an answer with too many parts'
    except Abstain as e:
      return None, str(e)
    except Exception as e:  # a bug of ours costs one answer, not a run of hours
      return None, f'the verifier failed: {type(e).__name__}: {e}'
  return equal, 'equal to the answer' if equal else 'differs from the answer'


def _same(got: str, want: str, comparison: compare.Comparison) -> bool:
  if max(len(got), len(want)) > MAX_ANSWER:
    raise Abstain(f'more than {MAX_ANSWER} characters in the answer')
  if not want:
    raise Abstain('empty reference answer')
  if got == want:
    return True
  a, b = grammar.parse(got), grammar.parse(want)
  if comparison.same(a, b):
    return True
  # n against N: a slip of the pen, or another quantity?
  ours, theirs = map(set, map(_SINGLE_LETTER.findall, (got, want)))
  if {c.swapcase() for c in ours} & theirs:
    raise Abstain('a letter in both cases')
  # Only before a False: if another reading of a comma makes them equal, nobody knows.
  for text, other in ((got, b), (want, a)):
    if _COMMA.search(text):
      # 1.234,5 is how much of Europe writes 1,234.5.
      swapped = text.translate(str.maketrans(',.', '.,'))
      if any(_reads_as(variant, other, comparison) for variant in (
          _COMMA.sub(', ', text), _COMMA.sub('', text), swapped)):
        raise Abstain('a comma that can be read in two ways')
  return False


def _reads_as(text: str, other, comparison: compare.Comparison) -> bool:
  try:
    return comparison.same(grammar.parse(text), other)
  except Abstain:
    return False


def same_text(got: str, want: str) -> tuple[bool, str]:
  """(correct, reason) for two texts: equality of their normal forms."""
  correct = _normal(got) == _normal(want)
  return correct, 'the same text' if correct else 'another text'


def same_choice(got: str, want: str) -> tuple[bool | None, str]:
  """By the letters of both; by the text where it is all that both have."""
  if _normal(got) == _normal(want):
    return True, 'the same text'
  ours, theirs = _letters(got), _letters(want)
  if ours is None or theirs is None:
    return None, 'no choice letter' if ours is None else 'no letter in the reference'
  correct = ours == theirs
  return correct, 'the same choice' if correct else 'another choice'


def _normal(text: str) -> str:
  # Full-width letters and ligatures become plain. For words only: in mathematics
  # NFKC turns 5² into 52.
  text = unicodedata.normalize('NFKC', text)
  text = _WRAPPED.sub(r'\1', text).strip('$')
  text = re.sub(r'\s*,\s*', ', ', ' '.join(text.split()))
  return answer.unmarked(text).casefold()


def _letters(text: str) -> set[str] | None:
  text = _WRAPPED.sub(r'\1', text).replace('\\', ' ').strip('$ *_`')
  text = ' '.join(text.split())  # so that no pattern counts spaces in many ways
  if _LETTERS.fullmatch(text):
    return set(re.findall(r'(?<![A-Z])[A-J](?![A-Z])', text.upper()))
  match = _CHOICE.fullmatch(text)
  return {(match[1] or match[2]).upper()} if match else None
