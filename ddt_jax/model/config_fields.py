"""Reads the fields of a config.json by type.

JSON has no schema here: a folder from elsewhere may hold null, text or a list
where a number belongs. The error names the field.
"""

import json
import math
from typing import Any

from ddt_jax import errors

_REQUIRED = object()  # no default: the field must be there
_MOST = 2**31 - 1  # token ids, positions and sizes are int32 on the device


class Fields:
  """The fields of config.json, or of one object within it.

  A field that is absent takes the caller's default. One that is null is
  refused, unless the caller asks `given` first.

  Example:
    >>> Fields({'hidden_size': '64'}).integer('hidden_size')
    Traceback (most recent call last):
    ddt_jax.errors.InputError: hidden_size is "64", not an integer
  """

  def __init__(self, values: dict[str, Any], within: str = ''):
    """Args: values, the fields; within, the name of the object that holds them."""
    self._values, self._within = values, within

  def __contains__(self, name: str) -> bool:
    return name in self._values

  def given(self, name: str) -> bool:
    """Whether the field is there and not null."""
    return self._values.get(name) is not None

  def integer(self, name: str, default: Any = _REQUIRED, least: int = 1) -> int:
    """An integer of at least `least` that fits int32."""
    value = self._get(name, default)
    # In Python True is an int, and would pass for 1.
    if not isinstance(value, int) or isinstance(value, bool):
      raise self.wrong(name, 'an integer')
    if not least <= value <= _MOST:
      raise self.wrong(name, f'between {least} and {_MOST}')
    return value

  def number(self, name: str, default: Any = _REQUIRED, *,
             zero: bool = False) -> float:
    """A finite number above zero; `zero` allows zero too."""
    value = self._get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      raise self.wrong(name, 'a number')
    try:
      number = float(value)
    except OverflowError:  # an integer beyond float64
      number = math.inf
    if not (0 <= number if zero else 0 < number) or math.isinf(number):
      raise self.wrong(name, 'finite and ' + ('0 or more' if zero else 'above 0'))
    return number

  def flag(self, name: str, default: bool = False) -> bool:
    """True or false."""
    return self._of(bool, name, default, 'true or false')

  def text(self, name: str, default: Any = _REQUIRED) -> str:
    """A string."""
    return self._of(str, name, default, 'text')

  def table(self, name: str) -> 'Fields':
    """The fields of an object; empty where the field is absent or null."""
    # transformers writes null for an object that a model does not use.
    values = self._of(dict, name, {}, 'an object') if self.given(name) else {}
    return Fields(values, self._name(name))

  def texts(self, name: str) -> list[str]:
    """A list of strings; empty where the field is absent or null."""
    values = self._of(list, name, [], 'a list') if self.given(name) else []
    if not all(isinstance(value, str) for value in values):
      raise self.wrong(name, 'a list of text')
    return values

  def ids(self, name: str) -> tuple[int, ...]:
    """Token ids from an integer, a list of integers or null."""
    if not self.given(name):
      return ()
    values = self._values[name]
    # Models with several EOS tokens write a list, others the bare id.
    values = values if isinstance(values, list) else [values]
    for value in values:
      if isinstance(value, bool) or not isinstance(value, int):
        raise self.wrong(name, 'a token id or a list of token ids')
      if not 0 <= value <= _MOST:
        raise self.wrong(name, f'between 0 and {_MOST}')
    return tuple(values)

  def objects(self) -> list[str]:
    """Names of the fields that are objects themselves."""
    return [self._name(k) for k, v in self._values.items() if isinstance(v, dict)]

  def wrong(self, name: str, wanted: str) -> errors.InputError:
    """The error for a field whose value is not `wanted`."""
    # As JSON, so that the message shows what stands in the file: null, true.
    shown = json.dumps(self._values.get(name))
    shown = shown if len(shown) <= 60 else shown[:57] + '...'
    return errors.InputError(f'{self._name(name)} is {shown}, not {wanted}')

  def _of(self, kind: type, name: str, default: Any, wanted: str) -> Any:
    value = self._get(name, default)
    if not isinstance(value, kind):
      raise self.wrong(name, wanted)
    return value

  def _get(self, name: str, default: Any) -> Any:
    value = self._values.get(name, default)
    if value is _REQUIRED:
      raise errors.InputError(f'the field {self._name(name)!r} is missing')
    return value

  def _name(self, name: str) -> str:
    return f'{self._within}.{name}' if self._within else name

  def __bool__(self) -> bool:
    return bool(self._values)
