"""One round's pairs on the embedded student: counts, references, resuming."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax.data import pair_batches
from ddt_jax.embedded import problems
from ddt_jax.rounds import curate
from ddt_jax.rounds import pair_corpus
from ddt_jax.rounds import select
from ddt_jax.training import pair_loss
from tests.rounds import curate_test

CHOSEN = (*problems.problems('train', 24), curate_test.SILENT)


def run(folder, *, max_tokens=256, made_from=None, **how):
  mesh, config, params, words, end = curate_test.student()
  context = curate.Context(
      params, config, words, end,
      decoding=dict(eos_ids=config.eos_ids, slots=64, mesh=mesh),
      verifier=dict(workers=1, timeout_s=5.0), mesh=mesh, rows=32,
      max_tokens=max_tokens)
  return pair_corpus.make(
      context, CHOSEN,
      select.Options(samples=4, keep=2, max_new_tokens=96, shard=10),
      folder=folder, made_from=made_from or {'step': 0}, key=jax.random.key(0), **how)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, run(folder)


def test_every_pair_is_right_against_wrong_and_every_problem_is_counted(whole):
  _, corpus = whole
  *_, end = curate_test.student()
  found = corpus.summary
  assert found.pairs.pairs == len(corpus.pairs) == len(corpus.examples) > 4
  assert found.unanswerable == 1 and found.dropped == {'too long': 0}
  assert found.problems - 1 == sum(
      dataclasses.astuple(found.pairs)[1:])  # each has one fate
  assert found.sources['chosen'].examples == len(corpus.pairs)
  for pair, p, e in zip(
      corpus.pairs, corpus.problems, corpus.examples, strict=True):
    assert pair.problem_id == p.id
    assert pair.chosen.correct is True and pair.rejected.correct is False
    for side, tokens in ((pair.chosen, e.chosen), (pair.rejected, e.rejected)):
      assert tuple(tokens.tokens[tokens.supervised]) == side.tokens
      assert side.tokens[-1] == end.id
    # The same prompt.
    first = int(e.chosen.supervised.argmax())
    np.testing.assert_array_equal(
        e.chosen.tokens[:first], e.rejected.tokens[:first])


def test_the_reference_is_the_model_itself_at_the_first_step(whole):
  _, corpus = whole
  _, config, params, _, _ = curate_test.student()
  batch = pair_batches.collate(corpus.examples[:4], 4, 255)
  rule = pair_loss.Preference('dpo')
  total, (count, sums) = jax.jit(
      lambda p: pair_loss.loss_sums(p, config, batch, rule))(params)
  np.testing.assert_allclose(total / count, np.log(2), atol=1e-4)
  assert abs(sums['rewards/margins']) < 1e-3
  np.testing.assert_allclose(
      sums['logps/chosen'], batch.reference[:, 0].sum(), rtol=1e-4)


def test_a_call_that_was_interrupted_ends_the_same(whole, tmp_path):
  expected, corpus = whole

  class Stop(Exception):
    pass

  looks = []

  def stop():
    looks.append(1)
    if len(looks) == 4:
      raise Stop

  calls = 0
  while True:
    calls += 1
    try:
      again = run(tmp_path, check_stop=stop)
      break
    except Stop:
      looks.clear()
      looks.extend([1] * 4)  # no more stops
  assert calls == 2
  for e, f in zip(corpus.examples, again.examples, strict=True):
    jax.tree.map(np.testing.assert_array_equal, e, f)
  assert (tmp_path / 'pairs.jsonl').read_text() == (
      expected / 'pairs.jsonl').read_text()
  assert curate_test.lines(tmp_path, 'pairs') == curate_test.lines(expected, 'pairs')


def test_nothing_is_made_anew_where_it_is_there(whole):
  folder, corpus = whole
  again = run(folder, complete=True)
  assert again.summary == corpus.summary
  with pytest.raises(errors.InputError, match='was made from'):
    run(folder, made_from={'step': 1})


def test_long_pairs_are_left_out_and_counted(whole, tmp_path):
  _, corpus = whole
  longest = max(len(s.tokens) for s in pair_batches.sides(corpus.examples))
  cut = run(tmp_path, max_tokens=longest - 1)
  assert cut.summary.dropped['too long'] >= 1
  assert len(cut.examples) == len(corpus.examples) - cut.summary.dropped['too long']
  assert cut.summary.pairs == corpus.summary.pairs


def test_the_file_beside_the_shards_is_that_of_trl(whole):
  folder, corpus = whole
  rows = [json.loads(x) for x in (folder / 'pairs.jsonl').read_text().splitlines()]
  assert [row['id'] for row in rows] == [p.problem_id for p in corpus.pairs]
  assert rows[0]['chosen'] == [
      {'role': 'assistant', 'content': corpus.pairs[0].chosen.text}]
