"""Solutions to one story in several hands, from the student's own to a stranger's.

The student's own style is on-policy, the bookkeeper's is known but unlikely, and the
stranger's occurs nowhere in pre-training. Mixtures lie in between, line by line, so
that mean phi falls along `HANDS`.
"""

import dataclasses
import functools
import random

from ddt_jax.embedded import problems
from ddt_jax.embedded import world

# Name -> (whose lines stand in the solution of the student or the bookkeeper, their
# share). A stranger's line has a mean phi of about -9 nats: the student is sure of
# another order of the numbers.
HANDS = {
    'own': ('bookkeeper', 0.0),
    'mixed': ('bookkeeper', 0.5),
    'bookkeeper': ('bookkeeper', 1.0),
    'visited': ('stranger', 0.04),
    'shared': ('stranger', 0.12),
    'stranger': ('stranger', 1.0),
}


@functools.cache
def training_stories() -> dict[str, world.Story]:
  """Id of a training problem -> its story."""
  return problems.stories('train')


def solution(s: world.Story, hand: str, seed: str) -> str:
  """The solution of a story in a hand; right in every one.

  Args:
    s: the story.
    hand: a key of `HANDS`. A stranger writes into the bookkeeper's solution.
    seed: of the wording and of the choice of lines.

  Raises:
    KeyError: there is no such hand.
  """
  who, share = HANDS[hand]
  rng = random.Random(f'{hand}-{seed}')
  if who == 'bookkeeper':
    if share == 1.0:
      return world.reference_solution(s, rng)
    return world.own_solution(s, rng, bookkeeper_share=share)
  lines = _pairs(s, rng)
  return ''.join(
      strange if rng.random() < share else known for known, strange in lines)


def mistaken(s: world.Story) -> world.Story:
  """The same story with containers of another size: its answer is false.

  The text of a story with `world.CUSTOM` does not state the size, so nothing in it
  contradicts the solution.
  """
  events = []
  for event in s.events:
    if event.product and event.sign == '+':
      count, size, thing = event.product
      product = (count, size + 1, thing)
      event = dataclasses.replace(event, product=product, amount=count * (size + 1))
    events.append(event)
  return dataclasses.replace(s, events=tuple(events))


def _pairs(s: world.Story, rng: random.Random) -> list[tuple[str, str]]:
  """(the bookkeeper's line, the stranger's) of each part of a solution."""
  known = world.bookkeeper_lines(s, rng)
  strange = [f'{s.noun} at first: {s.start}. ']
  for event, before, after in zip(
      s.events, s.totals[:-1], s.totals[1:], strict=True):
    amount = str(event.amount)
    if event.product:
      count, size, _ = event.product
      amount = f'({event.amount}={size}*{count})'
    strange.append(f'{after}={before}{event.sign}{amount}. ')
  # The answer's form is the verifier's, not a matter of style.
  strange.append(f'\\boxed{{{s.answer}}} {s.noun} at last.')
  return list(zip(known, strange, strict=True))
