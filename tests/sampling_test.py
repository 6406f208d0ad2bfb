"""The official nucleus, ties, the two orders, and the draw's frequencies."""

import json

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import errors
from ddt_jax import sampling
from tests.support import paths

SAMPLING = paths.GOLDEN / 'sampling'
CASES = json.loads((SAMPLING / 'nucleus.json').read_text())
NPZ = np.load(SAMPLING / 'nucleus.npz')
# Error of float32's cumulative sums over 503 tokens. Where a cumulative probability
# is nearer to top_p, both sets are right.
MARGIN = 2e-5


@pytest.mark.parametrize('case', CASES, ids=lambda c: str(c['id']))
def test_official_nucleus(case):
  logits, expected = NPZ[f'v{case["id"]}_logits'], NPZ[f'v{case["id"]}_probs']
  p = np.asarray(sampling.distribution(
      logits, temperature=case['temperature'], top_p=case['top_p']
  ))
  kept = np.asarray(
      sampling.nucleus(jax.nn.softmax(logits), case['top_p'])
  )
  assert case['cum_margin'] >= MARGIN
  assert kept.sum() == case['kept_exact']
  # At a low temperature some kept tokens underflow to 0, in both codes.
  assert not (p[~kept] > 0).any() and not (expected[~kept] > 0).any()
  np.testing.assert_allclose(p, expected, atol=2e-6)
  np.testing.assert_allclose(p.sum(), 1, atol=1e-6)


@pytest.mark.parametrize('top_p, kept', [
    (0.0, [0, 1, 0, 0]), (0.3, [0, 1, 0, 0]), (0.55, [0, 1, 0, 1]),
    (0.75, [0, 1, 0, 1]), (0.85, [1, 1, 0, 1]), (0.99, [1, 1, 1, 1]),
])
def test_the_token_that_crosses_is_kept(top_p, kept):
  p = jnp.array([0.15, 0.5, 0.05, 0.3])
  np.testing.assert_array_equal(sampling.nucleus(p, top_p), np.bool_(kept))


def test_lower_ids_are_kept_among_equals_at_the_border():
  p = jnp.full([2, 8], 1 / 8)
  kept = sampling.nucleus(p, 0.3)
  np.testing.assert_array_equal(kept, [[1, 1, 1, 0, 0, 0, 0, 0]] * 2)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    st.integers(1, 16),
)
def test_the_nucleus_of_counts_by_sorting(counts, sixteenths):
  # Counts out of a power of two: sums are exact, and ties are many.
  p = np.array(counts + [0], np.float32)
  p[-1] = 64 - p.sum() if p.sum() <= 64 else 128 - p.sum()
  p, top_p = p / p.sum(), (sixteenths - 0.5) / 16
  order = np.argsort(-p, kind='stable')
  before = np.cumsum(p[order]) - p[order]
  expected = np.zeros(len(p), bool)
  expected[order[before <= top_p]] = True
  np.testing.assert_array_equal(sampling.nucleus(jnp.array(p), top_p), expected)


def test_top_p_of_one_keeps_all_at_any_size():
  # Float32's cumulative sum overshoots 1 here.
  logits = 3 * jax.random.normal(jax.random.key(0), [151_936])
  p = sampling.distribution(logits, temperature=1.0, top_p=1.0)
  np.testing.assert_allclose(p, jax.nn.softmax(logits), rtol=1e-6)
  assert (p > 0).all()


