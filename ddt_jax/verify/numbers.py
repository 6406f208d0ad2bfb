r"""Are two mathematical answers equal? True, False, or None for abstained.

Plain numbers and words are decided here, exactly. What needs algebra is given
to math-verify, unless it would have to guess (it takes tac for cat, 1 2 3 for
3 1 2 and x' for x) or could take forever. What is too large or ambiguous is
abstained from, for a reason that depends on the text alone and never on the
speed of the machine.
"""
from collections.abc import Callable
from fractions import Fraction
import re

MAX_ANSWER = 1_000  # characters, inside the box
MAX_DEPTH = 20  # nested brackets
MAX_TOWER = 2  # exponents within exponents
MAX_DIGITS = 400  # in one number


class Abstain(Exception):
  """Neither True nor False can be established; the message says why."""


def judge(got: str, want: str,
          algebra: Callable[[str, str], bool] | None = None,
          ) -> tuple[bool | None, str] | None:
  """(correct, reason) for the content of a box and the reference.

  `algebra` decides what cannot be decided here, or raises `Abstain`. Without
  it the result is None where it would be needed.
  """
  try:
    equal = _same(got, want, algebra)
  except Abstain as e:
    return None, str(e)
  if equal is None:
    return None
  return equal, 'equal to the answer' if equal else 'differs from the answer'


def _same(got: str, want: str, algebra) -> bool | None:
  if max(len(got), len(want)) > MAX_ANSWER:
    raise Abstain(f'more than {MAX_ANSWER} characters in the answer')
  got, want = _tidy(got), _tidy(want)
  if not want:
    raise Abstain('empty reference answer')
  if got == want:
    return True
  _check_size(got)
  _check_size(want)
  got, want = _without_name(got, want)
  (got, got_unit), (want, want_unit) = _unit(got), _unit(want)
  if got_unit and want_unit and got_unit != want_unit:
    raise Abstain('different units')
  equal = _same_numbers(got, want)
  if equal is None:
    equal = _same_words(got, want)
  if equal is None:
    _check_clear(got, want)
    if algebra is None:
      return None
    equal = algebra(got, want)
  if not equal and got_unit != want_unit:  # 100 cm and 1, in metres
    raise Abstain('a unit on one side only')
  return equal


# Text ------------------------------------------------------------------------

# NFKC is not for mathematics: it turns 5² into 52.
_CHARACTERS = str.maketrans({
    '−': '-', '–': '-', '×': r'\times ', '·': r'\cdot ', '÷': '/',
    'π': r'\pi ', '∞': r'\infty ', '≤': r'\le ', '≥': r'\ge ',
    '∪': r'\cup ', '°': r'^\circ ', '²': '^2', '³': '^3', '∈': r'\in ',
    **{chr(0xff01 + i): chr(0x21 + i) for i in range(94)}})  # full width
_REWRITES = [(re.compile(pattern), new) for pattern, new in (
    (r'^\s*(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])\s*$', r'\1'),
    (r'\\(?:left|right|[bB]igg?[lr]?|displaystyle|boxed)(?![A-Za-z])', ''),
    (r'\\[dtc]frac', r'\\frac'),
    (r'\\(?:text(?:bf|it|rm)|math(?:rm|bf|it)|mbox)\s*(?=\{)', r'\\text'),
    (r'\{,\}|,\\!|(?<=\d)\\[,;:! ](?=\d{3}(?!\d))', ','),  # 1{,}000, 1\,000
    (r'(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s+', ' '),
    (r'\\\$', ''),
    (r'\\?%|\\text\{ ?percent ?\}| percent$', r'\\%'),
    (r',? ?(?:\\text\{ ?(?:and|or) ?\}|\b(?:and|or)\b)', ','),
    # TeX takes a single token where braces are missing.
    (r'(?<=[a-z]_)(\d)', r'{\1}'),
    (r'\\(frac|sqrt) ?(\d)', r'\\\1{\2}'),
    (r'(\\frac\{[^{}]*\}) ?(\d)', r'\1{\2}'),
    (r' *([-+*/^=<>;:(){}\[\]]|\\[{}]) *', r'\1'),
    (r' *, +| +,', ', '),  # 1,234 is a number; 1, 234 are two
    (r'^(?:\\text)?\{([^{}]*)\}$|^\(([-+]?[\d./]+|[A-Za-z])\)$', r'\1\2'),
    (r'^(\w+=)([^=]*, )\1', r'\1\2'),  # x=1, x=2
    (r'[. ]+$|^[+ ]+', ''))]
