"""One row of a user's file: a problem, or the reason why it cannot be used."""

from collections.abc import Set
import dataclasses
import math
from typing import Any

import numpy as np

from ddt_jax import errors
from ddt_jax import verify
from ddt_jax.data import conversations
from ddt_jax.data import formats
from ddt_jax.data import layouts
from ddt_jax.data import records

UNANSWERED = ('proof', 'notfound')  # NuminaMath's marks of a missing answer
HASHES = '####'  # GSM8K's mark of the final answer


def to_problem(
    row: dict[str, Any], names: dict[str, str], source: str, *,
    kind: str = 'math', question: str = '{problem}', marker: str = verify.BOX,
) -> records.Problem:
  """Checks a row and builds its problem.

  The problem, or its solution, may be a list of turns: then they are read as one
  conversation.

  Args:
    row: values by the file's column names.
    names: from each of `readers.NAMES` to the file's name for it.
    source: file and line; the id of a row without one.
    kind, question, marker: see `readers.read`.

  Returns:
    The problem.

  Raises:
    formats.Fault: a column is missing, or a value cannot be used.
  """
  check_columns(row.keys(), names)
  turns, where = row.get(names['messages']), names['messages']
  pair = row.get(names['problem']), row.get(names['solution'])
  # A Parquet file has every column in every row: null stands for "not given".
  if turns is None and list in map(type, pair):
    turns, where = _joined(*pair), f'{names["problem"]} + {names["solution"]}'
  messages, whole = (), True
  if turns is not None or names['problem'] not in row:
    messages, whole = conversations.read(turns, where)
    problem = [t['content'] for t in messages if t['role'] == 'user'][-1]
    solution = messages[-1]['content']
  else:
    problem = conversations.text(pair[0], names['problem'])
    solution = conversations.text(pair[1], names['solution'])
  name = row.get(names['id'])
  return asked(records.Problem(
      id=source if name is None else _label(name, names['id']),
      problem=problem, solution=solution,
      # The answer is the last turn's; that turn may have been cut off.
      answer=_answer(row if whole else {}, names, solution, kind, marker),
      kind=kind, marker=marker, source=source, messages=messages), question)


def asked(problem: records.Problem, question: str) -> records.Problem:
  """The problem in the words of `data.question`.

  Args:
    problem: as it stands in the file.
    question: template of its last user turn, with the placeholder {problem}.
  """
  text = question.replace('{problem}', problem.problem)
  if text == problem.problem:
    return problem
  messages = [*problem.messages]
  # The last user turn is the one that is answered; the system turn comes before it.
  if messages:
    last = max(i for i, turn in enumerate(messages) if turn['role'] == 'user')
    messages[last] = messages[last] | {'content': text}
  return dataclasses.replace(problem, problem=text, messages=tuple(messages))


def check_columns(columns: Set[str], names: dict[str, str]) -> None:
  """Checks that the required columns are there, and all that the user named.

  Args:
    columns: the file's.
    names: from each of `readers.NAMES` to the file's name for it.

  Raises:
    formats.Fault: one is missing; lists the columns there are and the option to
      set, with the column that it probably stands for.
  """
  named = [n for n in ('messages', 'answer', 'id') if names[n] not in (n, '')]
  if names['messages'] not in columns and 'messages' not in named:
    named = ['problem', 'solution', *named]
  absent = [name for name in named if names[name] not in columns]
  if absent:
    # The answer's column may hold what the user means by a solution.
    near = layouts.nearest(
        absent, columns - {names[n] for n in ('problem', 'solution', 'id')})
    # A name that the user mistyped is nearer than one that means the same.
    near |= {name: close for name in absent if names[name] != name and (
        close := errors.nearest(names[name], sorted(columns)))}
    chat = layouts.nearest(['messages'], columns) if absent[:2] == [
        'problem', 'solution'] else {}
    flags = ' '.join(_flag(name, near) for name in absent)
    if chat and not near:
      flags = _flag('messages', chat)
    elif absent[:2] == ['problem', 'solution']:
      flags += f' or, for conversations, {_flag("messages", chat)}'
    raise formats.Fault(
        f'no column {" or ".join(repr(names[name]) for name in absent)}; '
        f'there are {", ".join(map(repr, sorted(columns))) or "none"}; '
        f'name yours with {flags}')


def _flag(name: str, near: dict[str, str]) -> str:
  return f'--config.data.columns.{name}={near.get(name, "NAME")}'


def after_hashes(solution: str) -> str:
  """The answer of a solution whose last line has `#### 72`, as in GSM8K, or ''.

  The last line only: elsewhere #### begins a heading in Markdown.

  Example:
    >>> after_hashes('She has 70 + 2 = 72.\\n#### 72')
    '72'
  """
  last = solution.rstrip().rpartition('\n')[2]
  return last.rpartition(HASHES)[2].strip() if HASHES in last else ''


def _joined(problem: Any, solution: Any) -> list[Any]:
  """One conversation out of a prompt and its completion, either may be turns."""
  turns = []
  for value, role in ((problem, 'user'), (solution, 'assistant')):
    turns += value if isinstance(value, list) else [
        {'role': role, 'content': value}]
  return turns


def _label(value: Any, name: str) -> str:
  """Text, or a number as text: ids and answers may be either."""
  # type, not isinstance: True is an int, and is no id.
  if type(value) is int:
    return str(value)
  if type(value) is float and math.isfinite(value):
    return np.format_float_positional(value, trim='-')  # 1e-05 as 0.00001
  return conversations.text(value, name).strip()


def _answer(
    row: dict[str, Any], names: dict[str, str], solution: str, kind: str, marker: str
) -> str:
  """The answer by its column, or else by the solution; '' if neither has one."""
  name = names['answer']
  # A column that holds the solution is not the answer, too.
  used = names['solution'], names['problem'], names['messages']
  value = None if name in used else row.get(name)
  missing = value is None or value != value  # NaN: a data frame's missing number
  if not missing and not (isinstance(value, str) and not value.strip()):
    answer = _label(value, name)
    # In a data set of words "proof" may be a right answer.
    if kind == 'math' and answer.lower() in UNANSWERED:
      return ''
    # GSM8K's answer column holds the whole solution.
    return after_hashes(answer) or answer
  return verify.extract(solution, marker) or after_hashes(solution)
