r"""Splits an answer into tokens. Spellings of the same thing become one token.

TeX and plain text write differently what means the same: ``\frac12``, ``½``;
``\geqslant``, ``>=``; ``1{,}234``, ``1,234``. The grammar sees one of them.
"""
from fractions import Fraction
import re
from typing import NamedTuple
import unicodedata

MAX_DEPTH = 20  # nested brackets
MAX_DIGITS = 400  # in one number
MAX_EXPONENT = 400  # of 1e400


class Abstain(Exception):
  """Neither True nor False can be established; the message says why."""


class Token(NamedTuple):
  r"""One token.

  kind: 'number', 'word', 'currency', 'end'; or the token itself, '+' or r'\frac'.
  value: of a number its exact value, of a word its letters.
  text: as written.
  space: whether a space stands before it.
  upright: whether it stands in \text{} or the like.
  """
  kind: str
  value: Fraction | str
  text: str
  space: bool
  upright: bool


# NFKC is not for mathematics: it turns 5² into 52.
_SUPERSCRIPTS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ', '0123456789+-n')
_SUBSCRIPTS = str.maketrans('₀₁₂₃₄₅₆₇₈₉', '0123456789')
_GREEK = ('alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu '
          'xi omicron pi rho varsigma sigma tau upsilon phi chi psi omega').split()
_CHARACTERS = str.maketrans({
    **dict.fromkeys('−–‒﹣－', '-'), **dict.fromkeys('×·⋅∙', '*'),
    **dict.fromkeys('÷⁄∕', '/'), '∶': ':', '′': "'", '’': "'",
    '∞': r'\infty ', '≤': '<=', '≥': '>=', '⩽': '<=', '⩾': '>=', '≠': '!=',
    '∪': r'\cup ', '∩': r'\cap ', '∖': r'\setminus ', '∈': r'\in ',
    '°': r'\degree ', '±': r'\pm ', '∓': r'\mp ', '√': r'\surd ',
    '∅': r'\emptyset ', '∠': r'\angle ', '¢': r'\text{ cents}', '…': r'\ldots ',
    '⟨': r'\langle ', '⟩': r'\rangle ', '∑': r'\sum ', '∏': r'\prod ',
    **{chr(0x3b1 + i): f'\\{name} ' for i, name in enumerate(_GREEK)},
    'ϕ': r'\phi ', 'ϵ': r'\epsilon ',
    **dict.fromkeys('\xa0\u2007\u2009\u202f', r'\,'),  # group digits, as \, does
    **dict.fromkeys('\u200b\u200c\u200d\u2060\u2061\u2062\ufeff', ''),
    **{c: r'\frac{{{}}}{{{}}}'.format(*unicodedata.normalize('NFKC', c).split('⁄'))
       for c in '½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞'},
    **{chr(0xff01 + i): chr(0x21 + i) for i in range(94)}})  # full width

# The first alternative that matches wins, so the order matters: `repeat` before
# `number`, both before the single characters. `skip` is layout without meaning:
# \left, \big, \displaystyle, \color{red}. `wrap` sets its argument upright or bold:
# \text{cm}, \mathbf{x}. `repeat` reads 0.1(6), `number` also 1{,}234 and 1\,000.
_TOKEN = re.compile(r"""
    (?P<space>(?:\s|~|\\[,;:!>\ ]|\\q?quad(?![A-Za-z]))+)
  | (?P<skip>\\(?:left|right|middle|[bB]igg?[lrm]?|boxed|fbox|limits
      |(?:display|text|script)style)(?![A-Za-z])\.?
      |\\(?:text)?color\s*\{\w+\}
      |\\(?:math(?:rm|bf|it|sf)|boldsymbol|bm|rm|bf|it)(?!\s*\{|[A-Za-z]))
  | (?P<wrap>\\(?:text(?:bf|it|rm|sf|tt|sc|md|up|normal)?|math(?:rm|bf|it|sf|tt
      |normal)|mbox|hbox|operatorname\*?|bm|boldsymbol)\s*\{)
  | (?P<degree>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])
      |\\textdegree(?![A-Za-z]))
  | (?P<repeat>\d*\.\d*(?:\(\d+\)|\\(?:overline|bar|dot)\s*(?:\{\d+\}|\d)))
  | (?P<number>(?:\d+(?:(?:,|\{,\}|\\[,;:!\ ])\d+)*(?:\.\d+)?|\.\d+)
      (?:[eE][-+]?\d+(?![A-Za-z\d.]))?)
  | (?P<set>[ℝℤℕℚℂ]|\\mathbb(?:\{[RZNQC]\}|\ [RZNQC]))
  | (?P<env>\\(?:begin|end)\s*\{\w+\*?\}(?:\{[clr|\s]+\})?)
  | (?P<command>\\[A-Za-z]+|\\[{}%$|\\])
  | (?P<sign>\+/-|\.\.\.|<=|>=|!=|==|\*\*)
  | (?P<word>[A-Za-z]+)
  | (?P<currency>[€£₹¥₩])
  | (?P<char>[-+*/^_=<>(){}\[\],;:|!&.%$'?])""", re.VERBOSE)
