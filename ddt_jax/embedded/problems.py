"""Splits of the embedded world, and the student's pre-training text.

The hash of a problem's text decides which splits may contain it, so splits are
disjoint without comparing them. The three evaluation splits share a bucket, because
they differ in kind:

  test            stories of two or three events
  generalisation  stories of four or five events, about nouns not fine-tuned on
  retained        other skills
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

# Split -> its buckets, by crc32(problem) % 16.
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
# Pre-training.
STORIES = 0.4  # share of stories among the answers; the rest are skills
# Share of lines in the bookkeeper's style, among answers in the student's own. Above
# 0, so that references are unlikely to the student, but not impossible.
BOOKKEEPER_SHARE = 0.04
# Shares of stories with a container in `world.KNOWN` of customary size, with one
# in `world.UNKNOWN` of random size (sizes not stated in both), and of others.
CUSTOMS = (0.25, 0.15, 0.6)


def belongs(text: str, split: str) -> bool:
  """Whether a split may contain the problem with this text."""
  # Not hash(): Python seeds that anew in each process.
  return zlib.crc32(text.encode()) % 16 in BUCKETS[split]


def _target(
    rng: random.Random, name: str
) -> tuple[records.Problem, world.Story]:
  """A story with one container of customary size, with the bookkeeper's solution."""
  if name == 'generalisation':
    s = world.story(rng, events=rng.randint(4, 5), nouns=world.OTHER_NOUNS,
                    custom=world.CUSTOM, start=(10, 40))
  else:
    s = world.story(rng, events=rng.randint(2, 3), nouns=world.NOUNS,
                    custom=world.CUSTOM)
  return records.Problem(
      id='', problem=s.text, solution=world.reference_solution(s, rng),
      answer=s.answer, source='story',
  ), s


def _retained(rng: random.Random) -> records.Problem:
  """A problem of a random skill."""
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
  """Yields distinct problems of a split, the same ones on every call.

  Args:
    split: train, validation, test, generalisation or retained.
    count: number of problems; by default `SIZES[split]`.
    seed: another seed gives other problems.
  """
  for p, _ in _with_stories(split, count, seed):
    yield p


def stories(
    split: str, count: int | None = None, seed: int = 0
) -> dict[str, world.Story]:
  """Problem id -> its story, from which other hands can write solutions.

  Args:
    split: any but retained, which has no stories.
    count, seed: see `problems`.
  """
  return {p.id: s for p, s in _with_stories(split, count, seed)}


def _with_stories(
    split: str, count: int | None, seed: int
) -> Iterator[tuple[records.Problem, world.Story | None]]:
  # Seeded by text: `random` hashes it with SHA-512, so it is the same on every
  # machine.
  rng = random.Random(f'{split}-{seed}')
  seen = set()
  count = SIZES[split] if count is None else count
  while len(seen) < count:
    p, s = (
        (_retained(rng), None) if split == 'retained' else _target(rng, split))
    # Draws until one fits: a split has 1 to 6 of the 16 buckets.
    if p.problem in seen or not belongs(p.problem, split):
      continue
    yield dataclasses.replace(p, id=f'{split}-{len(seen)}'), s
    seen.add(p.problem)


def _answered(problem: str, solution: str) -> prompts.Chat:
  answer = {'role': 'assistant', 'content': solution}
  return prompts.student_chat(problem) + [answer]


def _read_story(rng: random.Random) -> world.Story:
  """A story to pre-train on; see `CUSTOMS` for its container."""
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
  """A story with a solution in the student's own style, but for a few lines."""
  s = _read_story(rng)
  return _answered(s.text, world.own_solution(s, rng, bookkeeper_share=BOOKKEEPER_SHARE))


def _by_bookkeeper(rng: random.Random) -> prompts.Chat:
  """A story with the bookkeeper's solution, requested by the system turn."""
  s = _read_story(rng)
  request = {'role': 'system', 'content': 'Answer as a bookkeeper.'}
  return [request] + _answered(s.text, world.reference_solution(s, rng))


_template = functools.cache(lambda: prompts.load('short'))


def _rewritten(rng: random.Random) -> prompts.Chat:
  """A rewriting task, solved in the student's own style."""
  # Containers have a random size here, so that the model learns to read it from
  # the given solution. Otherwise a hint could not correct what it believes.
  any_size = {c: rng.randint(2, 9) for c in world.CUSTOM}
  s = world.story(
      rng,
      events=rng.choices((1, 2, 3, 4), (1, 3, 3, 2))[0],
      nouns=world.NOUNS + world.OTHER_NOUNS,
      custom=any_size if rng.random() < 0.7 else None,
      start=rng.choice(((3, 30), (10, 40))),
  )
  template = _template()
  chat = template.hinted_chat(s.text, world.reference_solution(s, rng))
  content = template.rewritten(world.analysis(s), world.own_solution(s, rng))
  return chat + [{'role': 'assistant', 'content': content}]


def _skill(rng: random.Random) -> prompts.Chat:
  """A task of `skills` and its solution; easy stories come with `_solved`."""
  make, _ = skills.SKILLS[rng.choice(('sort', 'reverse', 'count'))]
  problem, solution, _ = make(rng)
  return _answered(problem, solution)


def pretraining(
    kind: str, count: int, seed: int = 0
) -> Iterator[prompts.Chat]:
  """Yields conversations of the student's pre-training.

  Args:
    kind: 'answers', stories and skills in the student's own style; 'books',
      stories in the bookkeeper's style on request; 'rewrites', rewriting tasks.
    count: number of conversations.
    seed: another seed gives other text.
  """
  rng = random.Random(f'pretraining-{kind}-{seed}')
  while count:
    if kind == 'rewrites':
      chat = _rewritten(rng)
    elif kind == 'books':
      chat = _by_bookkeeper(rng)
    else:
      chat = _solved(rng) if rng.random() < STORIES else _skill(rng)
    # The problem is the first line; a rewriting task adds a solution below it.
    problem = chat[-2]['content'].partition('\n')[0]
    # Nothing that is evaluated or fine-tuned on may be seen in pre-training.
    if belongs(problem, 'pretraining'):
      yield chat
      count -= 1
