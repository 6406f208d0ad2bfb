r"""Finds the final answer in a response: the last box, or the text after a marker."""

import re

BOX = '\\boxed{'

_THOUGHTS = re.compile(r'</?think(?:ing)?>')
# `\boxed{`, or without braces `\boxed 5`, `\boxed\pi`. An escaped character is one
# token, so that \{ opens nothing.
_BOX_TOKEN = re.compile(
    r'(?P<slashes>(?<!\\)\\+)(?:boxed|fbox)(?:\s*(?P<open>\{)|'
    r'(?![A-Za-z])\s*(?P<bare>[-+]?\d+(?:\.\d+)?|[A-Za-z]\b|\\pi\b))'
    r'|\\.|[{}]', re.DOTALL)
_FIRST_BOX = re.compile(r'(?<!\\)\\+(?:boxed|fbox)')
# Boxes that a template left open: \boxed{\ldots}, \boxed{?}, \boxed{___}.
_BLANK = re.compile(r'(?:\\[ld]dots|\\cdots|[\s.…?_$])*')
# \boxed{25}\%, \boxed{25}$\%$: the sign stands outside the box.
_PERCENT = re.compile(r' ?\$? ?(\\?%)')
# -\boxed{5} means -5, but in x-\boxed{5} the minus belongs to x.
_MINUS = re.compile(r'(?<![\w)}\]-])-$')
# Also U+2028, U+2029 and U+0085, which end a line but are no \n.
_LINE = re.compile(r'[^\n\r\u2028\u2029\x85]+')
_MARKUP = '*_` \t'
# Answer: "Paris"
_QUOTED = re.compile(r'["“‘\'](.*)["”’\']')


def extract(text: str, marker: str = BOX) -> str | None:
  r"""A text's final answer, or None.

  With `BOX` the content of the last complete box that is not empty; with another
  marker, such as 'Answer:', the rest of the line after it, or the next line, where
  it occurs for the last time with an answer. Markup, quotes and a closing full stop
  are left out. Thoughts (<think>...</think>) hold no answer.
  """
  *_, text = _THOUGHTS.split(text) if '</think' in text else (text,)
  if '<think' in text:  # a thought that did not end
    return None
  return extract_boxed(text) if marker == BOX else _after(text, marker)


def extract_boxed(text: str) -> str | None:
  r"""The content of the last complete ``\boxed{}`` or ``\fbox{}``, or None.

  '' if all of them are empty, or hold nothing but dots.
  """
  # Most texts of a corpus without boxes: a search for a word is 100 times as fast.
  if 'boxed' not in text and 'fbox' not in text:
    return None
  first = _FIRST_BOX.search(text)
  boxes, opened = [], []  # opened: (content's start, box or None) of each brace
  for token in _BOX_TOKEN.finditer(text, first.start()) if first else ():
    if token['bare']:
      boxes.append((token, *token.span('bare'), token.end()))
    elif token['open'] or token[0] == '{':
      # Every brace is pushed, so that the } of \frac{1}{2} does not close its box.
      opened.append((token.end(), token if token['open'] else None))
    elif token[0] == '}' and opened:
      start, box = opened.pop()
      if box:
        boxes.append((box, start, token.start(), token.end()))
  # The last one that says something: a trailing empty box is no answer.
  for box, start, end, after in reversed(boxes):
    if not _BLANK.fullmatch(text, start, end):
      content, slashes = text[start:end], len(box['slashes'])
      while slashes % 2 == 0:  # escaped twice; an odd one ends in a line break and \
        content, slashes = content.replace('\\\\', '\\'), slashes // 2
      minus = _MINUS.search(text[max(0, box.start() - 2):box.start()])
      percent = _PERCENT.match(text, after)
      return '-' * bool(minus) + content.strip() + (percent[1] if percent else '')
  return '' if boxes else None


def _after(text: str, marker: str) -> str | None:
  """The rest of the line after the last marker that has one, or the next line."""
  # "**Answer**: 5" also counts, so the colon may follow markup.
  name = marker.rstrip(': ')
  colon = r'[\s*_]*:' if name != marker.rstrip() else r'[\s*_]*:?'
  matches = list(re.finditer(re.escape(name) + colon, text))
  for match in reversed(matches):
    line = _LINE.search(text, match.end())
    # "**Answer:**" alone on its line: the answer is on the next one.
    while line and not line[0].strip(_MARKUP):
      line = _LINE.search(text, line.end())
    if line and (found := unmarked(line[0])):
      return found
  return '' if matches else None


def unmarked(text: str) -> str:
  """Text without markup, a closing full stop, or quotes around it."""
  text = text.strip(_MARKUP).rstrip(f'{_MARKUP}.')
  quoted = _QUOTED.fullmatch(text)
  return quoted[1].strip(_MARKUP).rstrip(f'{_MARKUP}.') if quoted else text
