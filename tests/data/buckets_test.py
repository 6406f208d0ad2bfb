"""Lengths that rows are padded to, and examples of like length together."""

import numpy as np
import pytest

from ddt_jax.data import buckets
from ddt_jax.data import chat


def test_padded_lengths_are_few_and_close():
  lengths = [buckets.padded_length(n) for n in range(8193)]
  assert all(p >= n and p % 16 == 0 for n, p in enumerate(lengths))
  assert sorted(set(lengths))[:8] == [16, 32, 48, 64, 96, 128, 192, 256]
  # Two an octave, but for the first, whose 23 is rounded to 32.
  assert len([p for p in set(lengths) if p <= 8192]) == 18
  assert all(buckets.padded_length(p) == p for p in lengths)
  assert all(p <= 1.5 * n for n, p in enumerate(lengths) if n > 32)


def example(n):
  return chat.Example(np.full(n, n, np.int32), np.arange(n) > 0)


@pytest.mark.parametrize('time, shapes', [
    (None, [96, 32, 48, 16]), (128, [128] * 4),
])
def test_like_lengths_go_together_within_what_is_looked_at(time, shapes):
  lengths = [9, 80, 30, 70, 8, 40, 10]
  windows = list(buckets.by_length(
      map(example, lengths), batch=2, ahead=2, time=time))
  assert [[places for places, _ in w] for w in windows] == [
      [[1, 3], [2, 0]], [[1, 2], [0]],
  ]
  found = [rows for w in windows for _, rows in w]
  assert [rows.tokens.shape for rows in found] == [(2, t) for t in shapes]
  # A row holds its example's inputs, and one that is left over nothing.
  assert found[0].tokens[:, 0].tolist() == [80, 70]
  assert found[3].mask.sum(1).tolist() == [7, 0]


def test_short_rows_are_more_to_a_batch():
  lengths = [200, 17, 9, 9, 30, 90]
  (window,) = buckets.by_length(
      map(example, lengths), batch=2, ahead=3, tokens=128)
  # 256 tokens a row are more than 128; at 32, two pairs have them.
  assert [rows.tokens.shape for _, rows in window] == [(2, 256), (4, 32)]
  assert [places for places, _ in window] == [[0, 5], [4, 1, 2, 3]]
