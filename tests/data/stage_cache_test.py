"""Cached blocks are made once, survive a kill, and damage is always noticed."""

import json
import logging

import pytest

from ddt_jax import errors
from ddt_jax.data import records
from ddt_jax.data import stage_cache

ITEMS = [f'p{i}' for i in range(7)]
FROM = {'step': 12, 'seed': 0}


def make(first, items):
  # U+2028 ends a line for some splitters.
  return [
      records.Response(item, (first, i), 'a\u2028b', 'eos', correct=True)
      for i, item in enumerate(items)
  ]


def unused(first, items):
  raise AssertionError(f'shard of item {first} was made twice')


def run(folder, how=make, made_from=FROM):
  stage = stage_cache.StageCache(folder, made_from)
  return [
      records for records, _ in stage.map(how, ITEMS, records.Response, size=3)
  ]


def test_what_was_made_is_read_and_not_made_again(tmp_path):
  first = run(tmp_path)
  assert [len(shard) for shard in first] == [3, 3, 1]
  assert run(tmp_path, unused) == first
  manifest = json.loads((tmp_path / stage_cache.MANIFEST).read_text())
  assert manifest['made_from'] == FROM
  assert (manifest['items'], manifest['records']) == (7, [3, 3, 1])


def test_an_interrupted_stage_goes_on_at_the_first_shard_that_is_missing(tmp_path):
  def killed(first, items):
    if first == 3:
      raise KeyboardInterrupt
    return make(first, items)

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, killed)
  assert not (tmp_path / stage_cache.MANIFEST).exists()
  asked = []

  def again(first, items):
    asked.append(first)
    return make(first, items)

  found = run(tmp_path, again)
  assert asked == [3, 6]
  assert found == run(tmp_path / 'whole')


def damages(data):
  """Every truncation, and every byte with one of its bits flipped."""
  yield b''
  for i in range(len(data)):
    yield data[:i]
    yield data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1:]


def test_damage_anywhere_is_named_and_made_good(tmp_path, caplog):
  whole = run(tmp_path)
  file = tmp_path / '00002.jsonl'
  data = file.read_bytes()
  with caplog.at_level(logging.WARNING, logger='absl'):
    for i, damaged in enumerate(damages(data)):
      file.write_bytes(damaged)
      caplog.clear()
      assert run(tmp_path) == whole, i
      assert str(file) in caplog.text, i


def test_shards_of_something_else_are_refused_by_file(tmp_path):
  run(tmp_path)
  with pytest.raises(
      errors.InputError,
      match='00000.jsonl was made from .*12.*, not from .*13.*delete the folder',
  ):
    run(tmp_path, made_from=FROM | {'step': 13})


def test_the_files_of_earlier_versions_are_still_read(tmp_path):
  # Written by hand: another layout would make half-finished runs start anew.
  body = (
      '{"made_from": {"step": 12, "seed": 0}, "seconds": 1.5}\n'
      '{"problem_id": "p0", "tokens": [0, 1], "text": "x", "finish": "eos",'
      ' "source": "own", "correct": null, "extracted": null, "reason": "",'
      ' "phi": -0.25}\n'
  )
  # From `printf ... | sha256sum`.
  sha256 = '4db729b57db8c3f72636dc441a3b73ec54ea4d98cdfd521e4c4bbbca57f2ad52'
  (tmp_path / '00000.jsonl').write_text(f'{sha256}\n{body}')
  stage = stage_cache.StageCache(tmp_path, FROM)
  (found, seconds), = stage.map(unused, ['p0'], records.Response, size=3)
  assert found == [records.Response('p0', (0, 1), 'x', 'eos', phi=-0.25)]
  assert seconds == 1.5


def test_a_file_under_replacement_may_have_either_content(tmp_path, caplog):
  file = tmp_path / 'a.parquet'
  both = {stage_cache.digest(b'old'), stage_cache.digest(b'new')}
  assert stage_cache.is_intact(file, b'old', both)
  assert stage_cache.is_intact(file, b'new', both)
  assert not caplog.text
  with caplog.at_level(logging.WARNING, logger='absl'):
    for content in (b'torn', b'', None):
      caplog.clear()
      assert not stage_cache.is_intact(file, content, both)
      assert f'{file} is damaged' in caplog.text


def test_no_items_no_shards_but_a_manifest(tmp_path):
  stage = stage_cache.StageCache(tmp_path, FROM)
  assert list(stage.map(unused, [], records.Response, size=3)) == []
  assert json.loads((tmp_path / stage_cache.MANIFEST).read_text())['records'] == []


def test_a_complete_cache_makes_nothing(tmp_path):
  items = list(range(5))

  def make(first, block):
    return [records.Problem(str(i), 'x') for i in block]

  list(stage_cache.StageCache(tmp_path, {}).map(
      make, items, records.Problem, size=2))
  complete = stage_cache.StageCache(tmp_path, {}, complete=True)
  found = [
      p.id for block, _ in complete.map(None, items, records.Problem, size=2)
      for p in block]
  assert found == ['0', '1', '2', '3', '4']
  (tmp_path / '00001.jsonl').unlink()
  with pytest.raises(errors.InputError, match='00001.jsonl is missing'):
    list(complete.map(None, items, records.Problem, size=2))


def test_others_read_a_stage_once_it_is_finished(tmp_path):
  with pytest.raises(errors.InputError, match='the stage is not finished'):
    stage_cache.finished(tmp_path, records.Response)
  shards = run(tmp_path)
  found = stage_cache.finished(tmp_path, records.Response)
  assert found == [r for shard in shards for r in shard]
  damaged = tmp_path / '00001.jsonl'
  damaged.write_text(damaged.read_text()[:-9])
  with pytest.raises(errors.InputError, match='missing or damaged'):
    stage_cache.finished(tmp_path, records.Response)
