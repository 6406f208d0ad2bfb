"""Scores on disk: whole, resumable, as they came, in both formats."""

import functools
import json
import pathlib
import re

import jax
import numpy as np
from pyarrow import parquet
import pytest
import transformers

from ddt_jax import embedded
from ddt_jax import errors
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.embedded import problems
from ddt_jax.scoring import columns
from ddt_jax.scoring import corpus_summary
from ddt_jax.scoring import filters
from ddt_jax.scoring import forward
from ddt_jax.scoring import scored_corpus
from ddt_jax.scoring import sources
from experiments.run import inputs
from tests.data import templates_test

README = pathlib.Path(__file__).parents[2] / 'experiments' / 'README.md'
COLUMNS = dict(
    problem='problem', solution='solution', messages='messages', answer='', id='')
mesh = functools.cache(lambda: sharding.make_mesh(devices=jax.devices()[:1]))
load = functools.cache(lambda: weights.load(embedded.STUDENT, mesh=mesh()))
tokenizer = functools.cache(
    lambda: transformers.AutoTokenizer.from_pretrained(embedded.STUDENT))


def rows(n=12):
  """With columns of every kind."""
  return [
      {'problem': p.problem, 'solution': p.solution, 'n': i, 'mixed': [i, 'x'][i % 2],
       'meta': {'deep': [i]}, 'none': None, 'phi': 0.5 * i, 'text': 'é\u2028"'}
      for i, p in enumerate(problems.problems('test', n))
  ]


def source(path, found=None, words=None, **options):
  config, _ = load()
  words = words or tokenizer()
  options = dict(max_tokens=200) | options
  found = found or census.take(
      path, columns=COLUMNS, bad_rows=options.get('bad_rows', 'error'))
  return sources.File(
      str(path), COLUMNS, {}, found, words, chat.turn_end(words, config.eos_ids),
      options.pop('vocab_size', config.vocab_size), **options)


def write(path, some):
  path.write_text(''.join(
      row if isinstance(row, str) else json.dumps(row) + '\n' for row in some))
  return path


def make(folder, path, after=lambda rows: None, size=5, **options):
  config, params = load()
  corpus = scored_corpus.ScoredCorpus(
      folder, source(path, **options), size=size, made_from={'seed': 0})
  corpus.score(
      functools.partial(
          forward.dispatch, params, config, mesh=mesh(), batch=1, tokens=512,
          tail=True),
      seed=0, after=after)
  return corpus


def lines(folder):
  return [
      json.loads(line) for file in sorted(folder.glob('*.jsonl'))
      for line in file.read_text().split('\n')[:-1]
  ]


def content(folder):
  return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_rows_keep_their_columns_and_get_scores_in_both_formats(tmp_path):
  given = rows()
  folder = tmp_path / 'scores'
  corpus = make(folder, write(tmp_path / 'in.jsonl', given))
  assert len(list(folder.glob('*.parquet'))) == 3
  found = lines(folder)
  assert [{k: row[k] for k in given[0]} for row in found] == given
  table = parquet.read_table([*sorted(folder.glob('*.parquet'))])
  assert table['meta'].to_pylist() == [row['meta'] for row in given]
  assert [json.loads(x) for x in table['mixed'].to_pylist()] == [
      row['mixed'] for row in given]
  for row, other in zip(found, table.to_pylist(), strict=True):
    assert row['ddt_line'] == other['ddt_line']
    for name in columns.TOKENS:
      key = f'ddt_token_{name}'
      assert len(row[key]) == row['ddt_length']
      np.testing.assert_allclose(row[key], other[key], atol=6e-5)
    assert row['ddt_rank'] == other['ddt_rank']
    assert row['ddt_rejected'] == other['ddt_rejected']
    np.testing.assert_allclose(other['ddt_phi'], np.mean(other['ddt_token_phi']))
  order = np.argsort([row['ddt_phi'] for row in found])
  assert [found[i]['ddt_rank'] for i in order] == list(range(1, 13))

  # The same numbers as by the statistics of the texts one after another.
  config, params = load()
  examples = [e for _, e in corpus.examples(range(12))]
  alone = forward.token_stats(params, config, examples, batch=1, mesh=mesh())
  for row, stats, example in zip(table.to_pylist(), alone, examples, strict=True):
    np.testing.assert_allclose(row['ddt_token_phi'], stats.phi, atol=2e-5)
    assert row['ddt_token_ids'] == example.tokens[example.supervised].tolist()


def test_parquet_goes_in_as_jsonl_does(tmp_path):
  given = [{k: v for k, v in row.items() if k != 'mixed'} for row in rows(4)]
  make(tmp_path / 'one', write(tmp_path / 'in.jsonl', given))
  import pyarrow
  parquet.write_table(pyarrow.Table.from_pylist(given), tmp_path / 'in.parquet')
  make(tmp_path / 'two', tmp_path / 'in.parquet')
  assert lines(tmp_path / 'one') == lines(tmp_path / 'two')


