"""The round's stage that turns rewritten texts into exact draws."""

import dataclasses

import jax
import pytest

from ddt_jax import embedded
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import records
from ddt_jax.report import run_rounds
from ddt_jax.rounds import select
from tests.rounds import curate_test

PROJECT = dict(sweeps=3, chains=2)
OPTIONS = dict(fallback='reference', keep=2, samples=1, project=PROJECT)


def some():
  return curate_test.some()[:24]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, curate_test.run(folder, some(), **OPTIONS)


def of_stage(folder, name):
  return [
      records.from_json(line, records.Response)
      for file in sorted((folder / name).glob('0*.jsonl'))
      for line in file.read_text().split('\n')[2:-1]]


def test_projected_texts_replace_the_rewritten_ones(whole):
  folder, corpus = whole
  *_, end = curate_test.student()
  hinted = {r.problem_id: r for r in of_stage(folder, 'rewrite')
            if select.is_accepted(r, end)}
  projected = of_stage(folder, 'project')
  assert [r.problem_id for r in projected] == [i for i in hinted for _ in range(2)]
  assert {r.source for r in projected} == {'projected'}
  assert all(r.correct and r.tokens[-1] == end.id for r in projected)
  moved = [r for r in projected if r.tokens != hinted[r.problem_id].tokens]
  assert 0 < len(moved)
  in_corpus = [r for r in corpus.responses if r.source == 'projected']
  assert {r.problem_id for r in in_corpus} == set(hinted)
  assert {(r.problem_id, r.tokens) for r in in_corpus} <= {
      (r.problem_id, r.tokens) for r in projected}
  assert 'hinted' not in {r.source for r in corpus.responses}
  assert corpus.summary.solved['projected'] == len(hinted)
  assert corpus.summary.sources['projected'].examples == len(in_corpus)
  assert corpus.summary.projected.responses == len(projected)
  # Rejected proposals were drawn, too.
  assert corpus.summary.projected.tokens == sum(r.drawn for r in projected)
  assert all(r.drawn > 0 for r in projected)
  assert all(r.drawn is None for r in hinted.values())
  sampled = corpus.summary.own.tokens + corpus.summary.hinted.tokens
  table = run_rounds.rounds_table([corpus.summary])
  assert table.rows[0][-1] == f'{sampled + corpus.summary.projected.tokens:,}'


def test_a_round_that_was_killed_ends_the_same(whole, tmp_path):
  expected, corpus = whole

  class Stop(Exception):
    pass

  stops = 0
  while True:
    calls = iter(range(4 * stops + 8, 0, -1))

    def check_stop(calls=calls):
      if next(calls) == 1:
        raise Stop

    try:
      found = curate_test.run(
          tmp_path, some(), check_stop=check_stop if stops < 6 else lambda: None,
          **OPTIONS)
      break
    except Stop:
      stops += 1
  assert stops >= 3
  assert curate_test.lines(tmp_path) == curate_test.lines(expected)
  assert dataclasses.replace(
      found.summary, timings=corpus.summary.timings) == corpus.summary


@pytest.mark.slow
def test_eight_devices_write_the_same_texts(whole, tmp_path, monkeypatch):
  _, corpus = whole
  mesh, config, params, words, end = curate_test.student()
  mesh = sharding.make_mesh(devices=jax.devices()[:8])
  _, params = weights.load(embedded.STUDENT, mesh=mesh)
  monkeypatch.setattr(
      curate_test, 'student', lambda: (mesh, config, params, words, end))
  found = curate_test.run(tmp_path, some(), **OPTIONS)
  assert [r.tokens for r in found.responses] == [r.tokens for r in corpus.responses]


@pytest.mark.parametrize('project, said', [
    (dict(sweeps=-1), 'curate.project.sweeps=-1'),
    (dict(sweeps=1, chains=0), 'curate.project.chains=0'),
    (dict(sweeps=1, restarts=1.5), 'curate.project.restarts=1.5')])
def test_invalid_options_are_named(tmp_path, project, said):
  with pytest.raises(ValueError, match=said):
    curate_test.run(tmp_path, some(), project=project)
