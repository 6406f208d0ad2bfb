"""A user's file is cut into training, validation and evaluation problems."""

import json

import pytest

from ddt_jax import errors
from ddt_jax.data import corpus


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def sums(**columns):
  """Forty rows; `columns` are made from the right answer."""
  return [
      {'problem': f'What is {i} + 1?', 'solution': f'It is {i + 1}.'}
      | {name: make(i + 1) for name, make in columns.items()}
      for i in range(40)
  ]


def from_file(path, **options):
  options = dict(
      validation=0.1, evaluation=0.3, evaluation_problems=100
  ) | options
  return corpus.from_file(path, **options)


def test_a_file_is_cut_into_three(tmp_path):
  path = write(tmp_path / 'mine.jsonl', sums(answer=str))
  found = from_file(path)
  assert (len(found.train), len(found.validation)) == (24, 4)
  evaluation, = found.evaluation.values()
  assert len(evaluation) == 12
  parts = found.train + found.validation + evaluation
  assert len({p.problem for p in parts}) == 40
  for p in parts:
    number = int(p.problem.split()[2])
    assert p.answer == str(number + 1) and p.kind == 'math'
  assert found.bad_rows == 0
  assert found.description.startswith(f'{path}: 40 problems: 24 train')
  assert from_file(path) == found
  assert from_file(path, seed=1).train != found.train


def test_so_many_problems_are_evaluated_on(tmp_path):
  path = write(tmp_path / 'mine.jsonl', sums(answer=str))
  whole = from_file(path)
  fewer = from_file(path, evaluation_problems=5)
  assert fewer.evaluation['evaluation'] == whole.evaluation['evaluation'][:5]
  # What is not evaluated on is held out all the same.
  assert fewer.train == whole.train
  assert from_file(path, evaluation_problems=0).evaluation == {}
  assert from_file(path, evaluation=0.0).evaluation == {}


def test_only_what_has_an_answer_is_evaluated_on(tmp_path):
  # Every other one is known from its solution.
  path = write(tmp_path / 'half.jsonl', sums(
      solution=lambda n: f'\\boxed{{{n}}}' if n % 2 else f'It is {n}.'
  ))
  found = from_file(path)
  assert 0 < len(found.evaluation['evaluation']) < 12
  assert all(int(p.answer) % 2 for p in found.evaluation['evaluation'])
  assert len(found.train) == 24

  found = from_file(write(tmp_path / 'none.jsonl', sums()))
  assert found.evaluation == {} and len(found.train) == 24


def test_options_reach_the_reader(tmp_path):
  path = tmp_path / 'mine.jsonl'
  row = {'question': 'say a b', 'solution': 'a b', 'answer': 'a b'}
  path.write_text(json.dumps(row) + '\n{}\n')
  options = dict(
      validation=0.0, evaluation=0.0, columns={'problem': 'question'},
      kind='text')
  found = from_file(str(path), bad_rows='skip', **options)
  assert found.bad_rows == 1
  assert [(p.problem, p.kind) for p in found.train] == [('say a b', 'text')]
  with pytest.raises(errors.InputError, match='mine.jsonl:2'):
    from_file(str(path), **options)


def chats(count, *, first='Add {i} and 1.', last='And twice that?'):
  return [
      {'messages': [
          {'role': 'system', 'content': 'Be brief.'},
          {'role': 'user', 'content': first.format(i=i)},
          {'role': 'assistant', 'content': f'{i + 1}'},
          {'role': 'user', 'content': last.format(i=i)},
          {'role': 'assistant', 'content': f'\\boxed{{{2 * i + 2}}}'}]}
      for i in range(count)]


def test_chats_that_end_alike_are_held_out_by_their_whole_prompt(tmp_path):
  found = from_file(write(tmp_path / 'x.jsonl', chats(24)))
  assert (len(found.train), len(found.validation)) == (15, 2)
  assert len(found.evaluation['evaluation']) == 7
  # So are chats that begin alike.
  rows = chats(24, first='Hello!', last='What is {i} + 1?')
  assert len(from_file(write(tmp_path / 'y.jsonl', rows)).validation) == 2


@pytest.mark.parametrize('question', ['{problem}', '{problem} Box it.'])
def test_a_dialogue_cut_at_two_turns_stands_on_one_side(tmp_path, question):
  rows = chats(24)
  rows += [{'messages': row['messages'][:3]} for row in rows]
  found = from_file(write(tmp_path / 'x.jsonl', rows), question=question)
  evaluation = found.evaluation['evaluation']
  parts = found.train, found.validation, evaluation
  firsts = [{p.conversation[1]['content'].removesuffix(' Box it.') for p in part}
            for part in parts]
  assert len(set().union(*firsts)) == sum(map(len, firsts)) == 24
  assert len(found.train) == 30 and len(found.validation) == 4


