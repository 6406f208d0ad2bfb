"""Right, wrong and abstained answers; workers that hang, die or are orphaned."""

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from ddt_jax import verify
from ddt_jax.verify import judge
from ddt_jax.verify import worker

ROOT = pathlib.Path(verify.__file__).resolve().parents[2]

# (content of the box, reference, expected); None means abstained.
MATH = [
    # Numbers, decided exactly.
    ('32', '32', True), ('32', '33', False), ('+7', '7', True),
    ('7.', '7', True), ('007', '7', True), ('-5', '\u22125', True),
    ('1,234,567', '1234567', True), ('1{,}234', '1234', True),
    (r'1\,000', '1000', True), ('1 000', '1000', None),
    ('.5', '1/2', True), (r'\frac12', '0.5', True),
    (r'\dfrac{2}{4}', r'\frac{1}{2}', True), ('-3/4', r'\frac{-3}{4}', True),
    (r'3\frac12', '3.5', True), ('0.333333', r'\frac13', False),
    ('0.0000001', '0.0000002', False), ('$3$', r'\boxed{3}', True),
    (r'\frac{1}{0}', '1', None), ('5\u00b2', '52', False),
    # Percentages and units.
    (r'50\%', '0.5', True), ('50%', r'\frac12', True), (r'50\%', '51', False),
    (r'50\%', '50', None), (r'\$5', '5', True), (r'5\text{ cm}', '5', True),
    ('5 cm', r'5\,\mathrm{cm}', True), ('5 cm', '5 mm', False),
    (r'100\text{ cm}', '1', None), (r'12\text{ apples}', '12', True),
    (r'12\text{ apples}', '13', False), (r'7\text{ million}', '7', None),
    (r'90^\circ', '90', True), ('2t', '2', False),
    # Expressions.
    (r'2\sqrt3', r'\sqrt{12}', True), (r'\sqrt{2}/2', r'\frac{1}{\sqrt2}', True),
    (r'\sqrt2+\sqrt3', r'\sqrt{5+2\sqrt6}', True), (r'\sqrt5', '2.236', False),
    ('x^2-1', '(x-1)(x+1)', True), (r'\frac{x}{2}', '0.5x', True),
    ('x', '-x', False), ('(1+i)^2', '2i', True), (r'\log_2 8', '3', True),
    ('x=5', '5', True), ('x=5', 'y=5', None), ('y=2x+1', 'y=1+2x', True),
    ('(x,y)=(1,2)', '(1, 2)', True), ('x=2, x=1', '1, 2', True),
    ('x^2=4', '2, -2', None), ('x+y=3', '6=2x+2y', True),
    (r'\frac{4\pm\sqrt{12}}{2}', r'2+\sqrt3, 2-\sqrt3', True),
    (r'\begin{pmatrix}1\\2\end{pmatrix}', r'\begin{pmatrix}1\\3\end{pmatrix}',
     False),
    (r'\begin{pmatrix}1\\\sqrt{12}\end{pmatrix}',
     r'\begin{pmatrix}1\\2\sqrt{3}\end{pmatrix}', True),
    (r'\sqrt[3]{-8}', '-2', None),
    # Numbers that rounding would call equal.
    ('1/2004!', '1/2006!', False), (r'\frac{1}{2^{99}}', r'2^{-98}', False),
    ('x+2^{-999}', 'x+2^{-998}', False), ('1, 2^{-999}', '1, 2^{-998}', False),
    (r'\sqrt{10^{40}+1}', '10^{20}', False),
    (r'\sqrt{10^{400}+1}', '10^{200}', False), ('e^{-999}', 'e^{-998}', False),
    # Lists, tuples, sets, intervals.
    ('3, 1, 2', '1, 2, 3', True), ('1, 1, 2', '1, 2, 2', None),
    ('1, 2', '12', False), ('1, 234', '1234', False),
    (r'6\text{ or }8', '8, 6', True), (r'2\pm\sqrt3', r'2+\sqrt3, 2-\sqrt3', True),
    ('(3,1,2)', '(1,2,3)', False), ('(2,1)', '(3,1)', False),
    (r'\left(1, 2\right)', '(1,2)', True), ('(1,2)', '[1,2]', False),
    ('(1,2)', '1, 2', None), ('(2,1)', '[2,1]', None), ('(1,2)', '(2,1)', False),
    (r'\{1,2\}', r'\{2,1\}', True),
    (r'(-\infty,3]', r'x\le 3', True), ('(1,2)', '1<x<2', True),
    ('x>3', r'x\ge 3', False), (r'(1,2)\cup(3,4]', r'(3,4]\cup(1,2)', True),
    ('100,200', '200,100', False),
    # Words are never products of letters.
    (r'\text{even}', 'even', True), ('even', r'\text{odd}', False),
    ('tac', 'cat', False), (r'\text{(B)}', 'B', True), ('B', 'C', False),
    ('a', 'A', None), ('five', '5', True),
    # What a parser would misread, or read only a number of.
    ('1 2 3', '3 1 2', None), (r'\foo{12}+1', '12', None),
    ('12 apples and 3', '12', None), ('x+', 'x', None), ('1010_2', '10', None),
    ('12:30', '2:5', None), ('1e5', '10', False), ("f'(x)", 'f(x)', None),
    (r'\ln 2', r'\log 2', None), ('9^9^9', '1', None),
]
TEXT = [
    ('cat', 'cat', True), ('tac', 'cat', False), ('3 1 2', '1 2 3', False),
    ('3,1 ,2', '3, 1, 2', True), ('1, 2, 3', '3, 1, 2', False),
    (r'\text{Blue}  whale', 'blue whale', True), ('\uff11\uff12', '12', True),
    ('0.5', '1/2', False),
]
HOSTILE = {
    'tower': '9^{9^{9^{9}}}',
    'tower in parentheses': '9^(9^(9^(9)))',
    'power': '2^{10000000}',
    'power of a power': '2^{2^{40}}',
    'factorial': '100000000!',
    'factorial of a power': '(10^9)!',
    'factorials of factorials': '(((3!)!)!)!',
    'binomial': r'\binom{1000000}{500000}',
    'expansion': '(x+1)^{9999}',
    'tower in an interval': '(9^{9^{9^{9}}}, 1)',
    'two-storied tower in an interval': '(9^{9^{9}}, 1)',
    'many roots': ', '.join(rf'\sqrt{{{n}}}' for n in range(2, 99)),
    'digits': '1' * 900,
    'functions of functions': r'\sin ' * 150 + 'x',
    'logarithms of logarithms': r'\ln(' * 19 + 'x' + ')' * 19,
    'sums of sums': r'\sum_{a=1}^{99}\sum_{b=1}^{99}\sum_{c=1}^{99}abc',
    'plus-minus signs': '(' + ','.join([r'\pm1'] * 16) + ')',
    'length': '1+' * 100_000 + '1',
    'nested fractions': r'\frac{1}{' * 100 + '2' + '}' * 100,
    'nested parentheses': '(' * 400 + '1' + ')' * 400,
    'megabyte of braces': '{' * 500_000 + '}' * 500_000,
}


