r"""Problems of the package reasoning-gym as the corpus of a run.

Over 100 generators of problems: sums, strings, games, and GSM8K's stories with worked
solutions. `reasoning_worker` makes the problems in a subprocess, and its scorers judge
the answers that are no whole numbers.
"""

from collections.abc import Iterator, Sequence
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import tqdm

from ddt_jax import errors
from ddt_jax import verify
from ddt_jax.data import corpus
from ddt_jax.data import records
from ddt_jax.data import rows
from ddt_jax.data import splits

NAME = 'reasoning_gym'  # of the data set: reasoning_gym:TASK[,TASK]
SCORER = 'ddt_jax.data.reasoning_worker:score'  # see `verify.verify`, kind


def world(
    tasks: str, *, problems: int, evaluation_problems: int, validation: float,
    generalisation: str = '', retained: str = '', seed: int = 0,
    question: str = '{problem}', marker: str = verify.BOX,
) -> corpus.Corpus:
  """Makes problems of some tasks, and the splits to measure them on.

  Each of the three lists of tasks is 'TASK,TASK', and a task may have options of its
  own for its difficulty: 'chain_sum:max_terms=3:max_digits=2,letter_counting'. The
  tasks of a list get equally many problems. No prompt is in two splits.

  Args:
    tasks: trained on. Problems held out from them are the split "target".
    problems: number of problems for training and validation. Fewer are made where a
      task has no more different ones.
    evaluation_problems: of each of the three splits; 0 leaves them out.
    validation: share of the problems, see `splits.split`.
    generalisation: harder variants of the tasks, measured and not trained on.
    retained: other tasks, measured and not trained on.
    seed: of the problems.
    question: see `rows.asked`. It should ask for the marker.
    marker: the text before a final answer, see `verify.extract`. Answers of several
      lines need the default.

  Raises:
    errors.InputError: the package is missing, an option has no such value, or the
      marker cannot introduce any of the answers.
  """
  if '{problem}' not in question:
    raise errors.InputError(
        f'data.question={question!r} has no place for a {{problem}}')
  counts = {'target': problems + evaluation_problems,
            'generalisation': evaluation_problems, 'retained': evaluation_problems}
  lists = {'target': _names(tasks), 'generalisation': _names(generalisation),
           'retained': _names(retained)}
  if not lists['target']:
    raise errors.InputError(f'data.name={NAME}: names no task; write {NAME}:TASK')
  items = _items({
      split: _wanted(names, counts[split], f'{seed}\n{split}')
      for split, names in lists.items() if names and counts[split]})
  # A task whose answers are numbers and words needs its scorer for all of them.
  scored = {item['task'] for some in items.values() for item in some
            if not re.fullmatch(r'-?\d+', item['answer'])}
  made, left_out, seen = {}, 0, set()
  for split, its_items in items.items():
    found = [
        _problem(item, f'{split}:{i}', question, marker, item['task'] in scored)
        for i, item in enumerate(its_items)]
    left_out += found.count(None)
    new = {p.problem: p for p in found if p and p.problem not in seen}
    seen |= new.keys()
    made[split] = list(new.values())
  if not made.get('target'):
    raise errors.InputError(
        f'data.marker={marker!r} cannot introduce an answer of {tasks}: they have'
        r" several lines or end with a full stop; --config.data.marker='\boxed{' can")
  parts = splits.split(
      made.pop('target'), validation=validation, seed=seed,
      evaluation=evaluation_problems / (problems + evaluation_problems))
  evaluation = {
      name: some for name, some in ({'target': parts.evaluation} | made).items() if some}
  sizes = ', '.join(f'{len(p)} {n}' for n, p in evaluation.items()) or 'nothing'
  notes = [f'{NAME}:{tasks}: {len(parts.train)} train, {len(parts.validation)}'
           f' validation; evaluated on {sizes}']
  if left_out:
    notes.append(f'{left_out} problems are left out: their answers cannot follow'
                 f' data.marker={marker!r}')
  # A word such as "is" stands in answers that nobody asked for it.
  if marker.strip(r'\{ ') not in question and not marker.strip().isalpha():
    notes.append(f'no prompt asks for "{marker}", which answers are read after; ask'
                 ' for it with --config.data.question=')
  return corpus.Corpus(
      parts.train, parts.validation, evaluation, 0, '\n'.join(notes))