def test_what_was_stopped_or_damaged_ends_the_same(tmp_path):
  path = write(tmp_path / 'in.jsonl', rows())
  make(tmp_path / 'whole', path)
  expected = content(tmp_path / 'whole')

  class Stop(Exception):
    pass

  def stop(rows):
    if rows:
      raise Stop

  folder = tmp_path / 'cut'
  with pytest.raises(Stop):
    make(folder, path, after=stop)
  assert len(list(folder.glob('*.parquet'))) == 1
  kept = (folder / '00000.parquet').stat().st_mtime_ns
  with pytest.raises(Stop):
    make(folder, path, after=stop)  # the first is there, and no other
  assert (folder / '00000.parquet').stat().st_mtime_ns == kept
  make(folder, path)
  assert content(folder) == expected
  for name in ('00001.parquet', '00002.jsonl', '00000.json'):
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    make(folder, path)
    assert content(folder) == expected, name


@pytest.mark.parametrize('published', [0, 1, 2, 3])
def test_a_kill_while_ranking_loses_no_part(tmp_path, monkeypatch, published):
  path = write(tmp_path / 'in.jsonl', rows())
  make(tmp_path / 'whole', path)
  real, count = scored_corpus.storage.publish, None

  def publish(file, data):
    nonlocal count
    if count is not None:
      if count == published:
        raise KeyboardInterrupt
      count += 1
    real(file, data)

  monkeypatch.setattr(scored_corpus.storage, 'publish', publish)
  rank = scored_corpus.ScoredCorpus._rank

  def killed(self):
    nonlocal count
    count = 0
    rank(self)

  monkeypatch.setattr(scored_corpus.ScoredCorpus, '_rank', killed)
  with pytest.raises(KeyboardInterrupt):
    make(tmp_path / 'cut', path)
  monkeypatch.undo()
  scored = []
  make(tmp_path / 'cut', path, after=scored.append)
  assert scored == [12]  # all were there
  assert content(tmp_path / 'cut') == content(tmp_path / 'whole')


def test_another_file_or_config_is_refused(tmp_path):
  path = write(tmp_path / 'in.jsonl', rows(3))
  make(tmp_path / 'scores', path)
  write(path, rows(4))
  with pytest.raises(errors.InputError, match='was made from'):
    make(tmp_path / 'scores', path)
  scored = lines(tmp_path / 'scores')
  again = write(tmp_path / 'again.jsonl', scored)
  with pytest.raises(errors.InputError, match="'ddt_line' already"):
    make(tmp_path / 'twice', again)


def bad_rows():
  good = rows(3)
  return [
      good[0], '{"problem": \n', dict(good[1], solution=''), good[1],
      dict(good[2], solution='9 ' * 300), dict(good[2], problem='9 ' * 300),
      good[2],
  ]


def test_broken_empty_and_overlong_rows_are_named_and_counted(tmp_path):
  path = write(tmp_path / 'in.jsonl', bad_rows())
  corpus = make(tmp_path / 'scores', path, bad_rows='skip')
  assert [row['ddt_line'] for row in lines(tmp_path / 'scores')] == [1, 4, 5, 7]
  skipped = dict(corpus.skipped())
  assert sorted(skipped) == [2, 3, 6] and corpus.truncated() == 1
  assert 'broken JSON' in skipped[2] and "'solution' is empty" in skipped[3]
  assert 'more than data.max_tokens=200' in skipped[6]
  cut = lines(tmp_path / 'scores')[2]
  assert cut['ddt_truncated'] and cut['ddt_length'] < 200

  dropped = make(tmp_path / 'dropped', path, bad_rows='skip', overlong='drop')
  assert sorted(dict(dropped.skipped())) == [2, 3, 5, 6]
  with pytest.raises(errors.InputError, match=r'in.jsonl:2: broken JSON'):
    make(tmp_path / 'refused', path)
  long = write(tmp_path / 'long.jsonl', [bad_rows()[0], bad_rows()[4]])
  with pytest.raises(errors.InputError, match=r'long.jsonl:2: \d+ tokens'):
    make(tmp_path / 'long', long, overlong='error')


