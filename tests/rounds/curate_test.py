"""One round's corpus on the embedded student, stage by stage."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import transformers

from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import sharding
from ddt_jax import verify
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import records
from ddt_jax.embedded import problems
from ddt_jax.rounds import answers
from ddt_jax.rounds import curate
from ddt_jax.rounds import select
from ddt_jax.scoring import forward

HINT = dict(template='short', max_analysis_tokens=192, beta=3.0,
            temperature=0.3, top_p=0.95)
SILENT = records.Problem('no-answer', 'Say hello.', 'Hello.')


@functools.cache
def student():
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  config, params = weights.load(embedded.STUDENT, mesh=mesh)
  words = transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)
  return mesh, config, params, words, chat.turn_end(words, config.eos_ids)


@functools.cache
def some():
  return (*problems.problems('train', 40), SILENT)


OPTIONS = {field.name for field in dataclasses.fields(select.Options)}


def run(folder, chosen=None, *, hint=True, check_stop=lambda: None,
        made_from=None, overlong='truncate', **options):
  mesh, config, params, words, end = student()
  problems_of_round = chosen or some()
  assert options.keys() <= OPTIONS
  context = curate.Context(
      params, config, words, end,
      decoding=dict(eos_ids=config.eos_ids, slots=32, mesh=mesh),
      verifier=dict(workers=1, timeout_s=5.0), mesh=mesh, rows=32,
      max_tokens=256)
  references = lengths.prepare(
      words, problems_of_round, end, 256, overlong=overlong)
  return curate.curate(
      context, problems_of_round,
      select.Options(**dict(max_new_tokens=96, shard=16) | options),
      answers.Rewriting(enabled=hint, **HINT), references=references.by_id,
      folder=folder, made_from=made_from or {'step': 0}, key=jax.random.key(0),
      check_stop=check_stop)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, run(folder, fallback='reference', keep=2)


def test_every_problem_is_answered_by_somebody(whole):
  _, corpus = whole
  by_source = {source: {r.problem_id for r in corpus.responses
                        if r.source == source} for source in select.SOURCES}
  assert all(by_source.values())
  assert set.union(*by_source.values()) == {p.id for p in some()}
  assert sum(map(len, by_source.values())) == len(some())  # one source each
  assert SILENT.id in by_source['reference']
  assert corpus.summary.unanswerable == 1
  assert corpus.summary.solved == {k: len(v) for k, v in by_source.items()}


def test_what_the_model_wrote_is_right_ends_and_is_kept_once(whole):
  _, corpus = whole
  *_, end = student()
  seen = set()
  for r, p in zip(corpus.responses, corpus.problems, strict=True):
    assert r.problem_id == p.id
    assert r.tokens[-1] == end.id
    assert (r.problem_id, r.tokens) not in seen
    seen.add((r.problem_id, r.tokens))
    if r.source != 'reference':
      assert r.correct and verify.verify(r.text, p.answer, kind=p.kind).correct
  own = [r.problem_id for r in corpus.responses if r.source == 'own']
  assert max(map(own.count, own)) == 2


def test_phi_is_that_of_the_training_forward(whole):
  _, corpus = whole
  mesh, config, params, _, _ = student()
  stats = forward.token_stats(
      params, config, corpus.examples, batch=8, mesh=mesh)
  for r, s, e in zip(corpus.responses, stats, corpus.examples, strict=True):
    np.testing.assert_allclose(r.phi, s.phi.mean(), atol=1e-5)
    assert tuple(e.tokens[e.supervised]) == r.tokens  # never encoded again


def lines(folder, corpus='corpus'):
  """Every record of every stage, without the times; and the file of the corpus."""
  return {
      file.relative_to(folder): file.read_text().split('\n')[2:]
      for file in sorted(folder.rglob('0*.jsonl'))
  } | {'corpus': (folder / f'{corpus}.jsonl').read_text()}


def test_a_call_that_was_interrupted_ends_the_same(whole, tmp_path):
  expected, corpus = whole

  class Stop(Exception):
    pass

  stops = 0
  while True:
    calls = iter(range(stops + 1, 0, -1))

    def check_stop(calls=calls):
      if next(calls) == 1:
        raise Stop

    try:
      found = run(tmp_path, fallback='reference', keep=2, check_stop=check_stop)
    except Stop:
      stops += 1
      if stops < 9:
        continue
      found = run(tmp_path, fallback='reference', keep=2)
    break
  assert stops >= 3
  assert lines(tmp_path) == lines(expected)
  assert dataclasses.replace(
      found.summary, timings=corpus.summary.timings) == corpus.summary


def test_nothing_is_made_from_other_parameters(whole):
  folder, _ = whole
  with pytest.raises(ValueError, match='00000.jsonl was made from'):
    run(folder, fallback='reference', keep=2, made_from={'step': 1})


def test_nothing_sampled_nothing_hinted_are_the_references(tmp_path):
  corpus = run(tmp_path, samples=0, hint=False, fallback='reference')
  _, _, _, words, end = student()
  for p, e in zip(some(), corpus.examples, strict=True):
    expected = chat.encode(words, p.conversation, end)
    assert [*map(list, e)] == [*map(list, expected)]
  assert corpus.summary.solved == {
      'own': 0, 'hinted': 0, 'reference': len(some())}


def test_rejection_sampling_drops_what_is_not_solved(tmp_path):
  corpus = run(tmp_path, hint=False, fallback='drop')
  assert {r.source for r in corpus.responses} == {'own'}
  assert 0 < len(corpus.responses) < len(some())
  assert corpus.summary.own.responses == 2 * (len(some()) - 1)


def test_references_below_a_bound_are_left_out(tmp_path):
  options = dict(samples=0, hint=False)
  corpus = run(tmp_path / 'all', fallback='reference', **options)
  bound = float(np.median([r.phi for r in corpus.responses]))
  found = run(
      tmp_path / 'bound', fallback='reference_if_phi_above', min_phi=bound,
      **options,
  )
  assert found.responses == [r for r in corpus.responses if r.phi >= bound]
  below = len(corpus.responses) - len(found.responses)
  assert found.summary.dropped['phi below min_phi'] == below > 0


def test_the_lowest_phi_of_the_model_s_own_are_left_out(whole, tmp_path):
  _, corpus = whole
  found = run(tmp_path, fallback='reference', keep=2, drop_lowest=0.25)
  phi = sorted(r.phi for r in corpus.responses if r.source != 'reference')
  dropped = found.summary.dropped['lowest phi']
  assert dropped == len(phi) // 4
  kept = [r.phi for r in found.responses if r.source != 'reference']
  assert min(kept) == phi[dropped]


def test_two_problems_with_the_same_words_are_trained_on_once(tmp_path):
  first = some()[0]
  twin = dataclasses.replace(first, id='twin')
  corpus = run(
      tmp_path, [first, twin], samples=0, hint=False, fallback='reference')
  assert [r.problem_id for r in corpus.responses] == [first.id]


def test_a_response_that_is_cut_off_wholly_is_left_out(tmp_path):
  long = records.Problem('long', 'word ' * 300, 'Yes.')
  corpus = run(
      tmp_path, [long, some()[0]], samples=0, hint=False, fallback='reference')
  assert [r.problem_id for r in corpus.responses] == [some()[0].id]
  assert corpus.summary.dropped['too long'] == 1


@pytest.mark.parametrize('fallback, sources', [
    ('reference', ['own', 'reference']), ('drop', ['own'])])
def test_the_reference_stands_in_for_a_right_answer_that_is_too_long(
    fallback, sources):
  mesh, config, params, words, end = student()
  context = curate.Context(
      params, config, words, end, {}, {}, mesh, rows=1, max_tokens=64)
  p = some()[0]
  reference = chat.Example(np.arange(5), np.ones(5, bool))
  pairs = curate._candidates(
      context, [p], {p.id: [1, 2]},
      {p.id: [records.Response(p.id, tuple(range(100)), 'x', 'eos', source='own')]},
      {p.id: reference}, fallback)
  assert [r.source for r, _ in pairs] == sources
  assert [e for _, e in pairs] == [None, reference][:len(sources)]


@pytest.mark.parametrize('options, message', [
    ({'fallback': 'refrence'}, "curate.fallback='refrence'"),
    ({'samples': -1}, 'curate.samples'),
    ({'keep': 0}, 'curate.keep'),
    ({'drop_lowest': 1.0}, 'curate.drop_lowest 1.0'),
])
def test_invalid_options_are_named(tmp_path, options, message):
  with pytest.raises(ValueError, match=message):
    run(tmp_path, **options)
  assert not list(tmp_path.iterdir())


def test_rows_in_chat_format(whole):
  _, corpus = whole
  row = curate.to_chat(corpus.responses[0], corpus.problems[0])
  assert json.loads(json.dumps(row)) == row
  assert [turn['role'] for turn in row['messages']] == ['user', 'assistant']
  assert row['messages'][1]['content'] == corpus.responses[0].text
  assert row['source'] in select.SOURCES and np.isfinite(row['phi'])


def references_alone(folder, chosen, **options):
  return run(folder, chosen, hint=False, samples=0, fallback='reference', **options)


def test_references_alone_need_no_scores(tmp_path):
  chosen = (*some()[:6], dataclasses.replace(some()[2], id='twice'), SILENT)
  scored = references_alone(tmp_path / 'scored', chosen)
  corpus = references_alone(tmp_path / 'alone', chosen, score=False)
  assert corpus.problems == scored.problems and len(corpus.problems) == 7
  jax.tree.map(np.testing.assert_array_equal, corpus.examples, scored.examples)
  assert [(r.problem_id, r.text, r.phi) for r in corpus.responses] == [
      (r.problem_id, r.text, None) for r in scored.responses]
  found, wanted = (c.summary for c in (corpus, scored))
  assert found.solved == wanted.solved and found.unanswerable == 1
  assert found.sources['reference'].phi is None
  assert found.sources['reference'].tokens == wanted.sources['reference'].tokens
  # Other references are refused on resuming.
  references_alone(tmp_path / 'alone', chosen, score=False)
  other = dataclasses.replace(chosen[0], solution='Another one.')
  with pytest.raises(errors.InputError, match='references.json was made from'):
    references_alone(tmp_path / 'alone', (other, *chosen[1:]), score=False)


@pytest.mark.parametrize('options', [dict(samples=1), dict(fallback='drop')])
def test_what_the_model_writes_is_always_scored(options):
  with pytest.raises(errors.InputError, match='score=False is for references alone'):
    select.Options(**dict(samples=0, fallback='reference', score=False) | options)
