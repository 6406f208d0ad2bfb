"""Tasks that the student can do besides stories, to measure forgetting.

Fine-tuning sees stories only. Accuracy on these tasks (the split `retained`) should
not fall; by how much it does is the forgetting that on-policy data should prevent.

Each maker returns (problem, solution in the student's own style, answer).
"""

import random

from ddt_jax.embedded import world

WORDS = ('red', 'blue', 'cat', 'dog', 'sun', 'moon', 'tree', 'fish', 'bird',
         'cake', 'rain', 'snow', 'hill', 'lake', 'door', 'book')
LETTERS = 'abcde'


def _box(answer: str, rng: random.Random) -> str:
  """A solution of one line: these tasks need no steps."""
  box = f'\\boxed{{{answer}}}'
  return rng.choice(world.OPENERS) + rng.choice((
      f'The answer is {box}.', f'Answer: {box}.', f'That makes {box}.',
      f'Here it is: {box}.',
  ))


def sort_numbers(rng: random.Random) -> tuple[str, str, str]:
  """Three or four distinct numbers, to be sorted."""
  numbers = rng.sample(range(1, 30), rng.randint(3, 4))
  question = rng.choice(('Sort these numbers: ', 'Put in order: '))
  answer = ', '.join(map(str, sorted(numbers)))
  return question + ', '.join(map(str, numbers)), _box(answer, rng), answer


def reverse_words(rng: random.Random) -> tuple[str, str, str]:
  """Three to five words, to be said in reverse order."""
  words = rng.sample(WORDS, rng.randint(3, 5))
  question = rng.choice(('Reverse the words: ', 'Say backwards: '))
  answer = ' '.join(words[::-1])
  return question + ' '.join(words), _box(answer, rng), answer


def count_letters(rng: random.Random) -> tuple[str, str, str]:
  """Three to six letters, one of which is to be counted."""
  letters = rng.choices(LETTERS, k=rng.randint(3, 6))
  letter = rng.choice(letters)
  question = rng.choice((f'How many {letter} are in: ',
                         f'Count the letter {letter}: '))
  answer = str(letters.count(letter))
  return question + ' '.join(letters), _box(answer, rng), answer


def easy_story(rng: random.Random) -> tuple[str, str, str]:
  """A story of one event that states every size: near the targets, yet known."""
  nouns = world.NOUNS + world.OTHER_NOUNS
  s = world.story(rng, events=1, nouns=nouns)
  # No `custom`: every size is stated, so no gap in knowledge is in the way.
  return s.text, world.own_solution(s, rng), s.answer


# Name -> (maker, kind of verification). As 'text', the order of words and numbers
# counts; 'math' would accept a list in any order.
SKILLS = {
    'sort': (sort_numbers, 'text'),
    'reverse': (reverse_words, 'text'),
    'count': (count_letters, 'math'),
    'easy': (easy_story, 'math'),
}
