"""1,259 pairs after public reports of what answer checkers get wrong.

Of `pairs.jsonl`, `never` lists the verdicts that would be faults. Abstaining where
`expected` is True or False is a miss, of which a few are left.
"""
import collections
import json
import pathlib

import pytest

from ddt_jax import errors
from ddt_jax import verify

MOST_MISSES = 4
PAIRS = [json.loads(line) for line in
         pathlib.Path(__file__).with_name('pairs.jsonl').read_text().splitlines()]


def test_no_pair_is_judged_wrong_and_few_are_missed():
  verdicts = verify.verify_all(
      [(p['response'], p['answer']) for p in PAIRS],
      kind=[p.get('kind', 'math') for p in PAIRS],
      marker=[p.get('marker', verify.BOX) for p in PAIRS])
  found = collections.defaultdict(list)
  for pair, verdict in zip(PAIRS, verdicts, strict=True):
    shown = pair['response'][-60:], pair['answer'], verdict
    if verdict.correct in pair['never']:
      found['fault'].append(shown)
    elif verdict.correct is None and pair['expected'] is not None:
      found['miss'].append(shown)
    assert not verdict.reason.startswith(('algebra', 'timeout', 'worker')), shown
  assert not found['fault']
  assert len(found['miss']) <= MOST_MISSES, found['miss']


OWN = """
def ends_alike(response, answer):
  if response == 'wait':
    while True: pass
  if response == 'raise':
    raise RuntimeError('no idea')
  return None if not answer else 1 if answer == '1' else response.endswith(answer)
"""


def test_a_verifier_of_ones_own_runs_in_the_killable_workers(tmp_path, monkeypatch):
  (tmp_path / 'mine.py').write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  kind = 'mine:ends_alike'
  pairs = [('a b', 'b'), ('a b', 'c'), ('x', ''), ('wait', 'b'), ('raise', 'b'),
           ('a 1', '1'), (r'a \boxed{b}', 'b}')]
  verdicts = verify.verify_all(pairs, kind=kind, timeout_s=1.0, workers=2)
  assert [v.correct for v in verdicts] == [True, False, None, None, None, None, True]
  assert [v.reason for v in verdicts][2:6] == [
      f'by {kind}', 'timeout after 1.0 s', f'{kind} failed: RuntimeError: no idea',
      f'{kind} returned 1, not True, False or None']
  assert verdicts[-1].extracted == 'b'
  assert verify.verify('a b', 'b', kind=kind) == verdicts[0]
  mixed = verify.verify_all([('a b', 'b'), (r'\boxed{5}', '5')], kind=[kind, 'math'])
  assert [v.correct for v in mixed] == [True, True]


@pytest.mark.parametrize('kind, message', [
    ('maths', "choose from 'math', 'text', 'choice'"), ('no_such:f', 'cannot be imported'),
    ('math:no_such', 'cannot be imported'), ('math:pi', 'is no function'),
    (':f', 'cannot be imported')])
def test_a_kind_that_does_not_exist_is_refused(kind, message):
  with pytest.raises(errors.InputError, match=message):
    verify.verify_all([('a', 'b')], kind=kind)
