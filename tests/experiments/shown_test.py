"""Which problems of a round the report shows; where a run was made."""

import re

import jax

from ddt_jax import storage
from ddt_jax.data import records
from experiments.run import provenance
from experiments.run import shown


def response(problem, source, correct, finish='eos'):
  return records.Response(
      problem, (1, 2), f'{source} {correct}', finish, source, correct)


def write(folder):
  records.write_jsonl(folder / 'corpus.jsonl', [
      response('a', 'own', True), *(
          response(name, 'hinted', True) for name in 'bcdef')])
  (folder / 'sample').mkdir()
  for i, rows in enumerate((
      [response('a', 'own', False), response('b', 'own', False, 'length'),
       response('c', 'own', None), response('c', 'own', False)],
      [response('e', 'own', False), response('f', 'own', False)])):
    file = folder / 'sample' / f'{i:05d}.jsonl'
    file.write_text('digest\n{}\n' + ''.join(records.to_json(r) + '\n' for r in rows))
  return storage.path(folder)


def test_rewritten_problems_stand_beside_a_wrong_answer_that_ended(tmp_path):
  folder = write(tmp_path)
  found = shown.rewritten(folder, 10)
  assert [hinted.problem_id for hinted, _ in found] == ['c', 'e', 'f']
  for hinted, wrong in found:
    assert hinted.problem_id == wrong.problem_id
    assert (hinted.source, hinted.correct) == ('hinted', True)
    assert (wrong.source, wrong.correct, wrong.finish) == ('own', False, 'eos')
  assert len(shown.rewritten(folder, 2)) == 2
  assert shown.rewritten(folder, 0) == []


def test_a_round_without_rewriting_shows_none(tmp_path):
  assert shown.rewritten(storage.path(tmp_path), 10) == []


def test_a_run_names_its_versions_and_devices():
  found = provenance.machine()
  assert f'jax {jax.__version__}' in found.versions
  assert re.search(r'ddt_jax (\d|commit [0-9a-f]{7}|not installed)', found.versions)
  assert found.devices == f'{jax.device_count()} x {jax.devices()[0].device_kind}'
