"""Pairs of right and wrong responses: the rule, its counts, and TRL's format."""

import datasets
import hypothesis
from hypothesis import strategies as st
import pytest

from ddt_jax.data import chat
from ddt_jax.data import records
from ddt_jax.rounds import counts
from ddt_jax.rounds import pairs
from ddt_jax.rounds import select

END = chat.TurnEnd('<|im_end|>', 2)


def response(problem, text, correct, finish='eos'):
  tokens = (*map(ord, text), *([END.id] if finish == 'eos' else []))
  return records.Response(problem, tokens, text, finish, correct=correct)


def test_the_first_right_one_is_preferred_to_the_first_wrong_one():
  drawn = [
      response('a', 'w1', False), response('a', 'r1', True),
      response('a', 'r2', True), response('a', 'w2', False),
      response('b', 'r', True), response('b', 'cut', False, 'length'),
      response('c', 'w', False), response('c', 'unknown', None),
      response('d', 'unknown', None), response('d', 'cut', True, 'length'),
      response('e', 'the given solution', True), response('e', 'w', False),
  ]
  made, found = pairs.from_responses(drawn, END)
  assert [(p.problem_id, p.chosen.text, p.rejected.text) for p in made] == [
      ('a', 'r1', 'w1')]
  assert found == counts.PairCounts(
      pairs=1, paired=1, only_right=1, only_wrong=2, neither=1)
  assert str(found).startswith('1 pairs from 1 problems')
  made, found = pairs.from_responses(drawn, END, keep=2)
  assert [(p.chosen.text, p.rejected.text) for p in made] == [
      ('r1', 'w1'), ('r2', 'w2')]
  assert (found.pairs, found.paired) == (2, 1)


@hypothesis.given(
    st.lists(st.tuples(
        st.sampled_from('abc'), st.sampled_from('xyz'),
        st.sampled_from([True, False, None]),
        st.sampled_from(['eos', 'length']))),
    st.integers(1, 3))
def test_pairs_hold_one_of_each_side_and_each_problem_is_counted_once(rows, keep):
  drawn = [response(*row) for row in rows]
  made, found = pairs.from_responses(drawn, END, keep=keep)
  for p in made:
    assert p.chosen.problem_id == p.rejected.problem_id
    assert select.is_accepted(p.chosen, END) and pairs.is_wrong(p.rejected, END)
  for side in ('chosen', 'rejected'):
    texts = [(p.problem_id, getattr(p, side).tokens) for p in made]
    assert len(set(texts)) == len(texts)
  assert found.paired == len({p.problem_id for p in made}) <= found.pairs
  assert found.pairs <= keep * found.paired
  assert len({r.problem_id for r in drawn}) == (
      found.paired + found.only_right + found.only_wrong + found.neither)


@pytest.mark.parametrize('kind, suffix', [('json', 'jsonl'), ('parquet', 'parquet')])
def test_the_file_is_read_by_datasets_as_conversational_preferences(
    tmp_path, kind, suffix
):
  problem = records.Problem('a', 'What is 1 + 1?', 'It is \\boxed{2}.', '2')
  made, _ = pairs.from_responses(
      [response('a', 'naïve \u2028 3', False), response('a', '2', True)], END)
  file = tmp_path / f'pairs.{suffix}'
  pairs.write(file, made, {'a': problem}.get)
  read = datasets.load_dataset(
      kind, data_files=str(file), split='train', cache_dir=str(tmp_path / 'cache'))
  assert read[0] == {
      'prompt': [{'role': 'user', 'content': 'What is 1 + 1?'}],
      'chosen': [{'role': 'assistant', 'content': '2'}],
      'rejected': [{'role': 'assistant', 'content': 'naïve \u2028 3'}],
      'id': 'a',
  }