_SAME = {alias: token for token, aliases in {
    '=': '==', '^': '**', '*': r'\ast \cdot \times', '/': r'\div', '%': r'\%',
    '>=': r'\ge \geq \geqslant', '<=': r'\le \leq \leqslant', '!=': r'\ne \neq',
    '<': r'\lt', '>': r'\gt', '±': r'\pm +/-', '∓': r'\mp', ':': r'\colon',
    '|': r'\lvert \rvert \vert', '(': r'\lparen', ')': r'\rparen', '[': r'\lbrack',
    ']': r'\rbrack', r'\{': r'\lbrace', r'\}': r'\rbrace', r'\emptyset': r'\varnothing',
    r'\frac': r'\dfrac \tfrac \cfrac \sfrac \nicefrac', r'\binom': r'\dbinom \tbinom',
    r'\setminus': r'\backslash', r'\phi': r'\varphi', r'\epsilon': r'\varepsilon',
    r'\ldots': r'... \dots', r'\angle': r'\measuredangle', r'\pi': 'pi',
    r'\infty': 'inf infinity',
}.items() for alias in aliases.split()} | {
    form.format(x): c for c, x in zip('ℝℤℕℚℂ', 'RZNQC', strict=True)
    for form in (r'\mathbb{{{}}}', r'\mathbb {}')}
_LETTERS = ('mathit', 'mathbf', 'mathnormal', 'bm', 'boldsymbol')  # are no units
# Groups of three digits: 1,234, 1{,}234, 1\,234. So 12,34 is a list.
_GROUPED = re.compile(r'[1-9]\d{0,2}(,\d{3})+|[1-9]\d{0,2}(\{,\}\d{3})+'
                      r'|[1-9]\d{0,2}((?:\\[,;:! ])\d{3})+')
_SEPARATOR = re.compile(r',|\{,\}|\\[,;:! ]')
# Paired dollars delimit mathematics; one that stands alone is money.
_DELIMITED = re.compile(r'(?<!\\)\$\$?([^$]*?)(?<!\\)\$\$?|\\[(\[](.*?)\\[)\]]',
                        re.DOTALL)


