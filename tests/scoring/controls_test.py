"""Controls are told from own samples where they can be, and else are too weak."""

import jax
import numpy as np
import pytest

from ddt_jax import ddt
from ddt_jax.scoring import calibration
from ddt_jax.scoring import controls
from ddt_jax.scoring import forward
from tests.scoring import calibration_test

PROMPTS = [[5, 6, 7]] * 300 + [[5, 8]] * 300


def certain(texts, last):
  """Texts whose last token has this phi and no varentropy."""
  rows = np.arange(len(texts.ids)), texts.lengths - 1
  log_p, entropy, varentropy = (
      np.array(x) for x in (
          texts.stats.log_p, texts.stats.entropy, texts.stats.varentropy))
  log_p[rows], entropy[rows], varentropy[rows] = last, 0.0, 0.0
  return calibration.Texts(
      texts.ids, ddt.TokenStats(log_p, entropy, varentropy), texts.pit, texts.lengths)


def prompt_dispatch(phi, varentropy=0.0):
  """Scores the last token of each prompt."""
  def dispatch(params, *, examples, tail):
    del params, tail
    assert [e.supervised.tolist() for e in examples] == [
        [False, False, True], [False, True]]  # each distinct prompt once
    n = len(examples)
    x = np.zeros((n, 1), np.float32)
    stats = ddt.TokenStats(
        x + phi, x, x + varentropy, tail=x, ties=x + 1)
    return forward.Pending([(list(range(n)), np.ones((n, 1)), stats)], n)
  return dispatch


@pytest.mark.parametrize('prompt, last, told', [
    ((0.0, 0.0), 0.0, False),  # both are certain: nothing changes
    ((0.0, 0.0), -0.4, True),  # the stop token is not
    ((-0.4, 0.3), 0.0, True),  # the prompt's last token is not
    # Nearly certain, with the same small phi in every text: its spread says
    # nothing, its varentropy does.
    ((0.01, 0.09), 0.0, False),
])
def test_a_shifted_mask_is_told_where_its_ends_tell(prompt, last, told):
  texts = certain(calibration_test.drawn_texts(), last)
  found = controls.shifted_mask(
      {}, texts, PROMPTS, prompt_dispatch(*prompt), seed=0)
  assert found.change == pytest.approx(prompt[0] - last, abs=1e-6)
  seen = abs(found.change) > 3 * found.change_se
  assert seen == told
  assert found.is_told >= told


def test_a_shifted_mask_moves_every_token_by_one():
  texts = calibration_test.drawn_texts()
  found = controls.shifted_mask(
      {}, texts, PROMPTS, prompt_dispatch(-2.0), seed=0)
  total = sum(
      -2.0 + phi[:n - 1].sum() for phi, n in zip(
          texts.stats.phi, texts.lengths, strict=True))
  assert found.test.phi == pytest.approx(total / texts.lengths.sum(), abs=1e-4)


@pytest.mark.parametrize('change, told', [(0.0, False), (-0.05, True)])
def test_other_weights_are_told_by_pairs(change, told):
  texts = calibration_test.drawn_texts()

  def dispatch(params, *, examples, tail):
    del params, tail
    assert [len(e.tokens) for e in examples] == [
        len(p) + n for p, n in zip(PROMPTS, texts.lengths[:500], strict=False)]
    mask = np.zeros((500, texts.ids.shape[1]), bool)
    mask[:] = texts.mask[:500]
    stats = texts.stats.map(lambda x: x[:500])
    stats = ddt.TokenStats(
        stats.log_p + change, stats.entropy, stats.varentropy,
        tail=stats.tail, ties=stats.ties)
    return forward.Pending([(list(range(500)), mask, stats)], 500)

  batches = []
  found = controls.noisy_weights(
      {'a': np.ones(3, np.float32)}, texts, PROMPTS, dispatch, noise=0.05, seed=0,
      check_stop=lambda: batches.append(0))
  assert len(batches) == 1
  assert found.change == pytest.approx(
      change * texts.lengths[:500].mean(), abs=1e-5)
  assert (abs(found.change) > 3 * found.change_se) == told


def test_weights_differ_by_the_noise():
  params = {'a': np.ones(1000, np.float32)}
  other = controls.perturbed(params, jax.random.key(0), 0.05)
  assert np.std(other['a']) == pytest.approx(0.05, rel=0.1)