def test_a_thinking_template_splits_chats_as_training_does(tmp_path):
  words = templates_test.tokenizer(templates_test.THINKING)
  rows = [{'messages': templates_test.TWO}, {'messages': templates_test.TWO[:2]}]
  path = write(tmp_path / 'in.jsonl', rows)
  counted = []
  corpus = make(
      tmp_path / 'scores', path, words=words, size=1, after=counted.append)
  found = lines(tmp_path / 'scores')
  assert [(row['ddt_line'], row['ddt_turn']) for row in found] == [
      (1, 1), (1, 3), (2, 1)]
  assert all(row['messages'] == rows[row['ddt_line'] - 1]['messages']
             for row in found)
  assert corpus.split() == 1 and sum(counted) == 2  # lines, not examples
  # The examples are those of training.
  fitted = inputs.load_data(
      words, chat.turn_end(words), evaluation_problems=0, name='', path=str(path),
      max_tokens=200, overlong='error', validation=0.0, evaluation=0.0)[1]
  for (_, example), other in zip(
      corpus.examples(range(3)), fitted.examples, strict=True):
    np.testing.assert_array_equal(example.tokens, other.tokens)
    np.testing.assert_array_equal(example.supervised, other.supervised)
  summary = corpus_summary.describe(corpus)
  assert (summary.rows, summary.split, summary.responses) == (2, 1, 3)

  with pytest.raises(errors.InputError, match=(
      'in.jsonl:1: .*not prefix-stable at turn 3.*data.split_turns=True')):
    make(tmp_path / 'off', path, words=words, split_turns=False)
  off = make(
      tmp_path / 'skip', path, words=words, split_turns=False, bad_rows='skip')
  assert [line for line, _ in off.skipped()] == [1] and off.split() == 0


def test_tokens_that_the_model_does_not_know(tmp_path):
  path = write(tmp_path / 'in.jsonl', rows(3))
  corpus = make(tmp_path / 'skip', path, bad_rows='skip', vocab_size=5)
  assert [line for line, _ in corpus.skipped()] == [1, 2, 3]
  assert 'the model knows 5 tokens' in dict(corpus.skipped())[1]
  assert lines(tmp_path / 'skip') == []
  with pytest.raises(errors.InputError, match='in.jsonl:1: the token .* has the id'):
    make(tmp_path / 'error', path, vocab_size=5)


def test_a_model_that_is_not_finite_is_named_by_row(tmp_path):
  config, params = load()
  broken = jax.tree.map(lambda x: x * np.nan, params)
  corpus = scored_corpus.ScoredCorpus(
      tmp_path / 'x', source(write(tmp_path / 'in.jsonl', rows(2))), size=5,
      made_from={})
  with pytest.raises(errors.InputError, match='in.jsonl:1: .* no finite'):
    corpus.score(functools.partial(
        forward.dispatch, broken, config, mesh=mesh(), batch=1, tail=True), seed=0)


def test_a_large_file_is_not_held(tmp_path, monkeypatch):
  """No more rows are alive than two corpus have."""
  path = write(tmp_path / 'in.jsonl', rows(40))
  alive = set()
  most = 0

  class Counted(sources.Row):
    def __new__(cls, *args, **kwargs):
      nonlocal most
      self = super().__new__(cls, *args, **kwargs)
      alive.add(id(self))
      most = max(most, len(alive))
      return self

    def __del__(self):
      alive.discard(id(self))

  monkeypatch.setattr(sources, 'Row', Counted)
  make(tmp_path / 'scores', path, size=4)
  assert 4 < most <= 12


def test_the_kept_rows_are_the_user_s_own(tmp_path):
  corpus = make(tmp_path / 'scores', write(tmp_path / 'mine.jsonl', rows(8)))
  file = storage.path(tmp_path / 'kept.jsonl')
  given = json.loads(json.dumps(rows(8)))
  assert filters.write(corpus, 'all', file) == (8, 8)
  assert [json.loads(line) for line in file.read_text().split('\n')[:-1]] == given
  phi = corpus.columns('phi')['phi']
  bound = float(np.sort(phi)[3])
  assert filters.write(corpus, f'phi>{bound:.9f}', file)[0] in (4, 5)  # rounded
  kept = [json.loads(line) for line in file.read_text().split('\n')[:-1]]
  assert kept == [row for row, x in zip(given, phi, strict=True)
                  if x > float(f'{bound:.9f}')]


def test_every_column_is_documented(tmp_path):
  corpus = make(tmp_path / 'scores', write(tmp_path / 'mine.jsonl', rows(8)))
  section = README.read_text().split('### Columns of scores')[1].split('\n#')[0]
  said = set()
  for cell in re.findall(r'^\| (.*?) \|', section, re.MULTILINE)[1:]:
    said |= set(re.findall(r'`(ddt_\w+)`', cell))
  (table, *_), (row, *_) = corpus.tables(), corpus.rows()
  written = {name for name in table.column_names if name.startswith('ddt_')}
  assert said == written
  # Parquet has two more, as the table says.
  assert written - set(row) == {'ddt_tokens', 'ddt_supervised'}
