"""What else the student can do; fine-tuning on stories should leave it alone."""

import random

from ddt_jax.embedded import world

WORDS = ('red', 'blue', 'cat', 'dog', 'sun', 'moon', 'tree', 'fish', 'bird',
         'cake', 'rain', 'snow', 'hill', 'lake', 'door', 'book')
LETTERS = 'abcde'


def _box(answer: str, rng: random.Random) -> str:
  box = f'\\boxed{{{answer}}}'
  return rng.choice(world.OPENERS) + rng.choice((
      f'The answer is {box}.', f'Answer: {box}.', f'That makes {box}.',
      f'Here it is: {box}.',
  ))


def sort_numbers(rng: random.Random) -> tuple[str, str, str]:
  numbers = rng.sample(range(1, 30), rng.randint(3, 4))
  question = rng.choice(('Sort these numbers: ', 'Put in order: '))
  answer = ', '.join(map(str, sorted(numbers)))
  return question + ', '.join(map(str, numbers)), _box(answer, rng), answer


def reverse_words(rng: random.Random) -> tuple[str, str, str]:
  words = rng.sample(WORDS, rng.randint(3, 5))
  question = rng.choice(('Reverse the words: ', 'Say backwards: '))
  answer = ' '.join(words[::-1])
  return question + ' '.join(words), _box(answer, rng), answer


def count_letters(rng: random.Random) -> tuple[str, str, str]:
  letters = rng.choices(LETTERS, k=rng.randint(3, 6))
  letter = rng.choice(letters)
  question = rng.choice((f'How many {letter} are in: ',
                         f'Count the letter {letter}: '))
  answer = str(letters.count(letter))
  return question + ' '.join(letters), _box(answer, rng), answer


def easy_story(rng: random.Random) -> tuple[str, str, str]:
  nouns = world.NOUNS + world.OTHER_NOUNS
  s = world.story(rng, events=1, nouns=nouns)
  return s.text, world.own_solution(s, rng), s.answer


# Name -> (maker, how its answer is verified).
SKILLS = {
    'sort': (sort_numbers, 'text'),
    'reverse': (reverse_words, 'text'),
    'count': (count_letters, 'math'),
    'easy': (easy_story, 'math'),
}