_INTEGER = re.compile(r'-?\d+')


def _tidy(text: str) -> str:
  """One spelling for what means the same."""
  text = text.translate(_CHARACTERS)
  if _INTEGER.fullmatch(text):
    return text  # the common case, and already tidy
  for pattern, new in _REWRITES:
    text = pattern.sub(new, text)
  return text


def _check_size(text: str) -> None:
  """Abstains from what would be expensive even to parse."""
  opened = []  # for each open bracket, whether it holds an exponent
  for token in re.finditer(r'\^?\\?[{(\[]|\\?[})\]]|\^', text):
    if token[0][-1] in '{([':
      opened.append(token[0][0] == '^')
    elif token[0] != '^':
      if not opened:
        raise Abstain('unbalanced brackets')
      opened.pop()
    if len(opened) > MAX_DEPTH:
      raise Abstain(f'more than {MAX_DEPTH} nested brackets')
    if sum(opened) + (token[0] == '^') > MAX_TOWER:
      raise Abstain(f'more than {MAX_TOWER} exponents within exponents')
  if opened:
    raise Abstain('unbalanced brackets')
  if max(map(len, re.findall(r'\d+', text)), default=0) > MAX_DIGITS:
    raise Abstain(f'more than {MAX_DIGITS} digits')


_NAME = re.compile(r'(\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?'
                   r'|\([a-z](?:, ?[a-z])+\))'
                   r'(?:=|\\in(?![A-Za-z]))([^=<>]+)')


def _without_name(got: str, want: str) -> tuple[str, str]:
  """Drops `x =` or `x in`, unless it makes one of two equations."""
  names = g, w = _NAME.fullmatch(got), _NAME.fullmatch(want)
  if g and w and g[1] != w[1]:
    raise Abstain('different names')
  if any(re.search(r'[=<>]|\\[lg]e', text)
         for text, name in zip((got, want), names, strict=True) if not name):
    return got, want
  return g[2].strip() if g else got, w[2].strip() if w else want


_UNIT = re.compile(
    r'(.*[\d})]) ?(?:\\text\{ ?([A-Za-z .]+) ?\}|\^\{?(\\circ)\}? ?'
    r'|([mck]m|kg|mph|feet|meter|mile|second|minute|hour|day|year|degree)s?)'
    r'(\^\{?[23]\}?)?')
_NOT_UNITS = re.compile(r'\b(hundred|thousand|[mbtr]+illion|dozen|half|third|'
                        r'quarter|pi|squared|cubed|base|mod|not?|is|to)\b')


def _unit(text: str) -> tuple[str, str]:
  """(text without its trailing unit, unit); a degree sign needs a number."""
  match = _UNIT.fullmatch(text)
  if match is None or match[3] and _number(match[1]) is None:
    return text, ''
  unit = (match[2] or match[4] or 'degree').lower().replace('.', '').strip()
  if not unit or _NOT_UNITS.search(unit):
    raise Abstain('words beside a number')
  return match[1], unit.removesuffix('s') + (match[5] or '').strip('^{}')


_DECIMAL = r'(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)'
_RATIONAL = re.compile(
    rf'([-+]?)(?:(\d+)(?: ?(?=\\frac)| (?=\d+/)))?'
    rf'(?:\\frac\{{([-+]?{_DECIMAL})\}}\{{([-+]?{_DECIMAL})\}}'
    rf'|({_DECIMAL})(?:/([-+]?{_DECIMAL}))?) ?(\\%)?')