def test_a_share_that_comes_out_as_0_is_said(tmp_path):
  found = from_file(
      write(tmp_path / 'x.jsonl', sums()[:3]), validation=0.1, evaluation=0.0)
  assert 'data.validation=0.1 of 3 distinct prompts comes out as 0' in (
      found.description)
  assert 'data.evaluation=' not in found.description.split(';')[-1]


def test_a_question_is_put_to_chats_too(tmp_path):
  found = from_file(
      write(tmp_path / 'x.jsonl', chats(9)), question='{problem} Box it.')
  for p in found.train + found.validation:
    assert p.problem == 'And twice that? Box it.'
    assert p.conversation[3]['content'] == p.problem
    assert p.conversation[1]['content'].endswith('and 1.')
  with pytest.raises(errors.InputError, match='no place for a {problem}'):
    from_file(write(tmp_path / 'x.jsonl', chats(9)), question='Box it.')


def test_the_split_does_not_depend_on_the_question(tmp_path):
  path = write(tmp_path / 'x.jsonl', sums(answer=str))
  plain, asked = from_file(path), from_file(path, question='{problem}\nBox it.')
  for one, two in [(plain.train, asked.train),
                   (plain.validation, asked.validation)]:
    assert [p.id for p in one] == [p.id for p in two]
    assert [f'{p.problem}\nBox it.' for p in one] == [p.problem for p in two]


def test_answers_are_counted_and_their_marker_is_said(tmp_path):
  gsm8k = [{'question': f'{i} + 1?', 'answer': f'So.\n#### {i + 1}'}
           for i in range(30)]
  path = write(tmp_path / 'x.jsonl', gsm8k)
  found = from_file(path)
  assert '30 rows read as question -> problem, answer -> solution' in (
      found.description)
  assert '30 of 30 rows have an answer to verify' in found.description
  assert 'answers follow ####' in found.description
  assert {p.marker for p in found.train} == {'####'}
  # A user who asks for a box wants it verified.
  found = from_file(path, question='{problem} Use \\boxed{}.')
  assert {p.marker for p in found.train} == {'\\boxed{'}
  assert found.train[0].answer
  # One marker for all: Hinted Decoding has one splitter.
  mixed = write(tmp_path / 'y.jsonl', gsm8k + [
      {'question': 'x', 'answer': '\\boxed{3}'}, {'question': 'y', 'answer': 'z'}])
  found = from_file(mixed)
  assert {p.marker for p in found.train} == {'\\boxed{'}
  assert '31 of 32 rows have an answer to verify' in found.description
  # A column of whole solutions is no column of answers.
  long = write(tmp_path / 'z.jsonl', sums(answer=lambda n: f'It is\n{n}.'))
  assert '40 of these answers have several lines' in from_file(long).description


@pytest.mark.parametrize('rows, options, warned', [
    (dict(solution='It is 7.'), {}, True),
    (dict(solution='It is \\boxed{7}.'), {}, False),
    (dict(problem='{i}? Use a \\boxed{}.', solution='It is 7.'), {}, False),
    (dict(solution='It is 7.'), dict(question='{problem} Box: \\boxed{}.'), False),
    (dict(solution='It is 7.'), dict(marker='####'), True),
    (dict(solution='It is 7.', answer=''), {}, False),
])
def test_a_marker_that_no_prompt_asks_for_is_said(tmp_path, rows, options, warned):
  row = dict(problem='{i} or 7?', answer='7') | rows
  path = write(tmp_path / 'x.jsonl', [
      row | {'problem': row['problem'].replace('{i}', str(i))} for i in range(20)])
  said = from_file(path, **options).description
  assert ('answers of the model may count as wrong' in said) == warned
  if warned:
    marker = options.get('marker', '\\boxed{')
    assert f'no prompt asks for "{marker}"' in said
    assert ("--config.data.marker='\\boxed{'" in said) == ('marker' in options)


