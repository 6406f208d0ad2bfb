r"""Does a response give the right final answer? True, False, or abstained.

The content of the last complete ``\boxed{...}`` is compared with a reference:
as text where only exact words count, otherwise as mathematics, by `verify_math`
where that is quick and by math-verify, through `verify_algebra`, where it is
not.

Model output is hostile: `verify_all` gives what needs algebra to subprocesses
(``python -m ddt_jax.verify``) and kills those that take too long.
"""
from collections.abc import Sequence
import re
from typing import NamedTuple
import unicodedata

from ddt_jax import verify_math
from ddt_jax import verify_worker

MAX_RESPONSE = 500_000  # characters


class Verdict(NamedTuple):
  """The decision on one response.

  correct: None means abstained: neither right nor wrong could be established.
  extracted: the content of the response's last box, None if it has none.
  reason: why, in words.
  """
  correct: bool | None
  extracted: str | None
  reason: str


def verify(response: str, answer: str, *, kind: str = 'math') -> Verdict:
  r"""Compares the last boxed answer of a response with the reference.

  Runs in this process and without a time limit: `verify_all` is for bulk.

  Args:
    response: the whole text; its last complete ``\boxed{...}`` counts.
    answer: the reference, bare or boxed.
    kind: "math", where a bare list is unordered, or "text": exact match after
      Unicode, case and space normalisation, for words and ordered lists.
  Returns:
    A Verdict; a response without a box is wrong, not abstained from.
  Example:
    >>> verify(r'so \boxed{\frac{2}{4}}', '0.5').correct
    True
  """
  verdict = _verify_quickly(response, answer, kind)
  if verdict is None:
    got = extract_boxed(response)
    correct, reason = _judge(got, _bare(answer))
    verdict = Verdict(correct, got, reason)
  return verdict


def verify_all(pairs: Sequence[tuple[str, str]], *,
               kind: str | Sequence[str] = 'math', workers: int = 2,
               timeout_s: float = 5.0) -> list[Verdict]:
  """`verify` for many pairs, in killable subprocesses where algebra is needed.

  Args:
    pairs: [(response, answer), ...].
    kind: "math" or "text", for all pairs or one per pair.
    workers: subprocesses at most; none is started if none is needed.
    timeout_s: wall clock for one pair, from the moment a worker that is ready
      receives it. A pair that exceeds it is abstained from.
  Returns:
    One Verdict per pair, in the order of `pairs`.
  Raises:
    RuntimeError: workers cannot be started.
  """
  kinds = [kind] * len(pairs) if isinstance(kind, str) else list(kind)
  if len(kinds) != len(pairs):
    raise ValueError(f'{len(pairs)} pairs, but {len(kinds)} kinds.')
  if workers < 1:
    raise ValueError(f'workers must be at least 1, not {workers}.')
  verdicts = [_verify_quickly(*pair, k)
              for pair, k in zip(pairs, kinds, strict=True)]
  hard = [i for i, verdict in enumerate(verdicts) if verdict is None]
  boxes = [(extract_boxed(pairs[i][0]), _bare(pairs[i][1])) for i in hard]
  judged = verify_worker.judge_all(boxes, workers, timeout_s)
  for i, (got, _), (correct, reason) in zip(hard, boxes, judged, strict=True):
    verdicts[i] = Verdict(correct, got, reason)
  return verdicts


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


def _bare(answer: str) -> str:
  boxed = extract_boxed(answer)
  return answer.strip() if boxed is None else boxed


def _verify_quickly(response: str, answer: str, kind: str) -> Verdict | None:
  """The verdict, or None if it takes algebra."""
  if kind not in ('math', 'text'):
    raise ValueError(f'kind must be "math" or "text", not {kind!r}.')
  if max(len(response), len(answer)) > MAX_RESPONSE:
    return Verdict(None, None, f'more than {MAX_RESPONSE} characters')
  got = extract_boxed(response)
  if got is None:
    return Verdict(False, None, 'no boxed answer')
  if not got:
    return Verdict(False, got, 'empty box')
  want = _bare(answer)
  if kind == 'text':
    correct = _plain(got) == _plain(want)
    return Verdict(correct, got, 'the same text' if correct else 'another text')
  decision = verify_math.judge(got, want)
  return decision and Verdict(decision[0], got, decision[1])


def _plain(text: str) -> str:
  """Normal form of words: the only notion of equality that `text` has."""
  text = unicodedata.normalize('NFKC', text)
  text = re.sub(r'\\text\s*\{([^{}]*)\}', r'\1', text)
  return re.sub(r'\s*,\s*', ', ', ' '.join(text.split())).strip().casefold()


def _judge(got: str, want: str) -> tuple[bool | None, str]:
  return verify_math.judge(got, want, _algebra)


def _algebra(got: str, want: str) -> bool:
  from ddt_jax import verify_algebra  # sympy: slow, and most answers need none
  return verify_algebra.same(got, want)


if __name__ == '__main__':
  verify_worker.serve(_judge)