def _number(text: str) -> Fraction | None:
  r"""Exact value of 1,234.50, -3/4, \frac{3}{4}, 2\frac{1}{2} or 50\%."""
  match = _RATIONAL.fullmatch(text)
  if match is None:
    return None
  sign, whole, *parts, percent = match.groups()
  a, b, c, d = (x and Fraction(x.replace(',', '').rstrip('.')) for x in parts)
  top, bottom = (a, b) if c is None else (c, 1 if d is None else d)
  if bottom == 0:
    return None
  value = Fraction(whole or 0) + top / bottom
  return (-value if sign == '-' else value) / (100 if percent else 1)


def _same_numbers(got: str, want: str) -> bool | None:
  """Equality of two numbers, None if either is none."""
  a, b = _number(got), _number(want)
  if a is None or b is None:
    return None
  if a != b and a in (100 * b, b / 100) and ('%' in got) != ('%' in want):
    raise Abstain('a percent sign on one side only')
  return a == b


def _same_words(got: str, want: str) -> bool | None:
  """Equality of two words, None if this is about something else."""
  a, b = (re.sub(r'\\text\{([^{}]*)\}', r'\1', text).strip('() ')
          for text in (got, want))
  words = [re.fullmatch(r"[A-Za-z][A-Za-z' -]*", text) for text in (a, b)]
  if not all(words):
    if any(word and len(word[0]) > 2 for word in words):
      raise Abstain('words against mathematics')
    return None
  if a.casefold() == b.casefold() and (len(a) > 1 or a == b):
    return True
  if a.casefold() == b.casefold() or ' ' in a + b:
    raise Abstain('similar words')
  return False


# What math-verify would read in one way although it can mean another, or would
# skip over: letters that form words become products, units and primes vanish.
_UNCLEAR = [(re.compile(pattern), reason) for pattern, reason in (
    (r'[^\x20-\x7e]', 'characters outside ASCII'),
    (r'\d +\d', 'numbers side by side'),
    (r'\d,\d{3}(?!\d)', 'a list or a long number'),
    (r'[\d)}]_', 'subscript of a number'),
    (r'\d:\d\d(?!\d)', 'a ratio or a time'),
    (r'\d[eE][-+]?\d', 'scientific notation'),
    (r'!\s*!', 'double factorial'),
    (r'\^\d\d|\^\w\^', 'an exponent without braces'),
    (r"['\"`$#@?~%]|\.\.", 'unexpected punctuation'),
    # The parser evaluates it at once, however large.
    (r'\\binom(?!\{\w{1,3}\}\{\w{1,3}\})', 'a large binomial'),
    (r'(?<![A-Za-z\\])[A-Za-z]{3}', 'words'))]
_COMMANDS = frozenset(
    'frac sqrt pi infty times cdot div pm cup cap setminus le ge leq geq ne neq '
    'sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp '
    'binom alpha beta gamma delta theta lambda mu omega phi rho sigma tau '
    'begin end mathbb emptyset lfloor rfloor lceil rceil'.split())


def _check_clear(*texts: str) -> None:
  """Abstains from text that math-verify might misread, or read in part."""
  letters = set()
  for text in texts:
    text = re.sub(r'\\(begin|end|mathbb)\{[A-Za-z]+\}', r'\\\1 ', text)
    for pattern, reason in _UNCLEAR:
      if pattern.search(text):
        raise Abstain(reason)
    for command in re.findall(r'\\([A-Za-z]+)', text):
      if command not in _COMMANDS:
        raise Abstain(f'\\{command} is not understood')
    letters.update(re.sub(r'\\[A-Za-z]+', '', text))
  if any(c.isalpha() and c.swapcase() in letters for c in letters):
    raise Abstain('a letter in both cases')  # the parser folds case
  both = ' '.join(texts)
  if r'\ln' in both and re.search(r'\\log(?!_)', both):
    raise Abstain('a logarithm of unknown base')
