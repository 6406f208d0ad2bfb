"""The prompts of the two streams: the bare problem, and the problem with a hint.

The hinted prompt asks the model to analyse a reference solution and then to solve
the problem in its own words. Its wording is a template, a TOML file with

  system   the system turn; '' for none
  user     the user turn, with the placeholders {problem} and {solution}
  marker   the text that the model writes between its analysis and its solution
"""

import dataclasses
import pathlib
import re
import tomllib
from typing import Any

from ddt_jax import errors

Chat = list[dict[str, Any]]  # turns, see `records.Problem.messages`

TEMPLATES = pathlib.Path(__file__).parent / 'templates'
ANALYZE = '# Analyze'  # heading of the analysis, in every template


def student_chat(problem: str) -> Chat:
  """The problem alone: the prompt of the student stream."""
  return [{'role': 'user', 'content': problem}]


@dataclasses.dataclass(frozen=True)
class Template:
  """Wording of the request to rewrite a solution; see the module."""

  system: str
  user: str
  marker: str

  def hinted_chat(self, problem: str, solution: str) -> Chat:
    """Problem and reference solution: the prompt of the hinted stream."""
    texts = {'{problem}': problem, '{solution}': solution}
    # Both in one pass: a problem that contains "{solution}" must stay as it is.
    content = re.sub(
        '|'.join(map(re.escape, texts)), lambda m: texts[m[0]], self.user
    )
    system = [{'role': 'system', 'content': self.system}] if self.system else []
    return [*system, {'role': 'user', 'content': content}]

  def rewritten(self, analysis: str, solution: str) -> str:
    """The response that `hinted_chat` asks for; used to train the student."""
    return f'{ANALYZE}\n{analysis}\n{self.marker}{solution}'


def load(name: str) -> Template:
  """Loads a template.

  Args:
    name: `short` or `worked_example`, which ship with the project, or the path of
      a TOML file. An empty `system` suits chat templates without a system turn.

  Raises:
    errors.InputError: there is no such file, or it is not a template.
  """
  known = {file.stem: file for file in sorted(TEMPLATES.glob('*.toml'))}
  # A template that ships wins over a file of the same name.
  file = known.get(name) or pathlib.Path(name).expanduser()
  if not file.is_file():
    raise errors.InputError(
        f'hint.template={name!r} is neither a file nor one of {", ".join(known)}'
        f'{errors.did_you_mean(name, known)}')
  try:
    fields = tomllib.loads(file.read_text(encoding='utf-8'))
    template = Template(**fields)
  # TypeError: a key is missing, or is none of the template's.
  except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as e:
    raise errors.InputError(
        f'{file}: {e}; a template has system, user and marker, all text'
    ) from None
  for key, text in fields.items():
    # TOML also has numbers and lists, which the dataclass accepts.
    if not isinstance(text, str):
      raise errors.InputError(f'{file}: {key} is not text; put it in quotes')
  for placeholder in ('{problem}', '{solution}'):
    if placeholder not in template.user:
      raise errors.InputError(
          f'{file}: user lacks the placeholder {placeholder}')
  if not template.marker:
    raise errors.InputError(
        f'{file}: marker is empty; the student stream joins after it')
  return template
