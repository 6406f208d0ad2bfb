"""Responses behind two prompts: the same tokens, aligned."""

import jax.numpy as jnp
import numpy as np

from ddt_jax.data import two_contexts

ROWS = [
    two_contexts.Row([5, 6, 7], [1, 2, 3, 4, 5], [8, 9, 10]),
    two_contexts.Row([5], [1, 2], [11]),  # a response of one token
]
SHAPE = two_contexts.Shape(rows=3, time=6, teacher_time=8, response=4)


def test_rows_hold_the_response_behind_both_prompts():
  batch = two_contexts.collate(ROWS, SHAPE)
  assert batch.tokens.tolist() == [
      [5, 6, 7, 8, 9, 0], [5, 0, 0, 0, 0, 0], [0] * 6]
  assert batch.positions.tolist() == [
      [0, 1, 2, 3, 4, -1], [0, -1, -1, -1, -1, -1], [-1] * 6]
  assert batch.teacher_tokens.tolist()[:2] == [
      [1, 2, 3, 4, 5, 8, 9, 0], [1, 2, 0, 0, 0, 0, 0, 0]]
  assert batch.start.tolist() == [2, 0, 0]
  assert batch.teacher_start.tolist() == [4, 1, 0]
  assert batch.targets.tolist() == [[8, 9, 10, 0], [11, 0, 0, 0], [0] * 4]
  assert batch.mask.sum(1).tolist() == [3, 1, 0]


def test_both_rows_predict_the_same_tokens():
  batch = two_contexts.collate(ROWS, SHAPE)
  for tokens, start in (
      (batch.tokens, batch.start), (batch.teacher_tokens, batch.teacher_start)):
    # An entry that names itself: the input, and the next one.
    x = jnp.stack([tokens, np.roll(tokens, -1, 1)], -1)
    found = np.asarray(two_contexts.at_responses(x, start, 4))
    for i, row in enumerate(ROWS):
      n = len(row.response)
      # Each input is followed by its target, but for the last: it is no input.
      assert found[i, :n - 1, 1].tolist() == list(row.response[:-1])
      assert found[i, 1:n, 0].tolist() == list(row.response[:-1])
  assert np.asarray(two_contexts.at_responses(x, start, 4))[0, 0, 0] == 5


def test_the_shape_holds_every_row():
  shape = two_contexts.shape_of(
      [(len(r.prompt), len(r.teacher_prompt), len(r.response)) for r in ROWS],
      2, multiple=1)
  assert shape == (2, 5, 7, 3)
  batch = two_contexts.collate(ROWS, shape)
  assert batch.tokens[0].tolist() == [5, 6, 7, 8, 9]