def test_the_two_orders_differ_in_what_they_keep():
  logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
  # First: the nucleus of p. Second: that of p^2 / sum p^2 = (.68, .25, .06, .01).
  first = sampling.distribution(logits, temperature=0.5, top_p=0.9)
  np.testing.assert_allclose(
      first, np.array([25, 9, 2.25, 0]) / 36.25, rtol=1e-5
  )
  second = sampling.distribution(
      logits, temperature=0.5, top_p=0.9, order='temperature_first'
  )
  np.testing.assert_allclose(second, np.array([25, 9, 0, 0]) / 34, rtol=1e-5)
  with pytest.raises(errors.InputError, match="'both'.*temperature_first"):
    sampling.distribution(logits, temperature=1.0, top_p=0.9, order='both')


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    st.integers(0, 1000), st.floats(0, 1, width=32),
    st.sampled_from([0.3, 1.0, 2.0]), st.sampled_from(sampling.ORDERS),
)
def test_rows_are_distributions_that_do_not_depend_on_the_normaliser(
    seed, top_p, temperature, order
):
  logits = 2 * jax.random.normal(jax.random.key(seed), [3, 8])
  options = dict(temperature=temperature, top_p=top_p, order=order)
  p = sampling.distribution(logits, **options)
  np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
  assert (p.argmax(-1) == logits.argmax(-1)).all()
  alone = sampling.distribution(logits[1], **options)
  np.testing.assert_allclose(p[1], alone, atol=1e-6)
  shifted = sampling.distribution(
      jax.nn.log_softmax(logits[:, ::-1]), **options
  )[:, ::-1]
  np.testing.assert_allclose(p, shifted, atol=1e-5)


def test_draw_has_the_frequencies_of_the_distribution():
  p = jnp.array([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
  keys = jax.random.split(jax.random.key(0), 20_000)
  tokens = jax.jit(sampling.draw)(keys, jnp.broadcast_to(p, (20_000, 6)))
  assert tokens.dtype == jnp.int32
  counts = np.bincount(tokens, minlength=6)
  assert not counts[np.asarray(p) == 0].any()
  # Four standard deviations of a binomial share.
  allowed = 4 * np.sqrt(p * (1 - p) / 20_000) + 1e-9
  assert (np.abs(counts / 20_000 - p) <= allowed).all()


def test_a_row_s_draw_depends_on_its_key_alone():
  p = jax.nn.softmax(jax.random.normal(jax.random.key(0), [5, 50]))
  keys = jax.random.split(jax.random.key(1), 5)
  together = sampling.draw(keys, p)
  apart = [sampling.draw(keys[i:i + 1], p[i:i + 1])[0] for i in range(5)]
  np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize('vocab', [1, 127, 128, 129, 503, 4000])
def test_a_draw_is_the_first_id_whose_cumulative_mass_passes_u(vocab):
  rng = np.random.default_rng(vocab)
  p = rng.dirichlet(np.full(vocab, 0.1), 300).astype(np.float32)
  p *= rng.random((300, vocab)) < 0.5  # holes, and rows that do not sum to 1
  p[:, vocab // 2] += 1e-3
  keys = jax.random.split(jax.random.key(0), 300)
  found = np.asarray(sampling.draw(keys, p))
  u = np.asarray(jax.vmap(jax.random.uniform)(keys), np.float64)
  exact = np.float64(p)
  sums = exact.cumsum(-1)
  u *= sums[:, -1]
  here = sums[np.arange(300), found]
  assert (exact[np.arange(300), found] > 0).all()
  assert (here > u - 1e-6).all()
  assert (here - exact[np.arange(300), found] <= u + 1e-6).all()


@pytest.mark.parametrize('u', [0.0, 1 - 2**-24])
def test_the_ends_of_the_interval_draw_tokens_that_can_be(u, monkeypatch):
  monkeypatch.setattr(jax.random, 'uniform', lambda key: jnp.float32(u))
  p = np.zeros((40, 1000), np.float32)
  rng = np.random.default_rng(0)
  for row in p:
    row[rng.integers(100, 900, 30)] = rng.random(30)
  found = np.asarray(sampling.draw(jax.random.split(jax.random.key(0), 40), p))
  ends = [np.flatnonzero(row)[0 if u == 0 else -1] for row in p]
  np.testing.assert_array_equal(found, ends)
