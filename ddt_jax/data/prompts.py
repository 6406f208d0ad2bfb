"""Chats: answering a problem, and rewriting a given solution of it.

How a model is asked to rewrite stands in a template: a TOML file with a `system`
text, a `user` text in which {problem} and {solution} have their places, and the
`marker` that the model writes between its analysis and its own solution.
"""

import dataclasses
import pathlib
import re
import tomllib

Chat = list[dict[str, str]]

TEMPLATES = pathlib.Path(__file__).parent / 'templates'
ANALYZE = '# Analyze'


def student_chat(problem: str) -> Chat:
  """The problem alone, as any user would pose it."""
  return [{'role': 'user', 'content': problem}]


@dataclasses.dataclass(frozen=True)
class Template:
  """How a model is asked to rewrite a solution; see the module."""

  system: str
  user: str
  marker: str

  def hinted_chat(self, problem: str, solution: str) -> Chat:
    """The problem with a reference solution, to be told in the model's words."""
    places = {'{problem}': problem, '{solution}': solution}
    # At once: a problem may contain what looks like a place.
    content = re.sub(
        '|'.join(map(re.escape, places)), lambda m: places[m[0]], self.user
    )
    system = [{'role': 'system', 'content': self.system}] if self.system else []
    return [*system, {'role': 'user', 'content': content}]

  def rewritten(self, analysis: str, solution: str) -> str:
    """The answer that `hinted_chat` asks for."""
    return f'{ANALYZE}\n{analysis}\n{self.marker}{solution}'


def load(name: str) -> Template:
  """A template of the project, `short` or `worked_example`, or a TOML file.

  An empty `system` leaves that turn out, for chat templates that have none.

  Raises:
    FileNotFoundError: neither a name nor a file.
    ValueError: the file is no template; says what is missing.
  """
  known = {file.stem: file for file in sorted(TEMPLATES.glob('*.toml'))}
  file = known.get(name) or pathlib.Path(name).expanduser()
  if not file.is_file():
    raise FileNotFoundError(
        f'hint.template={name!r} is no file, and none of {", ".join(known)}'
    )
  try:
    found = tomllib.loads(file.read_text(encoding='utf-8'))
    template = Template(**found)
  except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as e:
    raise ValueError(
        f'{file}: {e}; a template has system, user and marker, all text'
    ) from None
  for key, text in found.items():
    if not isinstance(text, str):
      raise ValueError(f'{file}: {key} is not text')
  for place in ('{problem}', '{solution}'):
    if place not in template.user:
      raise ValueError(f'{file}: user has no place for {place}')
  if not template.marker:
    raise ValueError(f'{file}: the marker is empty')
  return template