@pytest.mark.parametrize('row, said', [
    (dict(solution='It is 7.', answer='7'), 'fallback=drop takes none'),
    (dict(solution='3 + 4 = 7\n#### 7'),
     "--config.data.marker='####' --config.data.question='{problem} End with"),
    (dict(solution='Hello.'), "no row has an answer to verify, so nothing is"),
    (dict(solution='It is \\boxed{7}.'), ''),
])
def test_solutions_in_another_form_than_prompts_ask_for_are_said(tmp_path, row, said):
  path = write(tmp_path / 'x.jsonl', [
      {'problem': f'{i} or 7?'} | row for i in range(20)])
  text = from_file(path, question='{problem} Box: \\boxed{}.').description
  assert said in text and ('warning: ' in text) == bool(said)
  # As advised.
  if '####' in said:
    text = from_file(
        path, marker='####', question='{problem} End with #### and the answer.')
    assert 'warning' not in text.description


def test_rows_left_out_are_named(tmp_path):
  path = write(tmp_path / 'x.jsonl', [*sums(), *[{'problem': 1}] * 25])
  found = from_file(path, bad_rows='skip')
  assert found.bad_rows == 25
  assert '25 bad rows are left out:' in found.description
  assert f'{path}:41: ' in found.description and 'and 5 more' in found.description


def test_several_files(tmp_path):
  one = write(tmp_path / 'a.jsonl', sums(id=str))
  (tmp_path / 'b').mkdir()
  two = write(tmp_path / 'b' / 'c.jsonl', [
      {'prompt': f'Say {i}.', 'completion': f'{i}', 'id': i} for i in range(20)])
  found = from_file(f'{one}, {two}', validation=0.0, evaluation=0.0)
  assert len(found.train) == 60 == len({p.id for p in found.train})
  assert {p.id.split(':')[0] for p in found.train} == {'a.jsonl', 'c.jsonl'}
  # Equal names are told apart by their folders.
  three = write(tmp_path / 'b' / 'a.jsonl', [
      {'problem': 'x', 'solution': 'y'}])
  found = from_file(f'{one},{three}', validation=0.0, evaluation=0.0)
  assert found.train[-1].id == f'{three}:1'
  with pytest.raises(errors.InputError, match='a.jsonl twice'):
    from_file(f'{one},{one}')
  comma = write(tmp_path / 'a,b.jsonl', sums())
  assert len(from_file(comma).train) == 24


@pytest.mark.parametrize('weights, sizes', [
    ('', (40, 20)), ('1,1', (20, 20)), ('2,1', (40, 20)), ('4, 1', (40, 10)),
    ('0,1', (0, 20)), ('1,0.1', (40, 4)),
])
def test_weights_are_proportions_of_the_files(tmp_path, weights, sizes):
  one = write(tmp_path / 'a.jsonl', sums())
  two = write(tmp_path / 'b.jsonl', [
      {'prompt': f'Say {i}.', 'completion': f'{i}'} for i in range(20)])
  options = dict(validation=0.0, evaluation=0.0, weights=weights)
  found = from_file(f'{one},{two}', **options)
  counts = [sum(p.id.startswith(name) for p in found.train) for name in 'ab']
  assert tuple(counts) == sizes
  assert from_file(f'{one},{two}', **options) == found
  if weights:
    assert f'{sum(sizes)} of 60 training problems are taken' in found.description


@pytest.mark.parametrize('weights', ['1', '1,2,3', 'x,1', '-1,1', '0,0', 'nan,1'])
def test_useless_weights_are_refused(tmp_path, weights):
  one = write(tmp_path / 'a.jsonl', sums())
  two = write(tmp_path / 'b.jsonl', sums())
  with pytest.raises(errors.InputError, match='data.weights='):
    from_file(f'{one},{two}', weights=weights)


def test_a_file_of_its_own_is_evaluated_on(tmp_path):
  path = write(tmp_path / 'a.jsonl', sums())
  other = write(tmp_path / 'b.jsonl', sums(answer=str)[:6] + [
      {'problem': 'New?', 'solution': 'x', 'answer': '5'}])
  found = from_file(path, evaluation_path=other, evaluation=0.5, validation=0.0)
  assert [p.answer for p in found.evaluation['evaluation']] == [
      *map(str, range(1, 7)), '5']
  # What is evaluated on is not trained on.
  assert len(found.train) == 34
  assert '6 problems with their prompts are not trained on' in found.description
  with pytest.raises(errors.InputError, match='nothing is left'):
    from_file(path, evaluation_path=write(tmp_path / 'c.jsonl', sums()))
  unanswered = write(tmp_path / 'd.jsonl', [{'problem': 'q', 'solution': 's'}])
  found = from_file(path, evaluation_path=unanswered)
  assert found.evaluation == {}
  assert 'no evaluation problem has an answer' in found.description