def boxed(content):
  return rf'So the answer is \boxed{{{content}}}.'


@pytest.fixture(scope='module')
def verdicts():
  """Of all tables in one call: the workers start once."""
  pairs = [(boxed(got), want) for got, want, _ in MATH + TEXT]
  pairs += [(boxed(content), '1') for content in HOSTILE.values()]
  kinds = ['math'] * len(MATH) + ['text'] * len(TEXT) + ['math'] * len(HOSTILE)
  result = iter(verify.verify_all(pairs, kind=kinds))
  names = [('math', *row[:2]) for row in MATH]
  names += [('text', *row[:2]) for row in TEXT] + list(HOSTILE)
  return {name: next(result) for name in names}


@pytest.mark.parametrize(
    'kind,got,want,expected',
    [('math', *row) for row in MATH] + [('text', *row) for row in TEXT])
def test_table(verdicts, kind, got, want, expected):
  verdict = verdicts[kind, got, want]
  assert verdict.correct is expected, verdict.reason
  assert verdict.extracted == got


def cpu_seconds():
  """Returns the processor time of this process and of the workers that ended."""
  return sum(os.times()[:4])


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_answers_are_abstained_from_before_they_cost(verdicts, name):
  correct, _, reason = verdicts[name]
  assert correct is None
  assert not any(word in reason for word in ('timeout', 'died', 'failed'))
  start = cpu_seconds()
  assert verify.verify(boxed(HOSTILE[name]), '1').reason == reason
  assert cpu_seconds() - start < 3  # most of it is the import of sympy


@pytest.mark.parametrize('content', [
    'x(' * 19 + '1' + ')' * 19, r'2\frac{1}{' * 19 + '3' + '}' * 19,
    functools.reduce(lambda inner, _: rf'\{{{inner},{inner}\}}', range(6), '1'),
    '5 ' + 'm s ' * 200, '1' + '+1' * 490, r'\text{' * 19 + 'x' + '}' * 19])
