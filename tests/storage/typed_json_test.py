"""Records survive JSON; a field that does not fit is named."""

import dataclasses
import json
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
import pytest

from ddt_jax import errors
from ddt_jax.storage import typed_json


class Point(NamedTuple):
  x: float
  y: float


@dataclasses.dataclass(frozen=True)
class Inner:
  points: tuple[Point, ...]
  name: str | None


@dataclasses.dataclass(frozen=True)
class Outer:
  count: int
  share: float
  done: bool
  parts: dict[str, Inner]
  rows: tuple[tuple[int, ...], ...] | None
  extra: dict[str, Any]


POINTS = st.builds(Point, st.floats(allow_nan=False), st.floats(0, 1))
RECORDS = st.builds(
    Outer, st.integers(), st.floats(allow_nan=False), st.booleans(),
    st.dictionaries(st.text(), st.builds(
        Inner, st.lists(POINTS).map(tuple), st.none() | st.text())),
    st.none() | st.lists(st.lists(st.integers()).map(tuple)).map(tuple),
    st.dictionaries(st.text(), st.none() | st.integers() | st.text()))


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record):
  text = typed_json.to_json(record)
  assert typed_json.from_json(text, Outer, source='a.json') == record


def small():
  return Outer(1, 0.5, True, {'a': Inner((Point(1.0, 2.0),), None)}, ((1, 2),), {})


@pytest.mark.parametrize('change, message', [
    (lambda d: d.pop('count'), "a.json .* no field 'count'"),
    (lambda d: d['parts']['a']['points'][0].pop('y'),
     r"no field 'parts.a.points\[0\].y'"),
    (lambda d: d['parts']['a'].update(extra=1), "unknown field 'parts.a.extra'"),
    (lambda d: d.update(count=True), "'count' is bool, not int"),
    (lambda d: d.update(count=1.5), "'count' is float, not int"),
    (lambda d: d.update(done=1), "'done' is int, not bool"),
    (lambda d: d.update(share='x'), "'share' is str, not float"),
    (lambda d: d.update(parts=[]), "'parts' is list, not dict"),
    (lambda d: d['parts'].update(a=None), "'parts.a' is NoneType, not Inner"),
    (lambda d: d.update(rows=[[1, 'b']]), r"'rows\[0\]\[1\]' is str, not int"),
])
def test_a_field_that_does_not_fit_is_named(change, message):
  data = json.loads(typed_json.to_json(small()))
  assert typed_json.parse(data, Outer) == small()
  change(data)
  with pytest.raises(errors.InputError, match=message):
    typed_json.from_json(json.dumps(data), Outer, source='a.json')


@pytest.mark.parametrize('text', ['', '{', 'null', '[1]', '"word"'])
def test_text_that_is_no_record_is_refused(text):
  with pytest.raises(errors.InputError, match='a.json is not the JSON of a Outer'):
    typed_json.from_json(text, Outer, source='a.json')


def test_whole_numbers_may_stand_for_floats():
  data = typed_json.plain(small()) | {'share': 2}
  assert typed_json.parse(data, Outer).share == 2
