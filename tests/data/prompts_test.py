"""Templates: the project's, the user's own, and those that are none."""

import pytest

from ddt_jax import errors
from ddt_jax.data import prompts


@pytest.mark.parametrize('name', ['short', 'worked_example'])
def test_the_project_s_templates_state_the_task(name):
  template = prompts.load(name)
  system, user = template.hinted_chat('1+1?', 'It is \\boxed{2}.')
  assert (system['role'], user['role']) == ('system', 'user')
  for heading in (prompts.ANALYZE, template.marker.strip()):
    assert heading in system['content']
  assert user['content'].index('1+1?') < user['content'].index('\\boxed{2}')
  assert '{problem}' not in user['content']
  assert template.marker == '# CoT\n'


def test_the_worked_example_is_one():
  system = prompts.load('worked_example').system
  example = system[system.rindex('Problem:'):]
  order = ['Given solution:', '\n# Analyze\n', '\n# CoT\n', '\\boxed{']
  places = [example.rindex(part) for part in order]
  assert places == sorted(places)


TEMPLATE = """
system = ''
user = '{solution} solves {problem}'
marker = '## Mine'
"""


def write(tmp_path, text=TEMPLATE):
  file = tmp_path / 'mine.toml'
  file.write_text(text)
  return str(file)


def test_a_user_s_file_without_a_system_turn(tmp_path):
  template = prompts.load(write(tmp_path))
  assert template.marker == '## Mine'
  # What looks like a place is the problem's own text.
  assert template.hinted_chat('{solution}?', 'S {problem}') == [
      {'role': 'user', 'content': 'S {problem} solves {solution}?'}]


@pytest.mark.parametrize('old, new, message', [
    ("marker = '## Mine'", '', 'marker.*a template has'),
    ("system = ''", 'sytem = 1', 'sytem.*a template has'),
    ("system = ''", 'system = 1', 'system is not text'),
    ("system = ''", 'system = ', 'mine.toml: '),
    ('{problem}', 'it', 'lacks the placeholder {problem}'),
    ('## Mine', '', 'marker is empty'),
])
def test_what_is_no_template_is_refused_by_file(tmp_path, old, new, message):
  assert old in TEMPLATE
  file = write(tmp_path, TEMPLATE.replace(old, new))
  with pytest.raises(errors.InputError, match=message) as error:
    prompts.load(file)
  assert 'mine.toml' in str(error.value)


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(errors.InputError, match="'shirt'.*short, solution_first, worked_example"):
    prompts.load('shirt')
