"""Tables and short texts for the terminal and for Markdown."""

from collections.abc import Mapping
import re
import types
from typing import NamedTuple
import unicodedata


class Table(NamedTuple):
  """Cells of text under a header.

  Attributes:
    header: a name for each column; '' where the cells need none.
    rows: one list of cells a row.
    words: indices of the columns that hold words and are aligned to the left;
      the others hold numbers.
    about: explanations of heads, for pages.
  """

  header: list[str]
  rows: list[list[str]]
  words: tuple[int, ...] = (0,)
  about: Mapping[str, str] = types.MappingProxyType({})


def aligned(content: Table) -> str:
  """The table as plain text, with a rule under the header.

  Example:
    >>> print(aligned(Table(['split', 'n'], [['train', '7'], ['test', '12']])))
    split   n
    ---------
    train   7
    test   12
  """
  rows = [content.header, *content.rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

  def line(row):
    return '  '.join(
        cell.ljust(width) if i in content.words else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()

  header, *body = map(line, rows)
  rule = '-' * max(map(len, [header, *body]))
  return '\n'.join([header, rule, *body])


def markdown_table(content: Table) -> str:
  """The table in GitHub's Markdown; every cell is escaped."""
  def line(cells):
    return f'| {" | ".join(cells)} |'

  rule = [':--' if i in content.words else '--:'
          for i in range(len(content.header))]
  return '\n'.join([
      line(map(escape, content.header)), line(rule),
      *(line(map(escape, row)) for row in content.rows)])


def escape(text: str) -> str:
  r"""Text that Markdown and HTML show unchanged, on one line.

  Punctuation that either language could interpret becomes a character
  reference. So does what GitHub turns into a mention (@name), an emoji or a
  link. Names like hd_sft, intervals like [-1.5, 2] and times like 7:58 are safe and
  stay readable.

  Example:
    >>> escape('<b>\n*x*'), escape('7:58 hd_sft [-1.5, 2]')
    ('&#60;b&#62; &#42;x&#42;', '7:58 hd_sft [-1.5, 2]')
  """
  # A lone surrogate becomes '?', since UTF-8 cannot hold it. A line end would end
  # the row of a table.
  text = re.sub(r'\s+', ' ', text.encode('utf-8', 'replace').decode('utf-8'))
  # Two numbers in brackets; then markup of Markdown and HTML, but no _ inside a
  # word; @name; and the colon of :emoji: or https://.
  return re.sub(
      r'(\[[-+\d.]+%?, [-+\d.]+%?\](?![(\[]))|[\\`*\[\]<>#|~$&]'
      r'|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@|(?<!\d):(?=\S)|:(?=[^\s\d])',
      lambda m: m[1] or f'&#{ord(m[0])};', text)


def percent(share: float, digits: int = 1) -> str:
  """A share in [0, 1] in percent.

  Example:
    >>> percent(0.7114), percent(0.5, 0)
    ('71.1 %', '50 %')
  """
  return f'{100 * share:.{digits}f} %'


def duration(seconds: float) -> str:
  """Seconds in words.

  Example:
    >>> [duration(s) for s in (8.4, 252, 11_100)]
    ['8.4 s', '4 min 12 s', '3 h 5 min']
  """
  # From there on, rounding would print "60.0 s".
  if seconds < 59.95:
    return f'{seconds:.1f} s'
  minutes, seconds = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {seconds} s'
  return f'{minutes // 60} h {minutes % 60} min'


LINE_END = '\u21b5'  # shown in place of a newline


def visible(token: str) -> str:
  r"""The token with signs for line ends, tabs and control characters.

  Example:
    >>> visible('a\x00')
    'a\\x00'
  """
  signs = {'\n': LINE_END, '\t': '\u21e5'}
  return ''.join(
      signs.get(c, f'\\x{ord(c):02x}') if unicodedata.category(c) == 'Cc' else c
      for c in token)
