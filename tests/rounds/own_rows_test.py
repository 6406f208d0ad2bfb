"""Batches that the student writes: order, draws, files, resuming."""

import jax
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax.data import prompts
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.rounds import answers
from ddt_jax.rounds import curate
from ddt_jax.rounds import own_rows
from tests.support import student

SOME = list(problems.problems('train', 5))
FROM = {'step': 3, 'seed': 0}


def context(max_tokens=256):
  config, params = student.load()
  end = student.turn_end()
  return curate.Context(
      params, config, student.tokenizer(), end, {'eos_ids': (end.id,)},
      dict(workers=1, timeout_s=5.0), student.mesh(), 8, max_tokens)


def make_tasks(folder, hint=True, limit=8, of=None, **changed):
  rewriting = answers.Rewriting(template='short', analysis='none', **changed)
  of = of or context()
  return own_rows.make_tasks(
      of, SOME, rewriting, hint=hint, max_new_tokens=limit,
      teacher_positions=of.config.max_positions, folder=folder, made_from=FROM, size=2)


@pytest.fixture
def drawn(monkeypatch):
  """Replaces the engine: responses that name the parameters and the problem."""
  calls = []

  def generate(params, config, asked, *, max_tokens, journal, **options):
    del config, journal
    calls.append((params, len(asked), options['key']))
    end, = options['eos_ids']
    return [
        engine.Generated([*([params] * (i % 3)), end][:n], 'eos', None)
        for i, n in enumerate(max_tokens)]

  monkeypatch.setattr(engine, 'generate', generate)
  return calls


def open_rows(folder, every=2, only_right=False, tasks=None):
  return own_rows.OwnRows(
      context(), tasks or make_tasks(folder, hint=False), problems=7, batch=2,
      epochs=2, seed=1, every=every, only_right=only_right, sampling=dict(temperature=1.0, top_p=1.0),
      folder=folder / 'own', made_from=FROM, key=jax.random.key(0))


def batches_of(rows, steps, params):
  found = []
  for step in range(steps):
    rows.draw_if_due(params(step))
    found.append(next(rows))
  return found


def test_the_teacher_reads_the_reference_and_the_marker(tmp_path):
  tokenizer, template = student.tokenizer(), prompts.load('short')
  for task, problem in zip(make_tasks(tmp_path).tasks, SOME, strict=True):
    assert task.problem == problem and task.limit == 8
    text = tokenizer.decode(task.teacher_prompt)
    assert problem.solution in text and text.endswith(template.marker)
    assert problem.solution not in tokenizer.decode(task.prompt)
  plain = make_tasks(tmp_path, hint=False).tasks
  assert all(t.prompt == t.teacher_prompt for t in plain)


def test_a_prompt_without_room_is_left_out_and_a_long_one_gets_less(tmp_path):
  lengths = sorted(len(t.prompt) for t in make_tasks(tmp_path, hint=False).tasks)
  tasks = make_tasks(
      tmp_path, hint=False, limit=8, of=context(max_tokens=lengths[-1]))
  assert len(tasks.left_out) == lengths.count(lengths[-1])
  assert tasks.left_out[0].finish == 'skipped'
  assert all(len(t.prompt) + t.limit <= lengths[-1] for t in tasks.tasks)


def test_every_task_is_answered_once_an_epoch_by_the_current_parameters(
    tmp_path, drawn):
  rows = open_rows(tmp_path)
  assert rows.steps == 5  # 5 problems, 2 epochs, batches of 2
  found = batches_of(rows, 5, lambda step: 10 + step)
  # Two steps a draw; the last one has one batch.
  assert [(params, n) for params, n, _ in drawn] == [(10, 4), (12, 4), (14, 2)]
  assert len({str(jax.random.key_data(key)) for *_, key in drawn}) == 3
  assert {b.tokens.shape for b in found} == {(2, rows.shape.time)}
  for epoch in (0, 1):
    seen = [tuple(b.tokens[i][:b.start[i] + 1]) for b in found for i in range(2)]
    assert len(set(seen[5 * epoch: 5 * epoch + 5])) == 5
  assert found[0].mask.sum(1).tolist() == [1, 2]
  assert found[1].mask.sum(1).tolist() == [3, 1]
  assert found[1].targets[0, :2].tolist() == [10, 10]
  summary = rows.summary()
  assert summary.own.responses == 10 and summary.solved['own'] == 5
  assert summary.own.tokens == sum(b.mask.sum() for b in found)
  assert (summary.unanswerable, summary.sources['own'].examples) == (2, 10)


def test_a_resumed_round_reads_what_lost_parameters_drew(tmp_path, drawn):
  whole = batches_of(open_rows(tmp_path), 5, lambda step: 10 + step)
  del drawn[:]
  cut = open_rows(tmp_path)
  cut.set_state({'step': 3})  # in the middle of the second block
  again = batches_of(cut, 2, lambda step: 99)
  assert not drawn
  for a, b in zip(whole[3:], again, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)
  assert cut.get_state() == {'step': 5}
  (tmp_path / 'own' / '00001.jsonl').unlink()
  lost = open_rows(tmp_path)
  lost.set_state({'step': 3})
  with pytest.raises(errors.InputError, match='00001.jsonl is missing'):
    lost.draw_if_due(99)
  lost.set_state({'step': 2})  # the parameters are those that drew it
  lost.draw_if_due(12)
  jax.tree.map(np.testing.assert_array_equal, next(lost), whole[2])


def test_rows_that_are_not_right_are_padding(tmp_path, monkeypatch, drawn):
  end = student.turn_end().id

  def verified(tokenizer, some, drawn, source, verifier):
    return [records.Response(
        p.id, (5, end), '', 'eos', source, correct=p.id == SOME[0].id) for p in some]

  monkeypatch.setattr(answers, 'verified', verified)
  rows = open_rows(tmp_path, every=5, only_right=True)
  found = batches_of(rows, 5, lambda step: 7)
  assert len(drawn) == 1
  assert sum(b.mask.sum() for b in found) == 2 * 2  # one problem, twice
  summary = rows.summary()
  assert summary.dropped == {'not right': 8}
  assert summary.own.accepted == 2 and summary.solved['own'] == 1
