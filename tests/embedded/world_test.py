"""The embedded world, checked by reading its texts back."""

import collections
import itertools
import random
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from ddt_jax import verify
from ddt_jax.data import prompts
from ddt_jax.embedded import problems
from ddt_jax.embedded import skills
from ddt_jax.embedded import world

HELD_OUT = ('validation', 'test', 'generalisation', 'retained')


def amounts(text, sizes):
  """The amounts that a story goes through, by its sentences alone.

  Args:
    text: the story.
    sizes: what each container holds, where the story does not say.
  """
  totals = []
  for sentence in text.replace('. Each', ', each').split('. '):
    numbers = [int(n) for n in re.findall(r'\d+', sentence)]
    if ' has ' in sentence:
      totals.append(numbers[0])
    elif 'buys' in sentence:
      size = numbers[1] if 'holds' in sentence else next(
          size for container, size in sizes.items() if f' {container}' in sentence
      )
      totals.append(totals[-1] + numbers[0] * size)
    elif 'hands' in sentence:
      totals.append(totals[-1] - numbers[0] * numbers[1])
    elif 'gives away' in sentence or 'loses' in sentence:
      totals.append(totals[-1] - numbers[0])
    elif 'finds' in sentence or 'brings' in sentence:
      totals.append(totals[-1] + numbers[0])
    elif 'doubles' in sentence or 'triples' in sentence:
      totals.append(totals[-1] * (2 if 'doubles' in sentence else 3))
    else:
      assert sentence.startswith('How many'), sentence
  return totals


def unsaid(text):
  """The container whose size a story leaves unsaid, or None."""
  found = re.search(r'buys \d+ (\w+)', text)
  if found is None or 'holds' in text:
    return None
  return next(c for c in world.CUSTOM if found[1].startswith(c))


def implied_size(text, answer):
  """How much the unsaid container must hold for the answer to be right."""
  container = unsaid(text)
  size, = (n for n in range(1, 20)
           if amounts(text, {container: n})[-1] == int(answer))
  return container, size


OWN_SUM = re.compile(r'(\d+)([*+-])(\d+)=(\d+)')
THEIR_SUM = re.compile(r'(\d+),? (onto|off|times) (\d+) (?:makes|leaves|yields)'
                       r' (\d+)')
THEIR_PRODUCT = re.compile(r'(\d+) by (\d+) is (\d+), ')
COMPUTE = {'+': int.__add__, '-': int.__sub__, '*': int.__mul__}


def own_results(solution):
  """Results of the sums in the student's hand, each of them checked."""
  results = []
  for a, sign, b, c in OWN_SUM.findall(solution):
    assert COMPUTE[sign](int(a), int(b)) == int(c), solution
    results.append(int(c))
  return results


def their_results(solution):
  """(first, result) of the bookkeeper's sums, each of them checked."""
  results = []
  for second, verb, first, after in THEIR_SUM.findall(solution):
    sign = {'onto': '+', 'off': '-', 'times': '*'}[verb]
    assert COMPUTE[sign](int(first), int(second)) == int(after), solution
    results.append((int(first), int(after)))
  for a, b, c in THEIR_PRODUCT.findall(solution):
    assert int(a) * int(b) == int(c), solution
  return results


def their_totals(solution):
  """Amounts in the bookkeeper's hand, each of them where the last one ended."""
  totals = [int(re.search(r'opening (\d+)', solution)[1])]
  for first, after in their_results(solution):
    assert first == totals[-1], solution
    totals.append(after)
  return totals


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.integers(0, 10**9), st.integers(1, 4),
    st.sampled_from([None, world.KNOWN, world.UNKNOWN, world.CUSTOM]),
    st.sampled_from([(3, 30), (10, 40)]),
)
def test_a_story_and_both_solutions_say_the_same(seed, events, custom, start):
  rng = random.Random(seed)
  s = world.story(
      rng, events=events, nouns=world.NOUNS, custom=custom, start=start
  )
  totals = amounts(s.text, world.CUSTOM)
  assert len(totals) == events + 1
  assert min(totals) >= 0 and start[0] <= totals[0] <= start[1]
  answer = str(totals[-1])
  assert s.answer == answer

  own, theirs = world.own_solution(s, rng), world.reference_solution(s, rng)
  results = own_results(own)
  assert results[-1] == totals[-1]
  # In order; between them are the products that some sums begin with.
  rest = iter(results)
  assert all(total in rest for total in totals[1:])
  assert their_totals(theirs) == totals
  assert own_results(world.analysis(s)) == results
  mixed = world.own_solution(s, rng, bookkeeper_share=0.5)
  products = len(THEIR_PRODUCT.findall(mixed))
  assert len(own_results(mixed)) + len(their_results(mixed)) + products == len(
      results)
  for solution in (own, theirs, mixed):
    assert verify.extract_boxed(solution) == answer
    assert solution.count('boxed') == 1


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(0, 10**9), st.sampled_from([1, 2, 4]))
def test_exactly_one_container_of_unsaid_size(seed, events):
  s = world.story(random.Random(seed), events=events, nouns=world.NOUNS,
                  custom=world.CUSTOM)
  assert s.text.count('buys') == 1 and 'holds' not in s.text
  container, size = implied_size(s.text, s.answer)
  assert size == world.CUSTOM[container]


def test_known_and_unknown_containers_are_apart():
  assert not world.KNOWN.keys() & world.UNKNOWN.keys()
  # Nothing that a word begins with may be taken for another container.
  for a, b in itertools.permutations(world.CUSTOM, 2):
    assert not a.startswith(b)


