"""Records as JSON, and back: the fields in a file are those of the class.

A record is a frozen dataclass or a NamedTuple. Its fields are numbers, strings,
booleans, records, `dict[str, X]`, `tuple[X, ...]`, `X | None`, or `Any` for JSON
that is kept as it is.
"""

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

from ddt_jax import errors

Record = TypeVar('Record')


def to_json(record: Any) -> str:
  """The record as one line of JSON."""
  return json.dumps(plain(record))


def from_json(text: str, cls: type[Record], *, source: Any) -> Record:
  """The record that `to_json` wrote.

  Args:
    text: JSON.
    cls: the record's class.
    source: name of the file, for the message of an error.

  Raises:
    errors.InputError: the text is not JSON, or a field is missing, unknown or
      of another type. The message names the source and the field.
  """
  try:
    return parse(json.loads(text), cls)
  except ValueError as e:
    raise errors.InputError(
        f'{source} is not the JSON of a {cls.__name__}: {e}. It may come from'
        ' another version of the program') from e


def plain(value: Any) -> Any:
  """Records as dicts, sequences as lists: values that JSON has."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)}
  if hasattr(value, '_asdict'):
    return plain(value._asdict())
  if isinstance(value, dict):
    return {name: plain(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return value


def parse(value: Any, kind: Any, field: str = '') -> Any:
  """Turns JSON's types into a value of type `kind`; the inverse of `plain`.

  Args:
    value: as `json.loads` returns it.
    kind: a record's class, or the type of one field.
    field: dotted name of the field, for the message of an error.

  Raises:
    errors.InputError: the value does not have this type.
  """
  if kind is Any:
    return value
  arguments = typing.get_args(kind)
  # X | None; only one type stands beside None, see the module.
  if types.NoneType in arguments:
    if value is None:
      return None
    (kind,) = (a for a in arguments if a is not types.NoneType)
    return parse(value, kind, field)
  # tuple[int, ...] -> tuple; a plain class is its own origin.
  origin = typing.get_origin(kind) or kind
  if origin is tuple and isinstance(value, list):
    return tuple(
        parse(item, arguments[0], f'{field}[{i}]')
        for i, item in enumerate(value))
  if origin is dict and isinstance(value, dict):
    return {
        name: parse(item, arguments[1], _dotted(field, name))
        for name, item in value.items()}
  if _is_record(origin) and isinstance(value, dict):
    return _record(value, origin, field)
  # JSON has one type of number: 1 may stand for 1.0, but True is no number.
  wanted = (int, float) if origin is float else origin
  if isinstance(value, wanted) and isinstance(value, bool) == (origin is bool):
    return value
  raise errors.InputError(
      f'field {field!r} is {type(value).__name__}, not {_name(kind)}')


def _record(value: dict[str, Any], cls: type[Record], field: str) -> Record:
  # Resolves annotations that are strings, which `fields` leaves as they are.
  hints = typing.get_type_hints(cls)
  for name in hints:
    if name not in value:
      raise errors.InputError(f'no field {_dotted(field, name)!r}')
  for name in value:
    if name not in hints:
      raise errors.InputError(f'unknown field {_dotted(field, name)!r}')
  return cls(**{
      name: parse(value[name], kind, _dotted(field, name))
      for name, kind in hints.items()})


def _is_record(kind: Any) -> bool:
  return dataclasses.is_dataclass(kind) or hasattr(kind, '_fields')


def _dotted(field: str, name: str) -> str:
  return f'{field}.{name}' if field else name


def _name(kind: Any) -> str:
  return getattr(kind, '__name__', str(kind))
