r"""Does a response give the right final answer? True, False, or abstained.

The content of the last complete ``\boxed{...}``, or what follows another marker,
is compared with a reference: as text where only exact words count, otherwise as
mathematics, by `verify_math` where that is quick and by math-verify, through
`verify_algebra`, where it is not.

Model output is hostile: `verify_all` gives what needs algebra to subprocesses
(``python -m ddt_jax.verify``) and kills those that take too long.
"""
from collections.abc import Sequence
import re
from typing import NamedTuple
import unicodedata

from ddt_jax.verify import numbers
from ddt_jax.verify import worker

BOX = '\\boxed{'
MAX_RESPONSE = 500_000  # characters


class Verdict(NamedTuple):
  """The decision on one response.

  correct: None means abstained: neither right nor wrong could be established.
  extracted: the response's final answer, None if it has none.
  reason: why, in words.
  """
  correct: bool | None
  extracted: str | None
  reason: str


def verify(
    response: str, answer: str, *, kind: str = 'math', marker: str = BOX
) -> Verdict:
  r"""Compares the final answer of a response with the reference.

  Runs in this process and without a time limit: `verify_all` is for bulk.

  Args:
    response: the whole text; see `extract` for what counts.
    answer: the reference, bare or marked.
    kind: "math", where a bare list is unordered, or "text": exact match after
      Unicode, case and space normalisation, for words and ordered lists.
    marker: where a final answer begins, see `extract`.
  Returns:
    A Verdict; a response without the marker is wrong, not abstained from.
  Example:
    >>> verify(r'so \boxed{\frac{2}{4}}', '0.5').correct
    True
  """
  verdict = _verify_quickly(response, answer, kind, marker)
  if verdict is None:
    got = extract(response, marker)
    correct, reason = judge_in_worker(got, _bare(answer, marker))
    verdict = Verdict(correct, got, reason)
  return verdict


def verify_all(pairs: Sequence[tuple[str, str]], *,
               kind: str | Sequence[str] = 'math',
               marker: str | Sequence[str] = BOX, workers: int = 2,
               timeout_s: float = 5.0) -> list[Verdict]:
  """`verify` for many pairs, in killable subprocesses where algebra is needed.

  Args:
    pairs: [(response, answer), ...].
    kind, marker: see `verify`; for all pairs or one per pair.
    workers: subprocesses at most; none is started if none is needed.
    timeout_s: wall clock for one pair, from the moment a worker that is ready
      receives it. A pair that exceeds it is abstained from.
  Returns:
    One Verdict per pair, in the order of `pairs`.
  Raises:
    RuntimeError: workers cannot be started.
  """
  kinds, markers = (
      [x] * len(pairs) if isinstance(x, str) else list(x) for x in (kind, marker)
  )
  if not len(kinds) == len(markers) == len(pairs):
    raise ValueError(
        f'{len(pairs)} pairs, but {len(kinds)} kinds, {len(markers)} markers.'
    )
  if workers < 1:
    raise ValueError(f'workers must be at least 1, not {workers}.')
  verdicts = [_verify_quickly(*pair, k, m)
              for pair, k, m in zip(pairs, kinds, markers, strict=True)]
  hard = [i for i, verdict in enumerate(verdicts) if verdict is None]
  boxes = [
      (extract(pairs[i][0], markers[i]), _bare(pairs[i][1], markers[i]))
      for i in hard
  ]
  judged = worker.judge_all(boxes, workers, timeout_s)
  for i, (got, _), (correct, reason) in zip(hard, boxes, judged, strict=True):
    verdicts[i] = Verdict(correct, got, reason)
  return verdicts


def extract(text: str, marker: str = BOX) -> str | None:
  r"""A text's final answer, or None.

  With `BOX` the content of the last complete box; with another marker, such as
  'Answer:', the rest of the line after it, where it occurs for the last time.
  """
  if marker == BOX:
    return extract_boxed(text)
  _, found, rest = text.rpartition(marker)
  return rest.partition('\n')[0].strip() if found else None


def extract_boxed(text: str) -> str | None:
  r"""The content of the last complete ``\boxed{}`` or ``\fbox{}``, or None."""
  first = _BOX.search(text)
  if first is None:
    return None
  found, opened = None, []  # where each open brace's content starts
  for token in _BOX_TOKEN.finditer(text, first.start()):
    if token[0] == '{' or token['box']:
      opened.append((token.end(), token['box']))
    elif token[0] == '}' and opened:
      start, is_box = opened.pop()
      if is_box:
        found = text[start:token.start()]
  return found if found is None else found.strip()


_BOX = re.compile(r'\\(?:boxed|fbox)\s*\{')
# An escaped character is one token, so that \{ opens nothing.
_BOX_TOKEN = re.compile(r'(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]', re.DOTALL)


def _bare(answer: str, marker: str) -> str:
  marked = extract(answer, marker)
  return answer.strip() if marked is None else marked


def _verify_quickly(
    response: str, answer: str, kind: str, marker: str
) -> Verdict | None:
  """The verdict, or None if it takes algebra."""
  if kind not in ('math', 'text'):
    raise ValueError(f'kind must be "math" or "text", not {kind!r}.')
  if max(len(response), len(answer)) > MAX_RESPONSE:
    return Verdict(None, None, f'more than {MAX_RESPONSE} characters')
  got = extract(response, marker)
  if got is None:
    missing = 'boxed answer' if marker == BOX else repr(marker)
    return Verdict(False, None, f'no {missing}')
  if not got:
    return Verdict(False, got, 'empty box' if marker == BOX else 'empty answer')
  want = _bare(answer, marker)
  if kind == 'text':
    correct = _plain(got) == _plain(want)
    return Verdict(correct, got, 'the same text' if correct else 'another text')
  decision = numbers.judge(got, want)
  return decision and Verdict(decision[0], got, decision[1])


def _plain(text: str) -> str:
  """Normal form of words: the only notion of equality that `text` has."""
  text = unicodedata.normalize('NFKC', text)
  text = re.sub(r'\\text\s*\{([^{}]*)\}', r'\1', text)
  return re.sub(r'\s*,\s*', ', ', ' '.join(text.split())).strip().casefold()


def judge_in_worker(got: str, want: str) -> tuple[bool | None, str]:
  return numbers.judge(got, want, _algebra)


def _algebra(got: str, want: str) -> bool:
  from ddt_jax.verify import algebra  # sympy: slow, and most answers need none
  return algebra.same(got, want)

