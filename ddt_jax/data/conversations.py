"""The turns of one row: checked, and in one form for all layouts."""

from typing import Any

from ddt_jax.data import formats
from ddt_jax.data import rendering

ROLES = ('system', 'user', 'assistant')
# ShareGPT's names of the roles, and those of models that wrote such data.
_ALIASES = {
    'human': 'user', 'gpt': 'assistant', 'chatgpt': 'assistant', 'bot': 'assistant',
    'model': 'assistant', 'bing': 'assistant', 'bard': 'assistant',
}
# Fields that change the rendered text, and that we do not read.
_REFUSED = ('tool_calls', 'function_call', 'tools', 'functions', 'images', 'image',
            'videos', 'audio', 'audios', 'documents')
_FLAGS = ('weight', 'train')  # whether a turn is trained


def read(value: Any, name: str) -> tuple[tuple[dict[str, Any], ...], bool]:
  """Checks turns and writes them in one form.

  Each has `role`, `content`, the reasoning fields that are not empty, and
  `train` False where a `weight` or `train` of 0 excludes an answer from training.
  Turns after the last trained answer are left out: nothing depends on them.

  Args:
    value: [{'role', 'content'}] or ShareGPT's [{'from', 'value'}].
    name: of the column, for messages.

  Returns:
    (the turns, whether they are all that were given).

  Raises:
    formats.Fault: a turn cannot be used; names it as `messages[2].content`.
  """
  if not isinstance(value, list):
    raise formats.Fault(f'{name!r} is {formats.describe(value)}, not a list of turns')
  turns = [_turn(turn, f'{name}[{i}]') for i, turn in enumerate(value)]
  if not any(turn['role'] == 'user' for turn in turns):
    raise formats.Fault(f'{name!r} has no user turn')
  if turns[-1]['role'] != 'assistant':
    raise formats.Fault(f'{name!r} does not end with an assistant turn')
  trained = [i for i, turn in enumerate(turns)
             if turn['role'] == 'assistant' and turn.get('train', True)]
  if not trained:
    raise formats.Fault(f'{name!r} has no assistant turn to train on: each has weight 0')
  if trained[0] == 0:
    raise formats.Fault(
        f'{name!r} begins with an assistant turn, which answers no prompt; "weight": 0'
        ' in that turn keeps it as context')
  kept = turns[:trained[-1] + 1]
  # The user turn may have stood after the last trained answer.
  if not any(turn['role'] == 'user' for turn in kept):
    raise formats.Fault(f'{name!r} has no user turn before the last trained answer')
  return tuple(kept), len(kept) == len(turns)


def text(value: Any, name: str) -> str:
  """The value, if it is text that is not empty.

  Raises:
    formats.Fault: it is not.
  """
  if not isinstance(value, str):
    raise formats.Fault(f'{name!r} is {formats.describe(value)}, not text')
  if not value.strip():
    raise formats.Fault(f'{name!r} is empty')
  try:
    value.encode()
  # JSON can escape half of a surrogate pair: "\ud83d". UTF-8 cannot hold it.
  except UnicodeEncodeError as e:
    raise formats.Fault(f'{name!r} is not Unicode: a lone surrogate at character '
                        f'{e.start + 1}') from e
  return value


def _turn(turn: Any, where: str) -> dict[str, Any]:
  names = ('role', 'content')
  # Arrow fills absent keys of a structure with null, so test the value and not the
  # key.
  if isinstance(turn, dict) and turn.get('role') is None and turn.get('from'):
    names = ('from', 'value')
  if not isinstance(turn, dict) or not set(names) <= turn.keys():
    raise formats.Fault(f"{where!r} is not an object with 'role' and 'content'")
  role, content = (turn[name] for name in names)
  if isinstance(role, str) and names[0] == 'from':
    role = _ALIASES.get(role.lower(), role.lower())
  if role not in ROLES:
    raise formats.Fault(
        f"'{where}.{names[0]}' is {turn[names[0]]!r}; it must be one of "
        f'{", ".join(ROLES)}')
  for field in _REFUSED:
    if turn.get(field):
      raise formats.Fault(f"'{where}.{field}' cannot be used: turns are text only")
  thoughts = _thoughts(turn, role, where)
  found = {'role': role, 'content': text(content, f'{where}.{names[1]}')} | thoughts
  return found if _is_trained(turn, role, where) else found | {'train': False}


def _thoughts(turn, role, where) -> dict[str, str]:
  """The reasoning fields of a turn; the template decides whether it renders them."""
  found = {}
  for field in rendering.REASONING:
    value = turn.get(field)
    if value is None or isinstance(value, str) and not value.strip():
      continue
    if role != 'assistant':
      raise formats.Fault(f"'{where}.{field}' is in a {role} turn; only an assistant"
                          ' turn has thoughts')
    found[field] = text(value, f'{where}.{field}')
  return found


def _is_trained(turn, role, where) -> bool:
  flags = {name: turn[name] for name in _FLAGS if turn.get(name) is not None}
  for name, value in flags.items():
    # A list is not hashable and 0.5 is neither: `in` compares, and True == 1.
    if not isinstance(value, int | float) or value not in (0, 1):
      raise formats.Fault(f"'{where}.{name}' is {value!r}; it must be 0 or 1")
  # Only answers are trained, whatever a user turn's flag says.
  return role != 'assistant' or all(flags.values())
