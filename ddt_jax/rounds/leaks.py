"""Texts of Hinted Decoding that show what only the hinted stream has read.

Such a text would teach the model to expect a given solution, or to repeat the
template's example.
"""

from collections import Counter
from collections.abc import Iterable
import re

from ddt_jax.data import prompts
from ddt_jax.data import records

# English only; own answers are held to it as well.
MENTION = re.compile(
    r'\b(given|provided|reference) (solution|answer)|\baccording to the (given|'
    r'solution)', re.IGNORECASE,
)
RUN = 6  # so many of the template's words in a row are a copy
_WORD = re.compile(r'[^\W\d_]+')


def mentions(response: records.Response) -> bool:
  """Whether the response speaks of a given solution."""
  return bool(MENTION.search(response.text))


class Finder:
  """Tells which responses leak.

  A response leaks if it mentions a given solution. A hinted one also leaks if
  it has six words of the template in a row, or a name from the template's
  example. What the problem or its reference says as well is no leak.

  Example:
    >>> template = prompts.Template('', 'Ann has 2. Ann asks: {problem}', '#')
    >>> problem = records.Problem('a', 'Tom has 3. How many?')
    >>> finder = Finder([problem], template)
    >>> [finder(records.Response('a', (), text, 'eos', 'hinted'))
    ...  for text in ('Tom has 3.', 'Ann has 3.')]
    [False, True]
  """

  def __init__(
      self, problems: Iterable[records.Problem],
      template: prompts.Template | None = None,
  ):
    """Reads the template.

    Args:
      problems: that the responses answer.
      template: of the hinted stream; None looks for mentions alone.
    """
    self._problems = {p.id: p for p in problems}
    text = template and re.sub(
        r'\{(problem|solution)\}', '.', f'{template.system}\n{template.user}')
    self._names, self._runs = _names(text or ''), _runs(text or '')

  def __call__(self, response: records.Response) -> bool:
    """Whether the response leaks."""
    if mentions(response):
      return True
    if response.source not in ('hinted', 'projected'):
      return False
    p = self._problems[response.problem_id]
    known = ' '.join(
        [*(str(t.get('content')) for t in p.conversation), p.problem, p.solution])
    names = self._names.intersection(_WORD.findall(response.text))
    if names - set(_WORD.findall(known)):
      return True
    return bool((self._runs & _runs(response.text)) - _runs(known))


def _names(text: str) -> set[str]:
  """Words that are written twice or more, and always with a capital letter."""
  written = Counter(_WORD.findall(text))
  return {
      word for word, n in written.items()
      # Short ones and capitals alone are units, pronouns and letters.
      if n > 1 and len(word) > 2 and word[0].isupper() and word[1:].islower()
      and word.lower() not in written}


def _runs(text: str) -> set[tuple[str, ...]]:
  """Every `RUN` words in a row, in lower case."""
  words = [word.lower() for word in _WORD.findall(text)]
  return {tuple(words[i: i + RUN]) for i in range(len(words) - RUN + 1)}
