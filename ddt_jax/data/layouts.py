"""Rows in the layouts of other projects, rewritten in our columns.

  ShareGPT            conversations: [{from, value}, ...]; system
  Alpaca              instruction, input, output; system, history
  GSM8K               question, answer, where the answer ends with `#### 72`
  pairs               prompt and completion, question and solution, ... (`PAIRS`)

A pair may hold text or lists of turns, see `rows.to_problem`. A layout is looked
for only in a row without our own columns, and only if the user named none.
"""

from collections.abc import Callable, Collection, Mapping
import difflib
import functools
from typing import Any, NamedTuple

# Columns of a problem and its solution in common public data sets.
PAIRS = (
    ('prompt', 'response'), ('prompt', 'completion'), ('question', 'response'),
    ('question', 'solution'), ('question', 'answer'), ('instruction', 'output'),
    ('instruction', 'response'), ('query', 'response'), ('input', 'output'),
)
# Other names of our columns, for the nearest option in messages.
_SYNONYMS = {
    'problem': ('problem', 'question', 'prompt', 'query', 'instruction', 'input'),
    'solution': ('solution', 'response', 'completion', 'output', 'answer',
                 'generation', 'reasoning', 'rationale', 'target'),
    'messages': ('messages', 'conversations', 'conversation', 'chat', 'dialogue',
                 'dialog', 'turns'),
}


class Layout(NamedTuple):
  """How a row of another project is read.

  Attributes:
    name: for the screen, with the columns.
    read: columns of a row -> our columns of the same row.
  """

  name: str
  read: Callable[[Mapping[str, Any]], dict[str, Any]]


def of(row: Mapping[str, Any]) -> Layout | None:
  """The layout of a row that has none of our columns; None if it is unknown.

  A column that is null counts as absent: a Parquet file has every column in every
  row.

  Example:
    >>> layout = of({'instruction': 'Add.', 'input': '2, 5', 'output': '7'})
    >>> layout.read({'instruction': 'Add.', 'input': '2, 5', 'output': '7'})
    {'problem': 'Add.\\n\\n2, 5', 'solution': '7'}
  """
  names = {name for name, value in row.items() if value is not None}
  # Our own columns win, even if null: the row is then bad, not of another layout.
  if 'messages' in row or {'problem', 'solution'} <= row.keys():
    return None
  # From the most specific layout to the least: an Alpaca row with `input` and
  # `output` would also match the pair of these names.
  if 'conversations' in names:
    return Layout('ShareGPT (conversations)', _conversations)
  if 'problem' in row:
    return None
  if {'instruction', 'output'} <= names:
    return Layout('Alpaca (instruction, input, output)', _alpaca)
  for problem, solution in PAIRS:
    if {problem, solution} <= names:
      return Layout(f'{problem} -> problem, {solution} -> solution',
                    functools.partial(_pair, problem=problem, solution=solution))
  return None


# All columns that a layout reads; a Parquet file is read by columns.
COLUMNS = frozenset(
    {name for pair in PAIRS for name in pair} | {'conversations', 'system', 'history'})


def _pair(row, problem, solution):
  rest = {k: v for k, v in row.items() if k not in (problem, solution)}
  return rest | {'problem': row[problem], 'solution': row[solution]}


def _conversations(row):
  rest = {k: v for k, v in row.items() if k not in ('conversations', 'system')}
  turns = row['conversations']
  if row.get('system') and isinstance(turns, list):
    turns = [{'role': 'system', 'content': row['system']}, *turns]
  return rest | {'messages': turns}


def _alpaca(row):
  used = ('instruction', 'input', 'output', 'system', 'history')
  rest = {k: v for k, v in row.items() if k not in used}
  problem, more = row['instruction'], row.get('input')
  # `input` is the material that the instruction is about; often it is empty.
  if isinstance(more, str) and more.strip() and isinstance(problem, str):
    problem = f'{problem}\n\n{more}' if problem.strip() else more
  elif not isinstance(more, str | None):
    problem = more  # `rows` names its type
  turns = _before(row)
  if not turns:
    return rest | {'problem': problem, 'solution': row['output']}
  return rest | {'messages': [
      *turns, {'role': 'user', 'content': problem},
      {'role': 'assistant', 'content': row['output']}]}


def _before(row) -> list[Any]:
  """The turns of `system` and `history`, the latter [[question, answer], ...]."""
  turns = []
  if row.get('system'):
    turns.append({'role': 'system', 'content': row['system']})
  history = row.get('history') or []
  if not isinstance(history, list):
    return [history]  # `rows` names its type
  for pair in history:
    if not isinstance(pair, list) or len(pair) != 2:
      turns.append(pair)
    else:
      turns += [{'role': 'user', 'content': pair[0]},
                {'role': 'assistant', 'content': pair[1]}]
  return turns


def nearest(absent: Collection[str], columns: Collection[str]) -> dict[str, str]:
  """Columns of a file that probably stand for absent ones of ours.

  Args:
    absent: our columns.
    columns: the file's.

  Returns:
    From our column to the file's, where one is near; no file's column twice.

  Example:
    >>> nearest(['problem', 'solution'], ['Question', 'final_solution'])
    {'problem': 'Question', 'solution': 'final_solution'}
  """
  found, free = {}, {name.lower(): name for name in sorted(columns)}
  for ours in absent:
    for word in _SYNONYMS.get(ours, ()):
      # First a misspelling or another case, then a longer name: final_solution.
      close = difflib.get_close_matches(word, free, n=1, cutoff=0.7) or [
          name for name in free if word in name]
      if close:
        found[ours] = free.pop(close[0])
        break
  return found
