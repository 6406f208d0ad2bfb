"""Types, samples and faults of a file, found in one pass."""

import json
import sys

import pyarrow
from pyarrow import parquet
import pytest

from ddt_jax import errors
from ddt_jax.data import census
from tests.support import hub

COLUMNS = dict(
    problem='problem', solution='solution', messages='messages', answer='', id='')


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def row(**more):
  return {'problem': 'p', 'solution': 's'} | more


@pytest.mark.parametrize('block', [1, 1024])
def test_one_type_for_each_column_whatever_the_blocks(
    tmp_path, monkeypatch, block
):
  monkeypatch.setattr(census, '_BLOCK', block)
  rows = [
      row(number=1, mixed=1, meta={'a': 1}, empty={}, large=2**70, late=None),
      row(number=2.5, mixed='x', meta={'b': 'y'}, empty={}, large=1, late='z'),
      row(turns=[{'role': 'user'}]),
  ]
  found = census.take(write(tmp_path / 'x.jsonl', rows), columns=COLUMNS)
  types = {k: str(v) for k, v in found.types.items()}
  assert types == {
      'problem': 'string', 'solution': 'string', 'number': 'double',
      'mixed': census.JSON, 'meta': 'struct<a: int64, b: string>',
      'empty': census.JSON, 'large': census.JSON, 'late': 'string',
      'turns': 'list<item: struct<role: string>>',
  }
  for name, type_ in found.types.items():
    values = census.to_arrow([r.get(name) for r in rows], type_).to_pylist()
    if type_ == census.JSON:
      values = [v and json.loads(v) for v in values]
    if name != 'meta':  # whose two halves are filled up with null
      assert values == [r.get(name) for r in rows], name


def test_a_sample_is_drawn_without_order_and_kept_in_order(tmp_path):
  rows = [row(problem=str(i)) for i in range(50)]
  path = write(tmp_path / 'x.jsonl', rows)
  counts = [0] * 50
  for seed in range(200):
    drawn = [int(p.problem) for p in census.take(
        path, columns=COLUMNS, sample=10, seed=seed).sample]
    assert drawn == sorted(drawn) and len(set(drawn)) == 10
    for i in drawn:
      counts[i] += 1
  assert 15 < min(counts) and max(counts) < 70  # 40 expected


def test_bad_rows_are_listed_or_counted(tmp_path):
  path = write(tmp_path / 'x.jsonl', [row(), row(solution=''), row()])
  with pytest.raises(errors.InputError, match="x.jsonl:2: 'solution' is empty"):
    census.take(path, columns=COLUMNS)
  found = census.take(path, columns=COLUMNS, bad_rows='skip')
  assert (found.rows, found.bad) == (3, 1)
  with pytest.raises(errors.InputError, match='in every row: no column'):
    census.take(write(tmp_path / 'y.jsonl', [{'a': 1}]), columns=COLUMNS)
  with pytest.raises(errors.InputError, match='the file is empty'):
    census.take(write(tmp_path / 'z.jsonl', []), columns=COLUMNS)


def test_layouts_of_others_are_read_and_the_user_s_choice_stands(tmp_path):
  path = write(tmp_path / 'x.jsonl', [{'prompt': 'p', 'response': 's', 'n': 1}])
  found = census.take(path, columns=COLUMNS, sample=1)
  assert [(p.problem, p.solution) for p in found.sample] == [('p', 's')]
  # The columns that are written later are the user's.
  assert list(found.types) == ['prompt', 'response', 'n']
  with pytest.raises(errors.InputError, match="no column 'problem'"):
    census.take(path, columns=COLUMNS | {'solution': 'response'})
  ours = write(tmp_path / 'y.jsonl', [row(prompt='x', response='y')])
  assert census.take(ours, columns=COLUMNS, sample=1).sample[0].problem == 'p'


def test_a_data_set_of_the_hub_is_counted_and_has_a_digest(monkeypatch):
  rows = [row(n=1), row(n=None), row(solution='')]
  monkeypatch.setitem(sys.modules, 'datasets', hub.module({'org/name': rows}))
  found = census.take('org/name', columns=COLUMNS, bad_rows='skip', sample=9)
  assert (found.rows, found.bad, len(found.sample)) == (3, 1, 2)
  assert {k: str(v) for k, v in found.types.items()} == {
      'problem': 'string', 'solution': 'string', 'n': 'int64'}
  assert census.take(
      'org/name', columns=COLUMNS, bad_rows='skip').sha256 == found.sha256
  rows[1]['n'] = 2
  monkeypatch.setitem(sys.modules, 'datasets', hub.module({'org/name': rows}))
  assert census.take(
      'org/name', columns=COLUMNS, bad_rows='skip').sha256 != found.sha256


def test_parquet_keeps_its_types(tmp_path):
  table = pyarrow.table({
      'problem': ['p'], 'solution': pyarrow.array(['s']).dictionary_encode(),
      'n': pyarrow.array([1], pyarrow.int16()),
  })
  parquet.write_table(table, tmp_path / 'x.parquet')
  found = census.take(str(tmp_path / 'x.parquet'), columns=COLUMNS)
  assert {k: str(v) for k, v in found.types.items()} == {
      'problem': 'string', 'solution': 'string', 'n': 'int16'}
