"""Texts that show what only the hinted stream has read."""

import pytest

from ddt_jax.data import prompts
from ddt_jax.data import records
from ddt_jax.rounds import leaks

PROBLEM = records.Problem(
    'p', 'Ann buys 3 pens at 2 euros. What does she pay?', '3*2=6. The answer is 6.')


def leak(text, template='worked_example', source='hinted', problem=PROBLEM):
  finder = leaks.Finder([problem], template and prompts.load(template))
  return finder(records.Response('p', (), text, 'eos', source))


@pytest.mark.parametrize('text, leaked', [
    ('12+3=15.', False),
    ('As in the given solution, 12+3=15.', True),
    ('According to the solution it is 15.', True),
    ('Ann has given 3 away.', False),
    ('Mia can only buy whole packs.', True),  # a name of the template's example
    ('So three packs give her 18 pens, which is fewer.', True),  # six words of it
    ('Three packs give her 18. So she pays 6.', False),
    (r'Each pen costs 2. She needs 3 * 2 = 6. The answer is \boxed{6}.', False),
])
def test_leaks(text, leaked):
  assert leak(text) == leaked


def test_own_answers_have_not_read_the_template():
  assert not leak('Mia can only buy whole packs.', source='own')
  assert leak('The reference answer is 6.', source='own')
  assert leak('The reference answer is 6.', template=None)


def test_what_the_problem_says_may_be_said():
  mia = records.Problem('p', 'Mia buys 3 pens. What is left?', 'She has 2.')
  assert not leak('Mia has 2 left.', problem=mia)
  chat = records.Problem('p', 'And then?', 'She has 2.', messages=(
      {'role': 'user', 'content': 'Mia buys 3 pens.'},
      {'role': 'assistant', 'content': 'Yes.'},
      {'role': 'user', 'content': 'And then?'},
      {'role': 'assistant', 'content': 'She has 2.'}))
  assert not leak('Mia has 2 left.', problem=chat)


def test_headings_of_a_template_are_no_names_by_themselves():
  # "Analyze" and "CoT" stand once in the short template.
  assert not leak('Analyze it: 3*2=6.', template='short')
