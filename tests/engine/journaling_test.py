"""A decoding run that is stopped again and again ends with the same texts."""

import functools
import io

import jax
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import weights
from ddt_jax.engine import journaling
from tests.support import paths
from tests.support import student

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 470, n).tolist() for n in (1, 20, 7, 31, 3, 12, 9, 2)]
LIMITS = [40, 3, 40, 25, 1, 40, 17, 0]


class Stop(Exception):
  pass


@functools.cache
def model():
  return weights.load(paths.GOLDEN / 'models' / 'qwen2-tiny')


def plain(journal=None, **options):
  config, params = model()
  options = dict(
      key=KEY, max_new_tokens=40, max_tokens=LIMITS, eos_ids=range(0, 503, 40),
      temperature=0.8, top_p=0.95, slots=3) | options
  return engine.generate(params, config, PROMPTS, journal=journal, **options)


def hinted(journal=None):
  config, params = student.load()
  words = student.tokenizer()
  questions = [words.encode(f'Tom has {n} apples. He gets 3.') for n in range(4)]
  solutions = [
      words.encode(rf'Solution: {n}+3={n + 3}. Answer: \boxed{{{n + 3}}}.')
      for n in range(4)]
  pairs = [(q, q + s) for q, s in zip(questions, solutions, strict=True)]
  return hinted_decode.generate(
      params, config, pairs, key=KEY, max_new_tokens=30, beta=1.0,
      temperature=0.7, top_p=0.95, splitter='=', tokenizer=words,
      eos_ids=config.eos_ids, repetition=(2, 2, 5), slots=2, journal=journal)


def looked_at_often(monkeypatch, steps=3):
  monkeypatch.setattr(journaling.Journal, 'steps', lambda self, most: min(most, steps))


def stopped(run, folder, looks):
  """The run, stopped after so many looks at the device until it ends by itself."""
  stops = 0
  while True:
    left = iter(range(looks, 0, -1))

    def check_stop(left=left):
      if next(left, None) == 1:
        raise Stop

    try:
      return run(journaling.Journal(folder, check_stop=check_stop)), stops
    except Stop:
      stops += 1
      assert stops < 100


@pytest.mark.parametrize('run', [plain, hinted])
def test_a_run_that_is_stopped_often_draws_the_same(run, tmp_path, monkeypatch):
  looked_at_often(monkeypatch, steps=2)
  found, stops = stopped(run, tmp_path, looks=6)
  assert stops >= 2
  assert found == run()


def test_looks_change_no_text(monkeypatch):
  looked_at_often(monkeypatch, steps=1)
  # Texts are cut for repetition between two host syncs, too.
  for options in ({}, {'repetition': (1, 2, 5)}):
    assert plain(journaling.Journal(), **options) == plain(**options)


def test_a_kill_costs_what_came_after_the_last_file(tmp_path, monkeypatch):
  looked_at_often(monkeypatch)
  monkeypatch.setattr(journaling, 'KEEP_SECONDS', 0.0)
  looks, drawn = [], []

  class Killed(journaling.Journal):
    def look(self, book, **counts):
      super().look(book, **counts)
      drawn.append(counts.get('tokens', 0))
      looks.append(1)
      if len(looks) == 12:
        raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    plain(Killed(tmp_path))
  before = sum(drawn)
  drawn.clear()
  assert plain(Killed(tmp_path)) == plain()
  total = sum(len(r.tokens) for r in plain())
  assert before > 20 and sum(drawn) == total - before


def test_texts_of_another_run_are_not_taken(tmp_path, monkeypatch):
  looked_at_often(monkeypatch)
  monkeypatch.setattr(journaling, 'KEEP_SECONDS', 0.0)
  plain(journaling.Journal(tmp_path))
  assert len(list(tmp_path.iterdir())) == 1
  other = dict(key=jax.random.key(4))
  assert plain(journaling.Journal(tmp_path), **other) == plain(**other)
  plain(journaling.Journal(tmp_path, made_from={'step': 3}))
  assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_drawn_again(tmp_path, monkeypatch):
  looked_at_often(monkeypatch)
  monkeypatch.setattr(journaling, 'KEEP_SECONDS', 0.0)
  plain(journaling.Journal(tmp_path))
  file, = tmp_path.iterdir()
  file.write_bytes(file.read_bytes()[:-3])
  assert plain(journaling.Journal(tmp_path)) == plain()
  journal = journaling.Journal(tmp_path)
  journal.clear()
  assert not tmp_path.exists()


def test_the_bar_moves_by_response_and_names_tokens(monkeypatch, capsys):
  looked_at_often(monkeypatch)
  monkeypatch.setattr(journaling.Journal, '_most_bytes', 0)
  screen = io.StringIO()
  bar = engine.progress_bar(len(PROMPTS) / 2, 'sample')
  bar.fp, bar.sp = screen, type(bar).status_printer(screen)
  bar.mininterval = 0.0
  plain(journaling.Journal(bar=bar, share=0.5, title='sample'))
  assert bar.n == (len(PROMPTS) - 1) / 2  # one has a limit of 0
  shown = screen.getvalue()
  assert '3 running' in shown and 'tokens/s' in shown
  # Before the cache is allocated, and once.
  plain(journaling.Journal(bar=bar, title='again'))
  said = capsys.readouterr().out
  assert 'sample: 3 slots and' in said and 'GiB of keys and values' in said
  assert 'again' not in said


def test_a_text_begun_beyond_its_limit_is_refused():
  config, params = model()
  requests = [engine.Request((PROMPTS[1],), 3, 0, [5, 6, 7])]
  with pytest.raises(ValueError, match='3 tokens are written already'):
    engine.run(
        params, config, requests, engine.DecodeOptions(eos_ids=()), key=KEY)
