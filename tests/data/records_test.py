"""Records survive the way from one stage to the next."""

import string

from hypothesis import given
from hypothesis import strategies as st
import pytest

from ddt_jax import storage
from ddt_jax.data import records

# Line separators, quotes, control characters and half of a surrogate pair are
# what a line-based format could stumble over.
TEXT = st.text(st.sampled_from('\n\r\u2028\x85\0"\\{é√中😀\ud83d')
               | st.characters() | st.sampled_from(string.ascii_letters))
TURN = st.fixed_dictionaries(
    {'role': st.sampled_from(['system', 'user', 'assistant']),
     'content': TEXT})
PROBLEM = st.builds(
    records.Problem, id=TEXT, problem=TEXT, solution=TEXT, answer=TEXT,
    kind=st.sampled_from(['math', 'text']), source=TEXT,
    messages=st.lists(TURN, max_size=3).map(tuple))
RESPONSE = st.builds(
    records.Response, problem_id=TEXT,
    tokens=st.lists(st.integers(0, 200_000)).map(tuple), text=TEXT,
    finish=st.sampled_from(['eos', 'length', 'repetition']), source=TEXT,
    correct=st.sampled_from([True, False, None]),
    extracted=st.none() | TEXT, reason=TEXT)


def read(file, cls):
  return [records.from_json(line, cls) for line in storage.read_lines(file)]


@given(st.lists(PROBLEM, max_size=3), st.lists(RESPONSE, max_size=3))
def test_round_trip_is_exact(tmp_path_factory, problems, responses):
  file = tmp_path_factory.getbasetemp() / 'records.jsonl'
  for cls, given_ in [(records.Problem, problems),
                      (records.Response, responses)]:
    records.write_jsonl(file, given_)
    found = read(file, cls)
    assert found == given_
    # Equal also in type: a list of token ids would compare unequal later.
    assert all(type(getattr(a, name)) is type(getattr(b, name))
               for a, b in zip(found, given_, strict=True) for name in vars(a))
    assert len(file.read_text().splitlines()) == len(given_)


def test_failed_write_keeps_the_old_file(tmp_path):
  file = tmp_path / 'problems.jsonl'
  kept = records.Problem('a', 'What is 1 + 1?')
  records.write_jsonl(file, [kept])

  def interrupted():
    yield records.Problem('b', 'What is 2 + 2?')
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    records.write_jsonl(file, interrupted())
  assert read(file, records.Problem) == [kept]


@pytest.mark.parametrize('line, reason', [
    ('{"id": "b", "problem": "x"', 'delimiter'),
    ('["b", "x"]', 'not an object'),
    ('{"id": "b"}', "missing .*'problem'"),
    ('{"id": "b", "problem": "x", "weight": 1}', "unexpected .*'weight'"),
])
def test_a_line_that_is_no_record_is_refused(line, reason):
  with pytest.raises(ValueError, match=reason):
    records.from_json(line, records.Problem)


def test_conversation_is_the_given_one_or_problem_and_solution():
  plain = records.Problem('a', '1 + 1?', '2')
  assert plain.conversation == [{'role': 'user', 'content': '1 + 1?'},
                                {'role': 'assistant', 'content': '2'}]
  turns = ({'role': 'system', 'content': 'Be brief.'}, *plain.conversation)
  chat = records.Problem('a', '1 + 1?', '2', messages=turns)
  assert chat.conversation == list(turns)
  chat.conversation[0]['content'] = 'changed'  # a copy: records are frozen
  assert chat.messages[0]['content'] == 'Be brief.'
