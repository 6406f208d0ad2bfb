"""Accuracy counts answers, with a scripted model."""

import dataclasses
import itertools
import types

import jax
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import significance
from ddt_jax import verify
from ddt_jax.data import records
from ddt_jax.rounds import answers
from ddt_jax.rounds import evaluate

KEY = jax.random.key(0)
EOS = 0
CONFIG = types.SimpleNamespace(max_positions=1000)
VERIFIER = dict(workers=1, timeout_s=5.0)


class Characters:
  """A tokenizer with a token for each character."""

  def apply_chat_template(self, chat, *, tokenize, add_generation_prompt):
    assert not tokenize and add_generation_prompt
    return '|'.join(f'{m["role"]}: {m["content"]}' for m in chat)

  def __call__(self, texts, *, add_special_tokens, **_):
    assert not add_special_tokens
    return {'input_ids': [[ord(c) for c in text] for text in texts]}

  def decode(self, ids, *, skip_special_tokens):
    assert skip_special_tokens
    return ''.join(chr(i) for i in ids if i != EOS)


@pytest.fixture
def model(monkeypatch):
  """A scripted model: `greedy` and `sampled`, by problem; `calls` are kept.

  A response that ends with a full stop has an EOS, another is unfinished.
  """
  script = types.SimpleNamespace(greedy={}, sampled={}, calls=[])

  def generate(params, config, prompts, **options):
    script.calls.append((
        [''.join(map(chr, p)) for p in prompts], params, config, options
    ))
    sampled = {question: iter(texts) for question, texts in script.sampled.items()}
    results = []
    for prompt in script.calls[-1][0]:
      question = prompt.partition('user: ')[2]
      if options.get('greedy'):
        text = script.greedy[question]
      else:
        text = next(sampled[question])
      ids, done = [ord(c) for c in text], text.endswith('.')
      results.append(engine.Generated(
          ids + [EOS] * done, 'eos' if done else 'length'
      ))
    return results

  monkeypatch.setattr(engine, 'generate', generate)
  return script


PROBLEMS = [
    records.Problem('a', '1 + 1', answer='2'),
    records.Problem('b', '2 + 2', answer='4'),
    records.Problem('c', 'say: up down', answer='up down', kind='text'),
    records.Problem('d', '3 + 3', answer='6'),
]


def accuracy(problems=PROBLEMS, **options):
  options = dict(
      key=KEY, max_new_tokens=9, eos_ids=(EOS,), verifier=VERIFIER) | options
  return evaluate.accuracy('params', CONFIG, Characters(), problems, **options)


def test_answers_come_with_their_verdicts(model):
  model.sampled = {
      '1 + 1': [r'\boxed{2}.', r'\boxed{3}.'],
      'say: up down': [r'\boxed{down up}.', r'\boxed{Up  down}'],
  }
  (right, wrong), (swapped, cut) = answers.answer(
      'params', CONFIG, Characters(), [PROBLEMS[0], PROBLEMS[2]], samples=2,
      key=KEY, max_new_tokens=9, eos_ids=(EOS,), verifier=VERIFIER,
  )
  assert right == records.Response(
      'a', (*map(ord, r'\boxed{2}.'), EOS), r'\boxed{2}.', 'eos', 'own', True,
      '2', right.reason,
  )
  assert right.reason
  assert (wrong.problem_id, wrong.correct, wrong.extracted) == ('a', False, '3')
  assert (swapped.problem_id, swapped.correct) == ('c', False)
  assert (cut.problem_id, cut.correct, cut.finish) == ('c', True, 'length')
  (asked, params, config, options), = model.calls
  assert asked == ['user: 1 + 1'] * 2 + ['user: say: up down'] * 2
  assert (params, config) == ('params', CONFIG)
  # What is the verifier's does not reach the engine.
  room = [CONFIG.max_positions - len(prompt) for prompt in asked]
  assert options == dict(
      key=KEY, max_new_tokens=9, max_tokens=room, eos_ids=(EOS,))


def test_accuracy_counts(model, monkeypatch):
  monkeypatch.setattr(verify, 'MAX_RESPONSE', 40)
  model.greedy = {
      '1 + 1': r'\boxed{2}.',  # right
      '2 + 2': r'so \boxed{4}' + 30 * '!',  # not judged, and unfinished
      'say: up down': 'up down.',  # no box
      '3 + 3': r'\boxed{7}.',
  }
  found = accuracy(samples=0)
  assert found == evaluate.SplitAccuracy(
      problems=4, samples=0, pass_at_1=significance.wilson(1, 4), avg_at_k=None,
      abstained=1, mean_tokens=(11 + 42 + 9 + 11) / 4, unfinished=1,
      skipped=0,
  )
  (_, _, _, options), = model.calls
  assert options['greedy'] and options['max_new_tokens'] == 9


