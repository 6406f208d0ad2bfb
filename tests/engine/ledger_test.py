"""The host's record of requests, without a device."""

import numpy as np

from ddt_jax import engine
from ddt_jax.engine import ledger

EOS = 9


def opened(limits, *, repetition=None, first_may_end=True):
  requests = [engine.Request(([1],), n, i) for i, n in enumerate(limits)]
  options = engine.DecodeOptions(
      eos_ids=(EOS,), first_may_end=first_may_end, repetition=repetition)
  seen = []
  book = ledger.Ledger(
      requests, options, lambda i, result: seen.append((i, result.finish)))
  return book, seen


def test_a_log_is_read_slot_by_slot_and_idle_slots_are_not():
  tokens = np.array([[5, 6], [7, 8], [1, 2]])
  tickets = np.array([[3, 0], [3, -1], [4, -1]])
  assert ledger.by_ticket(tokens, tickets) == {3: [5, 7], 0: [6], 4: [1]}
  # The device returns at once where it needs the host before it can draw.
  for steps in (tokens[:0], tickets[:0]), (tokens[:2], np.full((2, 2), -1)):
    assert ledger.by_ticket(*steps) == {}
  assert ledger.by_ticket(np.zeros((0, 2, 2)), tickets[:0]) == {}


def test_requests_are_taken_in_order_and_those_without_a_token_are_finished():
  book, seen = opened([4, 0, 4, 4])
  assert seen == [(1, 'length')] and book.unfinished == 3
  assert book.results[1] == ledger.Generated([], 'length')
  assert (book.take_next(2), book.take_next(2), book.take_next(2)) == ([0, 2], [3], [])


def test_texts_grow_until_their_slot_is_free():
  book, seen = opened([8, 8])
  assert book.record({0: [1, 2], 1: [EOS]}, {0}) == (1, [])
  assert book.record({0: [3]}, {0}) == (0, [])
  assert book.record({0: [4]}, set()) == (1, [])
  assert seen == [(1, 'eos'), (0, 'length')] and not book.unfinished
  assert [r.tokens for r in book.results] == [[1, 2, 3, 4], [EOS]]


def test_an_eos_that_may_not_end_does_not():
  book, _ = opened([1, 2], first_may_end=False)
  book.record({0: [EOS], 1: [3, EOS]}, set())
  assert [r.finish for r in book.results] == ['length', 'eos']


def test_a_text_that_has_ended_is_not_cut_at_its_end():
  # The check runs before the next draw, and there is none.
  for running, finish in ((set(), 'length'), ({0}, 'repetition')):
    book, seen = opened([8], repetition=(2, 3, 4))
    book.record({0: [1, 2] * 4}, running)
    assert seen == [(0, finish)] and book.results[0].tokens == [1, 2] * 4


def test_a_repetition_is_cut_and_its_slot_must_be_freed():
  # Checked every 4 tokens: cut where some pair occurs three times.
  book, seen = opened([20, 20], repetition=(2, 3, 4))
  assert book.record({0: [1, 2, 1, 2, 1, 2, 1, 2, 1], 1: [1, 2, 3]}, {0, 1}) == (1, [0])
  assert seen == [(0, 'repetition')]
  assert book.results[0].tokens == [1, 2] * 4 and book.results[1] is None