def tokenize(text: str) -> list[Token]:
  """The tokens of an answer, the last of kind 'end'.

  Raises:
    Abstain: at a character that nothing here begins with, or if it is too large.
  """
  # Most answers are ASCII and skip these tables.
  if not text.isascii():
    # x₁ as x_{1}
    for sign, table in ('^', _SUPERSCRIPTS), ('_', _SUBSCRIPTS):
      text = re.sub(f'[{"".join(map(chr, table))}]+', lambda m, s=sign, t=table: (
          f'{s}{{{m[0].translate(t)}}}'), text)
    text = text.translate(_CHARACTERS)
  if '$' in text or '\\' in text:
    text = _DELIMITED.sub(lambda m: m[1] or m[2] or '', text)
  # Before the loop, so that hostile nesting costs nothing.
  check_size(text)
  tokens, braces = [], []  # braces: of each open one (is written, upright before)
  space = upright = False
  lists = at = 0
  while at < len(text):
    match = _TOKEN.match(text, at)
    if match is None:
      raise Abstain(f'{text[at]!r} is not understood')
    group, written, at = match.lastgroup, match[0], match.end()
    kind, value = _SAME.get(written, written), ''
    if group in ('space', 'skip'):
      space |= group == 'space'
      continue
    if group == 'wrap' or kind == '{':
      # The brace of \text{...} is no token, unless TeX takes one argument there: of
      # x^\text{ab} the braces have to stay.
      shown = kind == '{' or bool(tokens) and tokens[-1].kind in _TAKES_ONE
      braces.append((shown, upright))
      if group == 'wrap':
        upright = written[1:].rstrip('{ \n') not in _LETTERS
      kind = '{'
    elif kind == '}' and braces:
      shown, upright = braces.pop()
    else:
      shown = True
    if group == 'degree':
      kind = r'\degree'
    elif group == 'repeat':
      kind, value = 'number', _repeating(written)
    elif group == 'number':
      if tokens and tokens[-1].kind in _TAKES_DIGIT:
        written = written[0]  # as TeX does: \frac12 is 1/2
        if written == '.':  # of \frac.5 TeX takes the point alone
          raise Abstain('a decimal point is no number')
      # The number may be shorter than the match: of 1,2,3 it takes the 1.
      kind, (written, value) = 'number', _number(written, in_list=lists > 0)
      at = match.start() + len(written)
      if '.' in written and re.match(r'\(\d+\)', text[at:]):
        raise Abstain('a product or a repeating decimal')
    elif group in ('word', 'currency') and kind == written:
      kind, value = group, written
    elif group == 'env':
      kind, value = re.match(r'(\\\w+)\s*\{(\w+)', written).groups()
    elif kind in ('$', r'\$'):
      kind, value = 'currency', '$'
    # The depth decides whether a comma groups digits, see `_number`.
    lists += (kind in ('(', '[', r'\{')) - (kind in (')', ']', r'\}'))
    if shown:
      tokens.append(Token(kind, value, written, space, upright))
      space = False
  if braces:
    raise Abstain('a brace that is not closed')
  return [*tokens, Token('end', '', '', space, False)]


_TAKES_DIGIT = (r'\frac', r'\binom')
_TAKES_ONE = ('^', '_', r'\sqrt', *_TAKES_DIGIT)


def _number(text: str, in_list: bool) -> tuple[str, Fraction]:
  r"""(part of `text` that is one number, value): 1,234.5, 12{,}5, 1\,000, 2e-3.

  In a list a comma separates: (1,234) has two items.
  """
  # Fraction('1e999999999') would fill the memory.
  exponent = re.search(r'[eE](.*)', text)
  if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
    raise Abstain(f'an exponent beyond {MAX_EXPONENT}')
  whole = re.match(r'[^.eE]*', text)[0]
  separators = _SEPARATOR.findall(whole)
  if not separators:
    # Fraction(int) is faster than Fraction(str).
    return text, Fraction(int(text) if text.isdigit() else text)
  if _GROUPED.fullmatch(whole) and not (in_list and ',' in separators):
    return text, Fraction(_SEPARATOR.sub('', text))
  # 12{,}5 is how TeX users write a decimal comma.
  if separators == ['{,}'] and '.' not in text:
    return text, Fraction(text.replace('{,}', '.'))
  first = _SEPARATOR.split(whole)[0]
  return first, Fraction(int(first))


def _repeating(text: str) -> Fraction:
  r"""0.1(6), 0.1\overline{6}: the last digits without end."""
  start, *_, block = re.findall(r'\d*\.\d*|\d+', text)
  decimals = len(start) - start.index('.') - 1
  # A block of n digits without end is block / (10^n - 1).
  tail = Fraction(int(block), (10**len(block) - 1) * 10**decimals)
  return Fraction(f'{start}0') + tail


def check_size(text: str) -> None:
  """Abstains from what would be expensive even to parse, from the text alone."""
  if re.search(rf'\d{{{MAX_DIGITS + 1}}}', text):
    raise Abstain(f'more than {MAX_DIGITS} digits')
  depth = 0
  for bracket in re.findall(r'[{(\[})\]]', text):
    depth = depth + 1 if bracket in '{([' else max(0, depth - 1)
    if depth > MAX_DEPTH:
      raise Abstain(f'more than {MAX_DEPTH} nested brackets')