def test_avg_at_k_is_over_problems(model, monkeypatch):
  monkeypatch.setattr(verify, 'MAX_RESPONSE', 40)
  right = {'1 + 1': r'\boxed{2}.', '2 + 2': r'\boxed{4}.',
           'say: up down': r'\boxed{up down}.'}
  model.greedy = right
  long = r'\boxed{2}' + 40 * '.'
  model.sampled = {
      '1 + 1': [right['1 + 1'], 'no.', long, 'no'],
      '2 + 2': [right['2 + 2']] * 4,
      'say: up down': ['no.'] * 4,
  }
  found = accuracy(PROBLEMS[:3], samples=4, temperature=0.7, top_p=0.9)
  assert found.samples == 4
  assert found.avg_at_k == significance.clustered_mean(np.array([0.25, 1, 0]))
  # The other numbers are of the greedy answers.
  assert found.pass_at_1 == significance.wilson(3, 3)
  assert (found.abstained, found.unfinished) == (0, 0)
  (_, _, _, greedy), (asked, _, _, sampled) = model.calls
  assert len(asked) == 12 and not sampled.get('greedy')
  assert (sampled['temperature'], sampled['top_p']) == (0.7, 0.9)
  assert greedy['key'] is sampled['key'] is KEY


def test_the_question_may_be_put_otherwise(model):
  model.greedy = {'1 + 1, please': r'\boxed{2}.'}

  def chat(problem):
    return [{'role': 'user', 'content': f'{problem.problem}, please'}]

  found = accuracy(PROBLEMS[:1], samples=0, turns_of=chat)
  assert found.pass_at_1.value == 1


def test_a_conversation_is_put_with_all_its_turns_but_the_last(model):
  turns = ({'role': 'system', 'content': 'Add.'},
           {'role': 'user', 'content': '1 + 1'},
           {'role': 'assistant', 'content': r'\boxed{2}'})
  model.greedy = {'1 + 1': r'\boxed{2}.'}
  accuracy([dataclasses.replace(PROBLEMS[0], messages=turns)], samples=0)
  assert model.calls[0][0] == ['system: Add.|user: 1 + 1']


@pytest.mark.parametrize('samples', [0, 2])
def test_accuracy_on_no_problems(model, samples):
  found = accuracy([], samples=samples)
  assert found.problems == 0
  assert found.pass_at_1 == significance.wilson(0, 0)
  assert found.mean_tokens == 0


def test_splits_are_cut_to_so_many_problems(model):
  model.greedy = {'1 + 1': r'\boxed{2}.', '2 + 2': r'\boxed{5}.'}
  stops = []
  found = evaluate.by_split(
      'params', CONFIG, Characters(),
      {'easy': PROBLEMS[:1], 'all': PROBLEMS}, problems=2, samples=0, key=KEY,
      max_new_tokens=9, eos_ids=(EOS,), verifier=VERIFIER,
      check_stop=lambda: stops.append(1))
  assert {k: (v.problems, v.pass_at_1.value) for k, v in found.items()} == {
      'easy': (1, 1.0), 'all': (2, 0.5)}
  assert len(stops) == 2
  assert evaluate.by_split(
      'params', CONFIG, Characters(), {'all': PROBLEMS}, problems=0) == {}


def test_a_prompt_without_room_is_left_out_and_counted(model):
  long = records.Problem('long', 'x' * 40, answer='1')
  model.greedy = {'1 + 1': r'\boxed{2}.'}
  config = types.SimpleNamespace(max_positions=22)
  (right,), (skipped,) = answers.answer(
      'params', config, Characters(), [PROBLEMS[0], long], greedy=True,
      max_new_tokens=14, eos_ids=(EOS,), verifier=VERIFIER)
  assert right.correct and skipped.correct is False
  assert (skipped.tokens, skipped.finish) == ((), 'skipped')
  assert skipped.reason == 'the prompt has 46 tokens, the model 22 positions'
  (asked, _, _, options), = model.calls
  assert asked == ['user: 1 + 1']
  assert options['max_tokens'] == [22 - 11]  # what its prompt leaves
  found = evaluate.accuracy(
      'params', config, Characters(), [PROBLEMS[0], long], samples=0, key=KEY,
      max_new_tokens=14, eos_ids=(EOS,), verifier=VERIFIER)
  assert (found.problems, found.skipped, found.pass_at_1.value) == (2, 1, 0.5)


def test_temperature_zero_is_greedy(model):
  model.greedy = {'1 + 1': r'\boxed{2}.'}
  found = accuracy(PROBLEMS[:1], samples=1, temperature=0.0, top_p=0.5)
  assert found.avg_at_k.value == 1
  assert all(call[3]['greedy'] and 'temperature' not in call[3]
             for call in model.calls)


def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples():
  n = 5
  for right in range(n + 1):
    samples = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
      exact = np.mean([any(some) for some in itertools.combinations(samples, k)])
      (found,) = evaluate.pass_at_k(np.array([right]), n, k)
      assert found == pytest.approx(exact)
  with pytest.raises(errors.InputError, match='pass@6 needs at least 6 samples'):
    evaluate.pass_at_k(np.array([1]), n, 6)
