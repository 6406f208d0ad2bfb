"""One row of a user's file, as a problem or as a reason why it is none."""

from collections.abc import Set
import math
from typing import Any

from ddt_jax import verify
from ddt_jax.data import records

ROLES = ('system', 'user', 'assistant')
UNANSWERED = ('proof', 'notfound')  # NuminaMath's marks


class Fault(Exception):
  """The reason why one row is bad."""


def to_problem(
    row: dict[str, Any], names: dict[str, str], source: str, *,
    kind: str = 'math', question: str = '{problem}', marker: str = verify.BOX,
) -> records.Problem:
  """The problem that a row states.

  Args:
    row: from column to value.
    names: the file's name of each of our columns.
    source: file and line, the id of a row that has none.
    kind, question, marker: see `readers.read`.
  Raises:
    Fault: it states none.
  """
  check_columns(row.keys(), names)
  messages = ()
  turns = row.get(names['messages'])
  # Parquet has every column in every row, null where a row has no such thing.
  if turns is not None or names['problem'] not in row:
    messages = _turns(turns, names['messages'])
    problem = [t['content'] for t in messages if t['role'] == 'user'][-1]
    solution = messages[-1]['content']
  else:
    problem = question.replace(
        '{problem}', _text(row[names['problem']], names['problem'])
    )
    solution = _text(row.get(names['solution']), names['solution'])
  if names['answer'] in row:
    answer = _answer(row[names['answer']], names['answer'], kind)
  else:
    answer = verify.extract(solution, marker) or ''
  name = row.get(names['id'])
  return records.Problem(
      id=source if name is None else _label(name, names['id']),
      problem=problem, solution=solution, answer=answer, kind=kind,
      marker=marker, source=source, messages=messages)


def check_columns(columns: Set[str], names: dict[str, str]) -> None:
  """Refuses a row that lacks what it needs, or what the user named."""
  named = [n for n in ('messages', 'answer', 'id') if names[n] not in (n, '')]
  if names['messages'] not in columns and 'messages' not in named:
    named = ['problem', 'solution', *named]
  absent = [name for name in named if names[name] not in columns]
  if absent:
    flags = ' '.join(f'--config.data.columns.{name}=NAME' for name in absent)
    if absent[:2] == ['problem', 'solution']:
      flags += ' or, for conversations, --config.data.columns.messages=NAME'
    raise Fault(
        f'no column {" or ".join(repr(names[name]) for name in absent)}; '
        f'there are {", ".join(map(repr, sorted(columns))) or "none"}; '
        f'name yours with {flags}')


def _turns(value: Any, name: str) -> tuple[dict[str, str], ...]:
  if not isinstance(value, list):
    raise Fault(f'{name!r} is {describe(value)}, not a list of turns')
  turns = []
  for index, turn in enumerate(value):
    where = f'{name}[{index}]'
    if not isinstance(turn, dict) or not {'role', 'content'} <= turn.keys():
      raise Fault(f"{where!r} is no object with 'role' and 'content'")
    if turn['role'] not in ROLES:
      raise Fault(f"'{where}.role' is {turn['role']!r}; it must be one of "
                   f'{", ".join(ROLES)}')
    turns.append({'role': turn['role'],
                  'content': _text(turn['content'], f'{where}.content')})
  if not any(turn['role'] == 'user' for turn in turns):
    raise Fault(f'{name!r} has no user turn')
  if turns[-1]['role'] != 'assistant':
    raise Fault(f'{name!r} does not end with an assistant turn')
  return tuple(turns)


def _text(value: Any, name: str) -> str:
  if not isinstance(value, str):
    raise Fault(f'{name!r} is {describe(value)}, not text')
  if not value.strip():
    raise Fault(f'{name!r} is empty')
  try:
    value.encode()
  except UnicodeEncodeError as e:  # from half of a \ud83d\ude00 in the JSON
    raise Fault(f'{name!r} is not Unicode: a lone surrogate at character '
                 f'{e.start + 1}') from e
  return value


def _label(value: Any, name: str) -> str:
  """Text, or a number as text."""
  if type(value) is int or type(value) is float and math.isfinite(value):
    return str(value)
  return _text(value, name).strip()


def _answer(value: Any, name: str, kind: str) -> str:
  answer = _label('' if value is None else value, name)
  if kind == 'math' and answer.lower() in UNANSWERED:
    raise Fault(f'{name!r} is {answer!r}, which verifies nothing')
  return answer


def describe(value: Any) -> str:
  """A value's type, in the words of JSON."""
  if value != value:  # how data frames write what is missing
    return 'not a number'
  words = {type(None): 'null', bool: 'a truth value', int: 'a number',
           float: 'a number', str: 'text', list: 'a list', dict: 'an object'}
  return words.get(type(value), type(value).__name__)
