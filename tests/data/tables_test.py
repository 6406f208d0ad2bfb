"""Files of rows, as `datasets` gives them to TRL."""

import datasets
import pytest

from ddt_jax.data import readers
from ddt_jax.data import records
from ddt_jax.data import tables
from ddt_jax.rounds import curate

PROBLEMS = [
    records.Problem(name, f'What is {name} + 1?', 'It is \\boxed{2}.', '2')
    for name in '12']


@pytest.mark.parametrize('kind, suffix', [('json', 'jsonl'), ('parquet', 'parquet')])
def test_a_curated_corpus_is_read_by_datasets_as_chats(tmp_path, kind, suffix):
  texts = ['naïve \u2028 \\boxed{2}', '\\boxed{2}\n']
  rows = [
      curate.to_chat(records.Response(p.id, (1,), text, 'eos', phi=phi), p)
      for p, text, phi in zip(PROBLEMS, texts, (None, -0.25), strict=True)]
  file = tmp_path / f'corpus.{suffix}'
  tables.write(file, rows)
  read = datasets.load_dataset(
      kind, data_files=str(file), split='train', cache_dir=str(tmp_path / 'cache'))
  # TRL's SFTTrainer takes the column `messages` and leaves the others out.
  assert list(read) == rows
  assert [m[-1]['content'] for m in read['messages']] == texts
  assert {tuple(turn) for m in read['messages'] for turn in m} == {('role', 'content')}
  again, bad = readers.read(str(file))
  assert not bad and [p.solution for p in again] == texts
