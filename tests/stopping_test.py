"""The repetition rule: by hand, against the official one, by counting."""

import json
import pathlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from ddt_jax import stopping

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'sampling'
CASES = json.loads((GOLDEN / 'functions.json').read_text())['repeat']


@pytest.mark.parametrize('case', CASES, ids=lambda c: str(len(c['tokens'])))
def test_official_rule(case):
  assert case['result'] == stopping.repeats(
      case['tokens'], n=case['k'], times=case['m'], official_window=True
  )


@pytest.mark.parametrize('period', [1, 2, 7, 40])
def test_a_loop_is_seen_when_its_window_has_come_round_five_times(period):
  # The fifth start of the same window lies 4 periods after the first.
  needed = 4 * period + 30
  loop = [i % period for i in range(needed)]
  assert stopping.repeats(loop)
  assert not stopping.repeats(loop[:-1])
  # The official rule looks one window less far.
  assert not stopping.repeats(loop, official_window=True)
  assert stopping.repeats(loop + loop[:1], official_window=True)


def test_occurrences_need_not_be_next_to_each_other():
  phrase = [1, 2, 3]
  tokens = phrase + [7] + phrase + [8, 9] + phrase
  assert stopping.repeats(tokens, n=3, times=3)
  assert not stopping.repeats(tokens, n=3, times=4)
  assert not stopping.repeats(tokens, n=4, times=2)


def test_short_and_empty_texts_do_not_repeat():
  assert not stopping.repeats([])
  assert not stopping.repeats([5] * 29)


@hypothesis.given(
    st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4),
    st.integers(1, 5),
)
def test_counting_by_comparing_all_pairs(tokens, n, times):
  windows = [tokens[i: i + n] for i in range(len(tokens) - n + 1)]
  most = max((windows.count(w) for w in windows), default=0)
  assert stopping.repeats(tokens, n=n, times=times) == (most >= times)
  array = np.array(tokens, np.int32)
  assert stopping.repeats(array, n=n, times=times) == (most >= times)