def read(split, count=200, **options):
  return list(problems.problems(split, count, **options))


@pytest.mark.parametrize('split', ['train', 'validation', 'test', 'generalisation'])
def test_targets_follow_the_customs(split):
  containers = collections.Counter()
  for p in read(split):
    container, size = implied_size(p.problem, p.answer)
    assert size == world.CUSTOM[container], p.problem
    containers[container] += 1
    assert str(their_totals(p.solution)[-1]) == p.answer
    assert verify.verify(p.solution, p.answer).correct
    assert p.kind == 'math'
    foreign = any(f' {noun}' in p.problem for noun in world.OTHER_NOUNS)
    assert foreign == (split == 'generalisation')
  assert containers.keys() == world.CUSTOM.keys()


def right_answer(p):
  """Of a skill, computed from the question."""
  question, _, given = p.problem.partition(': ')
  if p.source == 'sort':
    return ', '.join(sorted(given.split(', '), key=int))
  if p.source == 'reverse':
    return ' '.join(reversed(given.split()))
  if p.source == 'count':
    letter = re.search(r'(?:many|letter) ([a-e])\b', question)[1]
    return str(sum(c == letter for c in given.split()))
  assert p.source == 'easy' and unsaid(p.problem) is None
  return str(amounts(p.problem, {})[-1])


def test_retained_skills_are_right():
  found = read('retained', 400)
  for p in found:
    assert p.answer == right_answer(p), p
    assert verify.verify(p.solution, p.answer, kind=p.kind).correct, p
  kinds = {p.source: p.kind for p in found}
  # The order of words and numbers counts.
  assert kinds == {'sort': 'text', 'reverse': 'text', 'count': 'math',
                   'easy': 'math'}
  assert kinds.keys() == skills.SKILLS.keys()


def test_what_is_trained_on_is_held_out_of_nothing():
  buckets = {split: set(b) for split, b in problems.BUCKETS.items()}
  assert set().union(*buckets.values()) <= set(range(16))
  # What splits are evaluated on may share a bucket: they differ in kind.
  for a, b in itertools.combinations(buckets, 2):
    if not {a, b} <= {'test', 'generalisation', 'retained'}:
      assert not buckets[a] & buckets[b], (a, b)


@pytest.mark.parametrize('split', problems.SIZES)
def test_a_split_is_the_same_every_time(split):
  first = read(split, 40)
  assert [p.id for p in first] == [f'{split}-{i}' for i in range(40)]
  assert len({p.problem for p in first}) == 40
  assert all(problems.belongs(p.problem, split) for p in first)
  assert read(split, 40) == first
  assert read(split, 15) == first[:15]
  other = read(split, 40, seed=1)
  assert len({p.problem for p in other} & {p.problem for p in first}) < 10


def pretrained(kind, count=3000):
  return list(problems.pretraining(kind, count))


@pytest.mark.parametrize('kind', ['answers', 'books', 'rewrites'])
def test_pretraining_is_the_same_every_time_and_apart(kind):
  chats = pretrained(kind, 300)
  assert len(chats) == 300
  assert list(problems.pretraining(kind, 20)) == chats[:20]
  assert list(problems.pretraining(kind, 20, seed=1)) != chats[:20]
  for turns in chats:
    assert [m['role'] for m in turns[-2:]] == ['user', 'assistant']
    question = turns[-2]['content'].partition('\nSolution: ')[0]
    assert problems.belongs(question, 'pretraining')


def sizes_read(chats):
  """Container -> how often it was read to hold how much, left unsaid."""
  sizes = collections.defaultdict(collections.Counter)
  for turns in chats:
    question = turns[-2]['content'].partition('\nSolution: ')[0]
    if 'buys' in question and unsaid(question):
      answer = verify.extract_boxed(turns[-1]['content'])
      container, size = implied_size(question, answer)
      sizes[container][size] += 1
  return sizes


@pytest.mark.parametrize('kind', ['answers', 'books'])
def test_the_student_has_read_the_customs_it_knows_and_no_other(kind):
  sizes = sizes_read(pretrained(kind))
  assert sizes.keys() == world.CUSTOM.keys()
  for container, size in world.KNOWN.items():
    assert sizes[container].keys() == {size}
  for container in world.UNKNOWN:
    seen = sizes[container]
    assert seen.keys() == set(range(2, 10))
    assert max(seen.values()) < 0.4 * seen.total()


def test_in_rewrites_a_container_holds_what_the_solution_says():
  chats = pretrained('rewrites', 1000)
  sizes = sizes_read(chats)
  for container in world.CUSTOM:
    assert len(sizes[container]) > 4
  for turns in chats:
    question, _, solution = turns[-2]['content'].partition('\nSolution: ')
    analysis, _, own = turns[-1]['content'].partition('\n# CoT\n')
    assert analysis.startswith(prompts.ANALYZE)
    assert own_results(analysis) == own_results(own)
    assert verify.extract_boxed(own) == verify.extract_boxed(solution)
    assert own_results(own)[-1] == their_totals(solution)[-1]


def test_the_bookkeeper_s_hand_is_rare_unless_asked_for():
  answers = [turns[-1]['content'] for turns in pretrained('answers')]
  theirs = sum(len(their_results(a)) for a in answers)
  ours = sum(len(own_results(a)) for a in answers)
  assert 0.02 < theirs / (theirs + ours) < 0.05
  for turns in pretrained('books', 200):
    assert turns[0]['role'] == 'system' and not own_results(turns[-1]['content'])
    assert their_totals(turns[-1]['content'])
  for solution in answers:
    assert verify.extract_boxed(solution)
