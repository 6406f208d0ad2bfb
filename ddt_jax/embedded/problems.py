"""Splits of the embedded world, and the text the student was pre-trained on.

Splits are disjoint by construction. A problem belongs where its text hashes
into; the three evaluation splits share a bucket and differ in kind: stories of
two or three events, of more events and about other things, and no such stories.
"""

from collections.abc import Iterator
import dataclasses
import functools
import random
import zlib

from ddt_jax.data import prompts
from ddt_jax.data import records
from ddt_jax.embedded import skills
from ddt_jax.embedded import world

# Buckets of crc32(problem) % 16.
BUCKETS = {
    'train': range(2, 8),
    'validation': (0,),
    'test': (1,),
    'generalisation': (1,),
    'retained': (1,),
    'pretraining': range(8, 16),
}
SIZES = {
    'train': 4000, 'validation': 500, 'test': 1000,
    'generalisation': 1000, 'retained': 1000,
}
STORIES = 0.4  # share of stories among the answers; the rest are skills
OTHER_HAND = 0.04  # share of the answers' lines that are the bookkeeper's
# Shares of stories with a container of known size, of one of any size (both
# unsaid), and of other stories.
CUSTOMS = (0.25, 0.15, 0.6)


def belongs(text: str, split: str) -> bool:
  return zlib.crc32(text.encode()) % 16 in BUCKETS[split]


def _target(rng: random.Random, name: str) -> records.Problem:
  """A story with a container of unsaid size, solved by the bookkeeper."""
  if name == 'generalisation':
    s = world.story(rng, events=rng.randint(4, 5), nouns=world.OTHER_NOUNS,
                    custom=world.CUSTOM, start=(10, 40))
  else:
    s = world.story(rng, events=rng.randint(2, 3), nouns=world.NOUNS,
                    custom=world.CUSTOM)
  return records.Problem(
      id='', problem=s.text, solution=world.reference_solution(s, rng),
      answer=s.answer, source='story',
  )


def _retained(rng: random.Random) -> records.Problem:
  name = rng.choice(sorted(skills.SKILLS))
  make, kind = skills.SKILLS[name]
  problem, solution, answer = make(rng)
  return records.Problem(
      id='', problem=problem, solution=solution, answer=answer, kind=kind,
      source=name,
  )


def problems(
    split: str, count: int | None = None, seed: int = 0
) -> Iterator[records.Problem]:
  """The problems of a split, without repetition.

  Args:
    split: train | validation | test | generalisation (targets), retained.
    count: default `SIZES[split]`.
    seed: of the world.
  """
  rng = random.Random(f'{split}-{seed}')
  seen = set()
  count = SIZES[split] if count is None else count
  while len(seen) < count:
    p = _retained(rng) if split == 'retained' else _target(rng, split)
    if p.problem in seen or not belongs(p.problem, split):
      continue
    yield dataclasses.replace(p, id=f'{split}-{len(seen)}')
    seen.add(p.problem)


def _answered(problem: str, solution: str) -> prompts.Chat:
  answer = {'role': 'assistant', 'content': solution}
  return prompts.student_chat(problem) + [answer]


def _read_story(rng: random.Random) -> world.Story:
  custom = rng.choices(
      (world.KNOWN, {c: rng.randint(2, 9) for c in world.UNKNOWN}, None),
      CUSTOMS,
  )[0]
  return world.story(
      rng,
      events=rng.choices((1, 2, 3, 4), (3, 4, 3, 2))[0],
      nouns=world.NOUNS + world.OTHER_NOUNS,
      custom=custom,
      start=rng.choice(((3, 30), (10, 40))),
  )


def _solved(rng: random.Random) -> prompts.Chat:
  """A story with its solution, nearly every line in the student's own hand."""
  s = _read_story(rng)
  return _answered(s.text, world.own_solution(s, rng, other_hand=OTHER_HAND))


def _booked(rng: random.Random) -> prompts.Chat:
  """A story solved in the bookkeeper's hand, because that was asked for."""
  s = _read_story(rng)
  asked = {'role': 'system', 'content': 'Answer as a bookkeeper.'}
  return [asked] + _answered(s.text, world.reference_solution(s, rng))


_rewriting = functools.cache(lambda: prompts.load('short'))


def _rewritten(rng: random.Random) -> prompts.Chat:
  """A story with the bookkeeper's solution, told in the student's hand."""
  # A container may be of any size: only the given solution says which.
  any_size = {c: rng.randint(2, 9) for c in world.CUSTOM}
  s = world.story(
      rng,
      events=rng.choices((1, 2, 3, 4), (1, 3, 3, 2))[0],
      nouns=world.NOUNS + world.OTHER_NOUNS,
      custom=any_size if rng.random() < 0.7 else None,
      start=rng.choice(((3, 30), (10, 40))),
  )
  template = _rewriting()
  chat = template.hinted_chat(s.text, world.reference_solution(s, rng))
  content = template.rewritten(world.analysis(s), world.own_solution(s, rng))
  return chat + [{'role': 'assistant', 'content': content}]


def _skill(rng: random.Random) -> prompts.Chat:
  make, _ = skills.SKILLS[rng.choice(('sort', 'reverse', 'count'))]
  problem, solution, _ = make(rng)
  return _answered(problem, solution)


def pretraining(
    kind: str, count: int, seed: int = 0
) -> Iterator[prompts.Chat]:
  """Conversations the student was pre-trained on.

  Args:
    kind: 'answers' (stories and other skills), 'books' or 'rewrites'.
    count: how many.
    seed: of the text.
  """
  rng = random.Random(f'pretraining-{kind}-{seed}')
  while count:
    if kind == 'rewrites':
      chat = _rewritten(rng)
    elif kind == 'books':
      chat = _booked(rng)
    else:
      chat = _solved(rng) if rng.random() < STORIES else _skill(rng)
    story_first = chat[-2]['content'].partition('\n')[0]
    if belongs(story_first, 'pretraining'):
      yield chat
      count -= 1