def _names(text: str) -> list[str]:
  """The tasks of a list; a comma within [...] belongs to an option's value."""
  return [name for part in re.split(r',(?![^\[]*\])', text) if (name := part.strip())]


def _wanted(
    tasks: Sequence[str], count: int, stream: str
) -> list[tuple[str, int, int]]:
  """Arguments of `reasoning_worker.dataset` for `count` problems.

  Each task has a seed of its own.
  """
  wanted = []
  for i, task in enumerate(tasks):
    digest = hashlib.sha256(f'{stream}\n{task}'.encode()).digest()
    # 31 bits: some tasks draw by NumPy, whose seeds end at 2^32.
    seed = int.from_bytes(digest[:4]) // 2
    wanted.append((task, seed, len(range(i, count, len(tasks)))))
  return [w for w in wanted if w[2]]


def _items(
    by_split: dict[str, list[tuple[str, int, int]]]
) -> dict[str, list[dict[str, Any]]]:
  """The problems of each split, its tasks in turn."""
  wanted = list(itertools.chain(*by_split.values()))
  found = iter(tqdm.tqdm(_made(wanted), total=sum(size for *_, size in wanted),
                         desc='problems', delay=5, leave=False))
  items = {}
  for split, its_wanted in by_split.items():
    columns = [[item | {'task': task} for item in itertools.islice(found, size)]
               for task, _, size in its_wanted]
    # Rounds train on slices of the problems: each slice should hold all tasks.
    items[split] = [
        item for row in itertools.zip_longest(*columns) for item in row if item]
  return items


def _made(wanted: Sequence[tuple[str, int, int]]) -> Iterator[dict[str, Any]]:
  """Yields what `reasoning_worker.items` yields, from a subprocess; see there."""
  if importlib.util.find_spec('reasoning_gym') is None:
    raise errors.InputError(
        f"data.name={NAME}:... needs a package: pip install 'reasoning-gym>=0.1.25,<0.2'")
  root = str(pathlib.Path(__file__).resolve().parents[2])
  # The hash seed orders sets: other seeds give other problems.
  environment = os.environ | {
      'PYTHONHASHSEED': '0', 'PYTHONPATH': os.pathsep.join([root, *sys.path])}
  process = subprocess.Popen(
      [sys.executable, '-m', 'ddt_jax.data.reasoning_worker'], stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, text=True, encoding='utf-8', env=environment)
  try:
    with process.stdin:
      json.dump(wanted, process.stdin)
    for line in process.stdout:
      item = json.loads(line)
      if 'error' in item:
        raise errors.InputError(f'data.name={NAME}:...: {item["error"]}')
      yield item
    if process.wait():
      raise RuntimeError(f'{" ".join(process.args)} ended with {process.returncode}')
  finally:
    process.kill()
    process.stdout.close()
    process.wait()


def _problem(
    item: dict[str, Any], name: str, question: str, marker: str, scored: bool
) -> records.Problem | None:
  """One problem; None if its answer cannot be read after the marker."""
  answer = item['answer'].strip()
  final = f'{marker}{answer}}}' if marker == verify.BOX else f'{marker} {answer}'
  # GSM8K's solutions end with the line "#### 72".
  steps = [line for line in item['worked'].splitlines() if rows.HASHES not in line]
  if verify.extract(final, marker) != answer:
    return None
  if scored:
    answer = json.dumps(json.loads(item['reference']) | {'marker': marker})
  return rows.asked(records.Problem(
      id=f'{item["task"]}:{name}', problem=item['question'],
      solution='\n'.join([*steps, final]), answer=answer,
      kind=SCORER if scored else 'math', marker=marker,
      source=item['task']), question)
