"""Equality of words, and of multiple-choice letters: no mathematics."""

import re
import unicodedata

from ddt_jax.verify import answer

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


def normal(text: str) -> str:
  """Normal form of words: the only notion of equality that they have."""
  # Full-width letters and ligatures become plain. For words only: in mathematics
  # NFKC turns 5² into 52.
  text = unicodedata.normalize('NFKC', text)
  text = _WRAPPED.sub(r'\1', text).strip('$')
  text = re.sub(r'\s*,\s*', ', ', ' '.join(text.split()))
  return answer.unmarked(text).casefold()


def same_text(got: str, want: str) -> tuple[bool, str]:
  correct = normal(got) == normal(want)
  return correct, 'the same text' if correct else 'another text'


def same_choice(got: str, want: str) -> tuple[bool | None, str]:
  """By the letters of both; by the text where it is all that both have."""
  if normal(got) == normal(want):
    return True, 'the same text'
  ours, theirs = _letters(got), _letters(want)
  if ours is None or theirs is None:
    return None, 'no choice letter' if ours is None else 'no letter in the reference'
  correct = ours == theirs
  return correct, 'the same choice' if correct else 'another choice'


def _letters(text: str) -> set[str] | None:
  text = _WRAPPED.sub(r'\1', text).replace('\\', ' ').strip('$ *_`')
  text = ' '.join(text.split())  # so that no pattern counts spaces in many ways
  if _LETTERS.fullmatch(text):
    return set(re.findall(r'(?<![A-Z])[A-J](?![A-Z])', text.upper()))
  match = _CHOICE.fullmatch(text)
  return {(match[1] or match[2]).upper()} if match else None
