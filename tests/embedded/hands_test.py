"""Solutions in every hand are right, and false ones are false in one way."""

import random

import pytest

from ddt_jax import verify
from ddt_jax.embedded import hands
from ddt_jax.embedded import problems
from ddt_jax.embedded import world

STORIES = dict(list(problems.stories('validation', 40).items()))


def test_stories_are_those_of_the_problems():
  for p in problems.problems('validation', 40):
    assert STORIES[p.id].text == p.problem
    assert STORIES[p.id].answer == p.answer


@pytest.mark.parametrize('hand', list(hands.HANDS))
def test_every_hand_writes_the_right_answer_and_writes_it_again(hand):
  for name, story in STORIES.items():
    text = hands.solution(story, hand, name)
    assert verify.extract(text) == story.answer
    assert hands.solution(story, hand, name) == text


def test_a_share_of_lines_is_the_strangers():
  story = STORIES['validation-0']
  stranger = hands.solution(story, 'stranger', 'a')
  known = world.bookkeeper_lines(story, random.Random(0))
  assert not any(line in stranger for line in known)
  assert hands.solution(story, 'bookkeeper', 'a').startswith(('Ledger', 'Account'))
  shared = [hands.solution(s, 'shared', name) for name, s in STORIES.items()]
  foreign = sum('at last' in text or 'at first' in text for text in shared)
  assert 0 < foreign < len(shared)


def test_a_mistaken_story_reads_the_same_and_ends_elsewhere():
  for story in STORIES.values():
    false = hands.mistaken(story)
    assert false.text == story.text
    assert false.answer != story.answer
