"""No example is lost or seen twice, and targets are the next tokens."""

import json

import jax
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import chat


def example(length, prompt=2, first=0):
  """Tokens first, first + 1, ...; all but the prompt supervised."""
  tokens = np.arange(first, first + length, dtype=np.int32)
  return chat.Example(tokens, np.arange(length) >= prompt)


def numbered(n):
  """Examples of three tokens that carry their number."""
  return [example(3, 1, first=10 * i) for i in range(n)]


def seen(batch):
  """Numbers of the examples in a batch, padding rows left out."""
  return [int(row[0]) // 10 for row, positions in
          zip(batch.tokens, batch.positions, strict=True) if positions[0] == 0]


def test_collate_shifts_and_pads():
  batch = batches.collate([example(5), example(3, first=20)], 3, 6)
  np.testing.assert_array_equal(batch.tokens, [
      [0, 1, 2, 3, 0, 0], [20, 21, 0, 0, 0, 0], [0] * 6])
  np.testing.assert_array_equal(batch.targets, [
      [1, 2, 3, 4, 0, 0], [21, 22, 0, 0, 0, 0], [0] * 6])
  np.testing.assert_array_equal(batch.mask, [
      [0, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6])
  np.testing.assert_array_equal(batch.positions, [
      [0, 1, 2, 3, -1, -1], [0, 1, -1, -1, -1, -1], [-1] * 6])
  with pytest.raises(errors.InputError, match="mask_mode='none'"):
    batches.collate([example(5)], 1, 6, mask_mode='none')
  # One example a row: jitted functions get no segment ids at all.
  assert batch.segment_ids is None and len(jax.tree.leaves(batch)) == 4


def test_every_example_once_an_epoch_in_an_order_of_its_own():
  stream = batches.Stream(numbered(12), batch=4, epochs=3, seed=0)
  order = [number for batch in stream for number in seen(batch)]
  epochs = [tuple(order[i: i + 12]) for i in (0, 12, 24)]
  assert len(order) == 36
  assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
  assert len({*epochs, tuple(range(12))}) == 4
  again = batches.Stream(numbered(12), batch=4, epochs=3, seed=0)
  assert [n for batch in again for n in seen(batch)] == order
  other = batches.Stream(numbered(12), batch=4, epochs=3, seed=1)
  assert [n for batch in other for n in seen(batch)] != order


@pytest.mark.parametrize('examples, batch, epochs', [
    (10, 4, 1), (10, 4, 3), (3, 8, 1), (3, 8, 5), (8, 8, 2),
])
def test_the_last_batch_is_filled_up_with_padding(examples, batch, epochs):
  stream = list(batches.Stream(
      numbered(examples), batch=batch, epochs=epochs, seed=0
  ))
  assert len(stream) == batches.steps(examples, batch, epochs)
  assert {b.tokens.shape for b in stream} == {(batch, 16)}
  counts = np.bincount([n for b in stream for n in seen(b)])
  np.testing.assert_array_equal(counts, [epochs] * examples)
  rest = examples * epochs % batch
  if rest:
    assert not stream[-1].mask[rest:].any()
    assert (stream[-1].positions[rest:] == -1).all()


def test_a_resumed_stream_continues_as_if_unbroken():
  def new():
    return batches.Stream(numbered(10), batch=4, epochs=3, seed=5)

  stream = new()
  for _ in range(3):  # stops in the second epoch
    next(stream)
  state = json.loads(json.dumps(stream.get_state()))
  rest = list(stream)
  resumed = new()
  resumed.set_state(state)
  again = list(resumed)
  assert len(rest) == len(again) == batches.steps(10, 4, 3) - 3
  for a, b in zip(rest, again, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_in_order_gives_each_example_once_in_its_order():
  found = list(batches.in_order(numbered(5), batch=2))
  assert [seen(b) for b in found] == [[0, 1], [2, 3], [4]]
  assert {b.tokens.shape for b in found} == {(2, 16)}


def test_place_puts_rows_on_their_devices():
  mesh = sharding.make_mesh(data=2, fsdp=4)
  batch = batches.collate(numbered(8), 8, 16)
  placed = batches.place(batch, mesh)
  jax.tree.map(np.testing.assert_array_equal, placed, batch)
  assert {s.data.shape for s in placed.tokens.addressable_shards} == {(1, 16)}
