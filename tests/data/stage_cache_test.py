"""Shards are made once, survive a kill, and damage never passes unseen."""

import json
import logging

import pytest

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
  stage = stage_cache.Shards(folder, made_from)
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
  with pytest.raises(ValueError, match='00000.jsonl was made from.*step.: 12'):
    run(tmp_path, made_from=FROM | {'step': 13})


def test_no_items_no_shards_but_a_manifest(tmp_path):
  stage = stage_cache.Shards(tmp_path, FROM)
  assert list(stage.map(unused, [], records.Response, size=3)) == []
  assert json.loads((tmp_path / stage_cache.MANIFEST).read_text())['records'] == []
