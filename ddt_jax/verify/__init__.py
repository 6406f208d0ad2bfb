r"""Does a response give the right final answer? True, False, or abstained.

The final answer is the content of the last ``\boxed{...}``, or what follows another
marker (`answer`). The grammar reads it, or it is abstained from (`tokens`, `grammar`,
`atoms`, `words`: text -> `tree`). What was read is compared with the reference
(`judge`, `compare`, `forms`): rational numbers exactly; expressions by sympy (`algebra`).

Model output is hostile: `verify_all` gives what needs sympy to subprocesses
(``python -m ddt_jax.verify``) and kills those that take too long (`worker`).
"""
from collections.abc import Callable, Sequence
import importlib
from typing import NamedTuple

from ddt_jax import errors
from ddt_jax.verify import judge
from ddt_jax.verify import worker
from ddt_jax.verify.answer import BOX
from ddt_jax.verify.answer import extract
from ddt_jax.verify.answer import extract_boxed

__all__ = ['BOX', 'KINDS', 'MAX_RESPONSE', 'Verdict', 'check_kind', 'extract',
           'extract_boxed', 'verify', 'verify_all']

KINDS = ('math', 'text', 'choice')
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
    kind: "math", where a bare list is unordered; "text", exact match after
      Unicode, case, space and markup normalisation, for words and ordered lists;
      "choice", a multiple-choice letter with or without its option; or
      "package.module:function", a verifier of your own: (response, answer) ->
      True, False or None for abstained.
    marker: where a final answer begins, see `extract`.
  Returns:
    A Verdict; a response without the marker is wrong, not abstained from.
  Raises:
    InputError: there is no such kind.
  Example:
    >>> verify(r'so \boxed{\frac{2}{4}}', '0.5').correct
    True
    >>> verify(r'so \boxed{2\text{ dozen}}', '2')
    Verdict(correct=None, extracted='2\\text{ dozen}', reason="not understood: ...")
  """
  check_kind(kind)
  verdict = _verify_quickly(response, answer, kind, marker)
  if verdict is None:
    correct, reason = judge_in_worker(*_job(response, answer, kind, marker))
    verdict = Verdict(correct, extract(response, marker), reason)
  return verdict


def verify_all(pairs: Sequence[tuple[str, str]], *,
               kind: str | Sequence[str] = 'math',
               marker: str | Sequence[str] = BOX, workers: int = 2,
               timeout_s: float = 5.0) -> list[Verdict]:
  """`verify` for many pairs, in killable subprocesses where it may take long.

  Args:
    pairs: [(response, answer), ...].
    kind, marker: see `verify`; for all pairs or one per pair.
    workers: subprocesses at most; none is started if none is needed.
    timeout_s: wall clock for one pair, from the moment a worker that is ready
      receives it. A pair that exceeds it is abstained from.
  Returns:
    One Verdict per pair, in the order of `pairs`.
  Raises:
    InputError: there is no such kind.
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
  for one in dict.fromkeys(kinds):
    check_kind(one)
  rows = [(*pair, k, m) for pair, k, m in zip(pairs, kinds, markers, strict=True)]
  # Most pairs are decided in this process. Only the rest go to processes.
  verdicts = [_verify_quickly(*row) for row in rows]
  hard = [i for i, verdict in enumerate(verdicts) if verdict is None]
  judged = worker.judge_all([_job(*rows[i]) for i in hard], workers, timeout_s)
  for i, (correct, reason) in zip(hard, judged, strict=True):
    verdicts[i] = Verdict(correct, extract(pairs[i][0], markers[i]), reason)
  return verdicts


def check_kind(kind: str) -> None:
  """Refuses a kind of verification that does not exist.

  Raises:
    InputError: it is none of `KINDS` and names no function that can be imported.
  """
  if kind not in KINDS:
    _own_verifier(kind)


def _own_verifier(kind: str) -> Callable[[str, str], bool | None]:
  module, colon, name = kind.partition(':')
  if not colon:
    raise errors.InputError(
        f'{errors.no_choice("kind", kind, KINDS)} Or name a function of your own as'
        ' package.module:function')
  try:
    function = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as e:
    raise errors.InputError(
        f'the verifier {kind!r} cannot be imported: {e}. It is read as '
        '"package.module:function"; is its folder in PYTHONPATH?') from e
  if not callable(function):
    raise errors.InputError(f'the verifier {kind!r} is no function.')
  return function


def _verify_quickly(
    response: str, answer: str, kind: str, marker: str
) -> Verdict | None:
  """The verdict, or None if it may take long."""
  if max(len(response), len(answer)) > MAX_RESPONSE:
    return Verdict(None, None, f'more than {MAX_RESPONSE} characters')
  if kind not in KINDS:
    return None
  _, got, want = _job(response, answer, kind, marker)
  # The response was asked for a marked answer, so its absence is wrong.
  if not got:
    name = 'boxed answer' if marker == BOX else repr(marker)
    empty = 'empty box' if marker == BOX else 'empty answer'
    return Verdict(False, got, f'no {name}' if got is None else empty)
  compare = {'math': judge.judge, 'text': judge.same_text, 'choice': judge.same_choice}
  decision = compare[kind](got, want)
  return decision and Verdict(decision[0], got, decision[1])


def _job(
    response: str, answer: str, kind: str, marker: str
) -> tuple[str, str | None, str]:
  """Input of a worker: (kind, answer in the response, reference); see `verify`."""
  if kind not in KINDS:
    return kind, response, answer
  want = answer.strip()
  # The reference may be bare, marked, or end as in GSM8K: `#### 72`.
  for sign in (marker, BOX, '####'):
    # Cheap test first. Of \boxed{ it is 'box', which \fbox holds, too.
    if sign[1:4] in answer and (marked := extract(answer, sign)):
      want = marked
      break
  return kind, extract(response, marker), want


def judge_in_worker(kind: str, got: str, want: str) -> tuple[bool | None, str]:
  """(correct, reason) by sympy, or by a verifier of the user's."""
  if kind in KINDS:
    from ddt_jax.verify import algebra  # sympy: slow, and most answers need none
    return judge.judge(got, want, algebra)
  try:
    correct = _own_verifier(kind)(got, want)
  except Exception as e:  # the user's code on a model's text: one pair, not the run
    return None, f'{kind} failed: {type(e).__name__}: {e}'
  if correct is not None and not isinstance(correct, bool):
    return None, f'{kind} returned {correct!r}, not True, False or None'
  return correct, f'by {kind}'
