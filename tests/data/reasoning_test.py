"""Problems of the package reasoning-gym: splits, references, scorers, refusals."""

import importlib.util
import json

import pytest

from configs import idft
from ddt_jax import errors
from ddt_jax import verify
from ddt_jax.data import reasoning
from experiments.run import inputs

slow = pytest.mark.slow  # .ci/run installs the package before the slow tests
TASKS = 'chain_sum:max_terms=3:max_digits=2,gsm_symbolic,spell_backward'
QUESTION = '{problem}\nEnd with "Answer: ..."'


def world(tasks=TASKS, **options):
  pytest.importorskip('reasoning_gym')
  options = dict(
      problems=60, evaluation_problems=15, validation=0.1, question=QUESTION,
      generalisation='chain_sum:min_terms=4:max_terms=5', marker='Answer:',
      retained='letter_counting,word_sorting') | options
  return reasoning.world(tasks, **options)


@pytest.fixture(scope='module')
def found():
  return world()


@slow
def test_the_splits_have_no_common_prompt(found):
  assert [*found.evaluation] == ['target', 'generalisation', 'retained']
  parts = [found.train, found.validation, *found.evaluation.values()]
  assert [len(p) for p in parts] == pytest.approx([52, 8, 15, 15, 15], abs=2)
  prompts = [p.problem for part in parts for p in part]
  assert len({*prompts}) == len(prompts)
  assert all(p.endswith('\nEnd with "Answer: ..."') for p in prompts)
  # Tasks in turn, so that each slice of the training problems has all of them.
  assert {p.source for p in found.train[:9]} == {*TASKS.split(',')}
  assert {p.source for p in parts[3]} == {'chain_sum:min_terms=4:max_terms=5'}
  for p in parts[2]:
    if p.source.startswith('chain_sum'):
      terms = p.problem.partition(': ')[2].partition(' =')[0].split()[::2]
      assert len(terms) <= 3 and all(len(term) <= 2 for term in terms)


@slow
def test_the_same_seed_gives_the_same_problems(found):
  assert world() == found
  other = world(seed=1)
  assert not {p.problem for p in other.train} & {p.problem for p in found.train}
  # These iterate over sets of words: only a fixed hash seed repeats them.
  tasks = 'isomorphic_strings,ransom_note,word_ladder'
  assert world(tasks, problems=6).train == world(tasks, problems=6).train


@slow
def test_references_are_right_and_other_answers_wrong(found):
  some = [p for split in (found.train, *found.evaluation.values()) for p in split]
  kinds = [p.kind for p in some]
  assert {*kinds} == {'math', reasoning.SCORER}
  verdicts = verify.verify_all(
      [(p.solution, p.answer) for p in some], kind=kinds, marker='Answer:')
  assert all(v.correct for v in verdicts)
  wrong = [(p.solution.rpartition(': ')[0] + ': 5x', p.answer) for p in some]
  assert not any(v.correct for v in verify.verify_all(wrong, kind=kinds, marker='Answer:'))
  nothing = verify.verify('no marker', some[0].answer, kind=kinds[0], marker='Answer:')
  assert nothing.correct is False


@slow
def test_the_scorer_of_the_task_decides():
  # A dozen of ways lead to 24 or to a number: no text comparison accepts them all.
  found = world('countdown', problems=3, marker=verify.BOX, retained='',
                generalisation='', question=r'{problem} Box it: \boxed{}')
  p = found.train[0]
  formula = json.loads(p.answer)['answer']
  how = dict(kind=p.kind)
  assert verify.verify(rf'\boxed{{({formula})}}', p.answer, **how).correct is True
  assert verify.verify(rf'\boxed{{{formula} + 1}}', p.answer, **how).correct is False
  assert verify.verify(formula, p.answer, **how).correct is False
  changed = json.dumps(json.loads(p.answer) | {'answer': '1 + 1'})
  assert verify.verify(p.solution, changed, **how).correct is None


@slow
def test_a_word_where_a_number_is_right_is_wrong():
  found = world('calendar_arithmetic', problems=20, retained='', generalisation='')
  number = next(p for p in found.train if p.solution[-1].isdigit())
  assert number.kind == reasoning.SCORER
  assert verify.verify('Answer: Sunday', number.answer, kind=number.kind,
                       marker='Answer:').correct is False


@slow
def test_worked_solutions_end_with_the_marker(found):
  p = next(p for p in found.train if p.source == 'gsm_symbolic')
  *steps, last = p.solution.splitlines()
  assert steps and last == f'Answer: {p.answer}'
  assert '####' not in p.solution


@slow
@pytest.mark.parametrize('tasks, options, message', [
    ('chain_sums', {}, "no task 'chain_sums'; did you mean chain_sum?"),
    ('chain_sum:max_term=2', {}, 'did you mean max_terms?'),
    ('chain_sum:max_terms=0', {}, 'max_terms must be >= min_terms'),
    ('chain_sum:max_terms=few', {}, "max_terms is 'few', which is no number"),
    ('chain_sum', dict(retained='nosuch'), "no task 'nosuch'"),
    ('boxnet', {}, 'no reference answers'),
    ('puzzle24', dict(marker=verify.BOX), 'accepts wrong ones'),
    ('sudoku', dict(retained='', generalisation=''), 'several lines'),
    ('chain_sum', dict(question='x'), 'no place for a'),
])
def test_what_cannot_be_used_is_refused(tasks, options, message):
  with pytest.raises(errors.InputError) as error:
    world(tasks, problems=2, evaluation_problems=2, **options)
  assert message in str(error.value)


@slow
def test_answers_of_several_lines_stand_in_boxes():
  found = world('sudoku', problems=2, evaluation_problems=0, marker=verify.BOX)
  p = found.train[0]
  assert found.evaluation == {} and p.solution.count('\n') == 8
  assert verify.verify(p.solution, p.answer, kind=p.kind).correct is True
  assert r'no prompt asks for "\boxed{"' in found.description


def test_the_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  c = idft.get_config()
  c.data.name = 'reasoning_gym:chain_sum'
  with pytest.raises(errors.InputError, match="pip install 'reasoning-gym>="):
    inputs.load_data(None, None, evaluation_problems=3, **c.data)


@pytest.mark.parametrize('name, message', [
    ('reasoning_gym', r'reasoning_gym:TASK\[,TASK\]'),
    ('reasoning_gym:', 'names no task'), ('reasoning_gym: ,', 'names no task')])
def test_an_unknown_data_set_is_refused(name, message):
  c = idft.get_config()
  c.data.name = name
  with pytest.raises(errors.InputError, match=message):
    inputs.load_data(None, None, evaluation_problems=3, **c.data)
