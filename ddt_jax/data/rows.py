"""One row of a user's file: a problem, or the reason why it cannot be used."""

from collections.abc import Set
import math
from typing import Any

from ddt_jax import verify
from ddt_jax.data import records

ROLES = ('system', 'user', 'assistant')
UNANSWERED = ('proof', 'notfound')  # NuminaMath's marks of a missing answer


class Fault(Exception):
  """Why one row is bad; the reader adds the file and line."""


def to_problem(
    row: dict[str, Any], names: dict[str, str], source: str, *,
    kind: str = 'math', question: str = '{problem}', marker: str = verify.BOX,
) -> records.Problem:
  """Checks a row and builds its problem.

  Args:
    row: values by the file's column names.
    names: from each of `readers.NAMES` to the file's name for it.
    source: file and line; the id of a row without one.
    kind, question, marker: see `readers.read`.

  Returns:
    The problem.

  Raises:
    Fault: a column is missing, or a value cannot be used.
  """
  check_columns(row.keys(), names)
  messages = ()
  turns = row.get(names['messages'])
  # A Parquet file has every column in every row: null stands for "not given".
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
  """Checks that the required columns are there, and all that the user named.

  Args:
    columns: the file's.
    names: from each of `readers.NAMES` to the file's name for it.

  Raises:
    Fault: one is missing; lists the columns there are and the option to set.
  """
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
      raise Fault(f"{where!r} is not an object with 'role' and 'content'")
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
  # JSON can escape half of a surrogate pair: "\ud83d". UTF-8 cannot hold it.
  except UnicodeEncodeError as e:
    raise Fault(f'{name!r} is not Unicode: a lone surrogate at character '
                f'{e.start + 1}') from e
  return value


def _label(value: Any, name: str) -> str:
  """Text, or a number as text: ids and answers may be either."""
  if type(value) is int or type(value) is float and math.isfinite(value):
    return str(value)
  return _text(value, name).strip()


def _answer(value: Any, name: str, kind: str) -> str:
  answer = _label('' if value is None else value, name)
  if kind == 'math' and answer.lower() in UNANSWERED:
    raise Fault(f'{name!r} is {answer!r}: no answer to verify against')
  return answer


def describe(value: Any) -> str:
  """A value's type, in JSON's words."""
  if value != value:  # NaN: data frames write it for a missing value
    return 'not a number'
  words = {type(None): 'null', bool: 'a boolean', int: 'a number',
           float: 'a number', str: 'text', list: 'a list', dict: 'an object'}
  return words.get(type(value), type(value).__name__)