def test_no_way_of_nesting_is_read_many_times_over(content):
  start = time.process_time()
  for answer in ('1', content.replace('1', '2')):
    judge.judge(content, answer)
  assert time.process_time() - start < 1


@pytest.mark.parametrize('response', [
    '\\' * 480_000, '\\' * 480_000 + 'boxed{5}', r'\boxed{' * 60_000 + '}' * 60_000,
    (r'\boxed{5}' + ' ' * 90) * 4_800, r'\boxed' + ' ' * 480_000, '#' * 480_000,
    'Answer:\n' * 60_000, 'Answer: ' + '"' * 480_000, 'A' + ' ' * 480_000 + '!',
    r'\text{' * 80_000, '(A,' * 100_000])
def test_a_long_response_costs_linear_time(response):
  start = time.process_time()
  for marker in (verify.BOX, 'Answer:', '####'):
    for kind in ('math', 'text', 'choice'):
      verify.verify(response, 'A', kind=kind, marker=marker)
  verify.verify(rf'\boxed{{{response}}}', 'A', kind='choice')
  assert time.process_time() - start < 5  # quadratic time would be minutes


@pytest.mark.parametrize('response,extracted', [
    (r'\boxed{1} or \boxed{2}', '2'),
    (r'\boxed{\frac{1}{\sqrt{2}}} }', r'\frac{1}{\sqrt{2}}'),
    (r'\boxed{3}, no: \boxed{4', '3'),
    (r'\boxed{1 + \boxed{3}', '3'),
    (r'\boxed {5}', '5'), (r'\fbox{6}', '6'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'), (r'{{ \boxed{7}', '7'),
    (r'\boxed{4', None), ('the answer is 4', None), ('', None)])
def test_last_complete_box(response, extracted):
  assert verify.extract_boxed(response) == extracted


def test_no_box_is_wrong_and_a_boxed_reference_is_unwrapped():
  assert verify.verify('4', '4') == verify.Verdict(False, None, 'no boxed answer')
  assert verify.verify(r'\boxed{}', '4').correct is False
  assert verify.verify(r'\boxed{4}', r'thus \boxed{4}').correct


def test_wrong_arguments_are_named():
  with pytest.raises(ValueError, match='kind'):
    verify.verify(r'\boxed{1}', '1', kind='maths')
  with pytest.raises(ValueError, match='1 pairs, but 2 kinds'):
    verify.verify_all([(r'\boxed{1}', '1')], kind=['math', 'text'])


FORMATS = ['{}', '{}.0', '{:,}', ' {} ', '${}$', r'\left({}\right)', r'{}\text{{ m}}',
           r'\frac{{{}}}{{1}}', 'x = {}', r'\text{{{}}}', '{}/1', r'\$ {}']


@hypothesis.given(st.integers(-10**30, 10**30),
                  *[st.sampled_from(FORMATS)] * 2)
def test_an_integer_is_itself_and_not_its_successor(n, a, b):
  hypothesis.assume({a, b} != {r'{}\text{{ m}}', r'\$ {}'})  # other units
  pairs = [(boxed(a.format(n)), b.format(m)) for m in (n, n + 1)]
  same, other = (judge.judge(verify.extract_boxed(got), want)
                 for got, want in pairs)
  assert same == (True, 'equal to the answer')
  assert other is not None and not other[0]  # and neither took any algebra


def test_integers_need_no_worker(monkeypatch):
  monkeypatch.setattr(worker, 'COMMAND', ['/nonexistent'])
  text = 'We add the numbers, $x_{1} + x_{2}$, and see the result. ' * 10
  pairs = [(text + boxed(i), str(i + i % 2)) for i in range(10_000)]
  seconds = []
  for _ in range(3):  # the best of three: a busy machine slows one of them down
    start = time.process_time()
    verdicts = verify.verify_all(pairs)
    seconds.append(time.process_time() - start)
  assert min(seconds) < 1
  assert [v.correct for v in verdicts] == [i % 2 == 0 for i in range(10_000)]


def stand_in(monkeypatch, tmp_path, on_pair):
  """Replaces the worker by one that runs `on_pair` before each answer."""
  script = tmp_path / 'worker.py'
  script.write_text(textwrap.dedent("""
      import json, os, sys, time
      print(json.dumps('ready'), flush=True)
      for line in sys.stdin:
        _, got, want = json.loads(line)
        %s
        print(json.dumps([True, got]), flush=True)
      """) % on_pair)
  monkeypatch.setattr(worker, 'COMMAND', [sys.executable, str(script)])


PAIRS = [(boxed(f'x^{i}'), 'y') for i in range(8)]


def test_a_hung_worker_costs_its_timeout_and_nothing_else(monkeypatch, tmp_path):
  stand_in(monkeypatch, tmp_path, 'time.sleep(60 * (got in ("x^2", "x^5")))')
  start = time.monotonic()
  verdicts = verify.verify_all(PAIRS, workers=2, timeout_s=1.0)
  assert time.monotonic() - start < 5
  for i, verdict in enumerate(verdicts):
    expected = (None, 'timeout after 1.0 s') if i in (2, 5) else (True, f'x^{i}')
    assert (verdict.correct, verdict.reason) == expected
    assert verdict.extracted == f'x^{i}'


@pytest.mark.parametrize('death', [
    'os._exit(1)', 'os.kill(os.getpid(), 9)', 'print("no JSON", flush=True)'])
def test_a_dying_worker_costs_one_item(monkeypatch, tmp_path, death):
  stand_in(monkeypatch, tmp_path, f'if got == "x^3": {death}')
  verdicts = verify.verify_all(PAIRS, workers=2)
  assert [v.correct for v in verdicts] == [True] * 3 + [None] + [True] * 4
  assert verdicts[3].reason == 'worker died'


def test_workers_that_cannot_start_are_an_error(monkeypatch):
  monkeypatch.setattr(worker, 'COMMAND', [sys.executable, '-c', ''])
  with pytest.raises(RuntimeError, match='do not start'):
    verify.verify_all(PAIRS)


def test_no_worker_outlives_the_call(monkeypatch, tmp_path):
  pids = tmp_path / 'pids'
  stand_in(monkeypatch, tmp_path,
           f'print(os.getpid(), file=open({str(pids)!r}, "a"))')
  verify.verify_all(PAIRS)
  assert not any(map(alive, {int(p) for p in pids.read_text().split()}))


def alive(pid):
  with contextlib.suppress(ProcessLookupError, FileNotFoundError):
    os.kill(pid, 0)
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
  return False


def worker_with(body):
  """Command of a real worker that runs `body` before it compares."""
  return [sys.executable, '-c', textwrap.dedent(f"""
      import os
      from ddt_jax import verify
      from ddt_jax.verify import worker
      def judge(kind, got, want):
        if got != '2x' or want != 'x+x':  # with which it warms up
          {body}
        return verify.judge_in_worker(kind, got, want)
      worker.serve(judge)
      """)]


def test_a_busy_worker_ends_when_its_parent_is_killed():
  code = textwrap.dedent(f"""
      from ddt_jax.verify import worker
      worker.COMMAND = {worker_with('while True: pass')!r}
      worker = worker.Worker()
      worker.reply(60.0)
      print(worker.process.pid, flush=True)
      worker.ask(('math', '2x', '3x'), 60.0)
      """)
  parent = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT,
                            stdout=subprocess.PIPE, text=True)
  worker = int(parent.stdout.readline())
  try:
    time.sleep(0.3)
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(worker) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not alive(worker)
  finally:
    parent.kill()
    parent.stdout.close()
    with contextlib.suppress(ProcessLookupError):
      os.kill(worker, signal.SIGKILL)


def test_library_prints_do_not_reach_the_protocol(monkeypatch, capfd):
  noise = 'print("a library speaks"); os.write(1, b"so does its C code")'
  monkeypatch.setattr(worker, 'COMMAND', worker_with(noise))
  assert verify.verify_all([(boxed('3x'), 'x+2x')])[0].correct is True
  assert 'so does its C code' in capfd.readouterr().err


@pytest.mark.parametrize('response, answer, kind, correct', [
    ('Answer: 4\nAnswer: 5 ', '5', 'math', True),
    ('Answer: 1/2', '0.5', 'math', True),
    ('Answer: 1/2', 'Answer: 0.5', 'math', True),  # a marked reference
    ('Answer: Up and  away\nQED', 'up and away', 'text', True),
    ('Answer: 5\nAnswer: 4', '5', 'math', False),
    (r'\boxed{5}', '5', 'math', False),  # not what the marker says
])
def test_the_answer_after_another_marker(response, answer, kind, correct):
  how = dict(kind=kind, marker='Answer:')
  assert verify.verify(response, answer, **how).correct is correct
  both = verify.verify_all(
      [(response, answer), (r'\boxed{5}', '5')], kind=[kind, 'math'],
      marker=['Answer:', verify.BOX], workers=1,
  )
  assert [v.correct for v in both] == [correct, True]


def test_a_missing_or_empty_answer_is_named():
  def reason(response):
    return verify.verify(response, '5', marker='Answer:').reason

  assert reason('5') == "no 'Answer:'"
  assert reason('Answer:') == 'empty answer'
