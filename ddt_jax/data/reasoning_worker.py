"""Problems of the package reasoning-gym, and answers scored by the package.

The only module that imports the package. It runs in subprocesses whose hash seed is
0, since some tasks iterate over sets: the same seed gives the same problems in every
run.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import os
import sys
from typing import Any

import reasoning_gym
from reasoning_gym import factory

from ddt_jax import errors
from ddt_jax import verify

# A score is 1 for a right answer; less is credit for a part, or for the form.
_RIGHT = 0.999


@functools.lru_cache(maxsize=256)
def dataset(task: str, seed: int, size: int):
  """The package's data set of one task.

  Args:
    task: a task and its options, 'chain_sum:max_terms=3'.
    seed: of the first problem; each of the next ones has the next seed.
    size: number of problems; some tasks spread their kinds of problems over them.

  Raises:
    errors.InputError: there is no such task or option, or it has no such value.
  """
  name, *options = task.split(':')
  if name not in factory.DATASETS:
    raise errors.InputError(
        f'there is no task {name!r}{_nearest(name, factory.DATASETS)}')
  known = {f.name: f.default for f in dataclasses.fields(factory.DATASETS[name][1])
           if f.name not in ('seed', 'size')}
  values = {}
  for option in options:
    key, _, text = option.partition('=')
    if key not in known:
      raise errors.InputError(
          f'the task {name} has no option {key!r}{_nearest(key, known)}')
    values[key] = _value(text)
    if isinstance(known[key], int | float) and isinstance(values[key], str):
      raise errors.InputError(f'{task}: {key} is {text!r}, which is no number')
  try:
    return reasoning_gym.create_dataset(name, seed=seed, size=size, **values)
  except Exception as e:  # the tasks raise no common type
    raise errors.InputError(f'{task}: {e or type(e).__name__}') from e


def _nearest(name: str, known) -> str:
  return errors.did_you_mean(name, known) or f'; there are {", ".join(known)}'


def _value(text: str) -> Any:
  """A number, true, false or a list as in JSON; else the text itself."""
  try:
    return json.loads(text.replace("'", '"'))
  except ValueError:
    return text


def items(tasks: Sequence[tuple[str, int, int]]) -> Iterator[dict[str, str]]:
  """Yields the problems of some tasks, one task after the other.

  Args:
    tasks: arguments of `dataset`.

  Yields:
    question and answer; worked, a solution by steps or ''; reference, the answer for
    `score`.

  Raises:
    errors.InputError: see `dataset`; or a task has no reference answer.
  """
  made = [dataset(*task) for task in tasks]  # misspelt ones first
  for (task, seed, size), source in zip(tasks, made, strict=True):
    _check_scorer(task, source)
    for index in range(size):
      item = source[index]
      answer = item['answer']
      yield {
          'question': item['question'], 'answer': answer,
          'worked': item['metadata'].get('answer_cot', ''),
          'reference': json.dumps({
              'answer': answer, 'task': task, 'seed': seed, 'size': size,
              'index': index})}


def _check_scorer(task: str, source) -> None:
  """Refuses a task whose scorer does not tell right answers from wrong ones."""
  some = [source[i] for i in range(min(4, len(source)))]
  if some[0]['answer'] is None:
    raise errors.InputError(f'the task {task} gives no reference answers')
  # Some scorers accept the answer of any problem of their task.
  others = [_accepts(source, other['answer'], item) for item in some for other in some
            if other['answer'] != item['answer']]
  own = [_accepts(source, item['answer'], item) for item in some]
  if not all(own) or others and all(others):
    raise errors.InputError(f'the scorer of the task {task} cannot be used: it'
                            ' refuses right answers, or accepts wrong ones')


def _accepts(source, answer: str, item: dict[str, Any]) -> bool:
  try:
    return source.score_answer(answer, item) >= _RIGHT
  except Exception:  # of answers that have another form
    return False


def score(response: str, reference: str) -> bool | None:
  """Whether the scorer of its task accepts a response's answer.

  Args:
    response: the text.
    reference: of `items`, with the marker of the answer added.

  Returns:
    None if the package no longer makes this problem.
  """
  want = json.loads(reference)
  got = verify.extract(response, want['marker'])
  if not got:
    return False
  source = dataset(want['task'], want['seed'], want['size'])
  item = source[want['index']]
  # Another version of the package makes other problems from the same seed.
  if item['answer'] != want['answer']:
    return None
  return source.score_answer(got, item) >= _RIGHT


def main():
  """Answers the tasks on standard input by lines of JSON on standard output."""
  lines = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # some tasks print
  try:
    for item in items(json.load(sys.stdin)):
      print(json.dumps(item), file=lines)
  except errors.InputError as e:
    print(json.dumps({'error': str(e)}), file=lines)


if __name__ == '__main__':
  main()
