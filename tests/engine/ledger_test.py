"""The host's book of requests, without a device."""

import numpy as np

from ddt_jax.engine import ledger
from ddt_jax.engine import requests

EOS = 9


def opened(limits, *, repetition=None, first_may_end=True):
  asked = [requests.Request(([1],), n, i) for i, n in enumerate(limits)]
  seen = []
  book = ledger.Ledger(
      asked, first_may_end, (EOS,), None, repetition, False,
      lambda i, result: seen.append((i, result.finish)),
  )
  return book, seen


def test_a_log_is_read_slot_by_slot_and_idle_slots_are_not():
  tokens = np.array([[5, 6], [7, 8], [1, 2]])
  tickets = np.array([[3, 0], [3, -1], [4, -1]])
  assert ledger.by_ticket(tokens, tickets) == {3: [5, 7], 0: [6], 4: [1]}


def test_requests_are_given_in_order_and_those_for_nothing_have_their_answer():
  book, seen = opened([4, 0, 4, 4])
  assert seen == [(1, 'length')] and book.left == 3
  assert book.results[1] == ledger.Generated([], 'length')
  assert (book.give(2), book.give(2), book.give(2)) == ([0, 2], [3], [])


def test_texts_grow_until_the_device_is_done_with_them():
  book, seen = opened([8, 8])
  assert book.add({0: [1, 2], 1: [EOS]}, {0}) == (1, [])
  assert book.add({0: [3]}, {0}) == (0, [])
  assert book.add({0: [4]}, set()) == (1, [])
  assert seen == [(1, 'eos'), (0, 'length')] and not book.left
  assert [r.tokens for r in book.results] == [[1, 2, 3, 4], [EOS]]


def test_an_eos_that_may_not_end_does_not():
  book, _ = opened([1, 2], first_may_end=False)
  book.add({0: [EOS], 1: [3, EOS]}, set())
  assert [r.finish for r in book.results] == ['length', 'eos']


def test_a_text_that_has_ended_is_not_cut_at_its_end():
  # It is looked at before a next token, and there is none.
  for running, finish in ((set(), 'length'), ({0}, 'repetition')):
    book, seen = opened([8], repetition=(2, 3, 4))
    book.add({0: [1, 2] * 4}, running)
    assert seen == [(0, finish)] and book.results[0].tokens == [1, 2] * 4


def test_what_repeats_itself_is_cut_and_the_device_told():
  # Looked at every 4 tokens: some pair three times.
  book, seen = opened([20, 20], repetition=(2, 3, 4))
  assert book.add({0: [1, 2, 1, 2, 1, 2, 1, 2, 1], 1: [1, 2, 3]}, {0, 1}) == (1, [0])
  assert seen == [(0, 'repetition')]
  assert book.results[0].tokens == [1, 2] * 4 and book.results[1] is None
