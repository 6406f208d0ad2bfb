"""Log-probabilities from the engine and by teacher forcing; texts begun before."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import hinting
from ddt_jax import model
from ddt_jax import sampling
from ddt_jax import sharding
from ddt_jax.engine import journaling
from tests.support import student

KEY = jax.random.key(11)
NEW = 24
MIXTURE = dict(beta=3.0, temperature=0.7, top_p=0.9, splitter='=')


@functools.cache
def pairs():
  words = student.tokenizer()
  questions = [words.encode(f'Tom has {n} apples. He gets {n + 3}.') for n in range(7)]
  solutions = [
      words.encode(rf'Solution: {n}+{n + 3}={2 * n + 3}. So \boxed{{{2 * n + 3}}}.')
      for n in range(7)]
  return [(q, q + s) for q, s in zip(questions, solutions, strict=True)]


def generate(*, pairs_of=None, **options):
  config, params = student.load()
  options = dict(
      key=KEY, max_new_tokens=NEW, tokenizer=student.tokenizer(),
      eos_ids=config.eos_ids, log_probs=True) | MIXTURE | options
  return hinted_decode.generate(params, config, pairs_of or pairs(), **options)


def score(responses, *, mesh=None, **options):
  config, params = student.load()
  options = MIXTURE | dict(tokenizer=student.tokenizer()) | options
  return hinted_decode.score(
      params, config, pairs(), responses, mesh=mesh, **options)


def agree(drawn, scored, tolerance=2e-5):
  """Both are equal but for rounding; returns tokens at the edge of a nucleus."""
  edges = 0
  for result, (log_m, log_q) in zip(drawn, scored, strict=True):
    np.testing.assert_allclose(result.log_q, log_q, atol=tolerance)
    inside = np.isfinite(log_m)
    edges += (~inside).sum()
    np.testing.assert_allclose(
        np.array(result.log_m)[inside], np.array(log_m)[inside], atol=tolerance)
  return edges


@pytest.mark.parametrize('slots, options', [
    (1, {}), (3, {}), (8, {}),
    (8, dict(beta=0.0, temperature=1.0, top_p=1.0, first_from_hint=False)),
    (3, dict(schedule='sigmoid', splitter=None, order='temperature_first')),
])
def test_the_engine_and_teacher_forcing_agree(slots, options):
  drawn = generate(slots=slots, **options)
  assert all(len(r.tokens) == len(r.log_m) == len(r.log_q) for r in drawn)
  # Hundreds of tokens: one at an edge is rare.
  assert agree(drawn, score([r.tokens for r in drawn], **options)) <= 1


def test_log_probabilities_change_no_text():
  plain = generate(log_probs=False)
  assert all(r.log_m is None and r.log_q is None for r in plain)
  assert [r.tokens for r in plain] == [r.tokens for r in generate()]


def test_the_score_is_that_of_the_full_forward():
  config, params = student.load()
  (text,) = generate(pairs_of=pairs()[:1])
  prompts = pairs()[0]
  student_logits, hinted_logits = (
      model.forward(params, config, jnp.array([[*p, *text.tokens]]))[0][0, len(p) - 1:]
      for p in prompts)
  lam = hinting.hint_weight(
      hinting.entropy(hinted_logits), config.vocab_size, beta=3.0)
  lam = lam.at[0].set(0.0)
  if text.student_only_from is not None:
    lam = lam.at[text.student_only_from:].set(1.0)
  m = sampling.distribution(
      hinting.mix(hinted_logits, student_logits, lam), temperature=0.7, top_p=0.9)
  q = jax.nn.log_softmax(student_logits)
  at = np.arange(len(text.tokens)), np.array(text.tokens)
  np.testing.assert_allclose(text.log_m, np.log(m[at]), atol=2e-5)
  np.testing.assert_allclose(text.log_q, q[at], atol=2e-5)
  # Every rule has had its say.
  assert text.student_only_from is not None


def test_eight_devices_score_what_one_does():
  config, _ = student.load()
  _, params = student.load(8)
  texts = [r.tokens for r in generate()]
  found = hinted_decode.score(
      params, config, pairs(), texts, tokenizer=student.tokenizer(),
      mesh=sharding.decoding_mesh(student.mesh(8), 2), **MIXTURE)
  for one, other in zip(score(texts), found, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_no_text_and_no_token_have_no_score():
  config, params = student.load()
  assert hinted_decode.score(
      params, config, [], [], beta=1.0, temperature=1.0, top_p=1.0) == []
  assert score([[]] * len(pairs())) == [([], [])] * len(pairs())


@pytest.mark.parametrize('cut', [0, 1, 5])
def test_a_text_goes_on_as_it_would_have(cut):
  whole = generate()
  begun = [r.tokens[:min(cut, len(r.tokens) - 1)] for r in whole]
  rest = generate(prefixes=begun)
  for old, prefix, new in zip(whole, begun, rest, strict=True):
    # Place, splitter, limit and first token are the prefix's: nothing else is drawn.
    assert [*prefix, *new.tokens] == old.tokens
    assert (new.finish, new.student_only_from) == (old.finish, old.student_only_from)
    np.testing.assert_allclose(new.log_m, old.log_m[len(prefix):], atol=2e-5)
    np.testing.assert_allclose(new.log_q, old.log_q[len(prefix):], atol=2e-5)


def test_results_come_without_their_prefix():
  seen = {}
  begun = [[5, 6]] * len(pairs())
  found = generate(prefixes=begun, on_result=seen.__setitem__)
  assert [seen[i] for i in range(len(found))] == found
  assert max(len(r.tokens) for r in found) == NEW - 2


def test_a_prefix_of_another_model_or_too_long_is_refused():
  for bad, said in (([10**6], 'outside the vocabulary'), ([5] * NEW, 'already')):
    with pytest.raises(ValueError, match=said):
      generate(prefixes=[bad] * len(pairs()))
  with pytest.raises(ValueError, match='as many as prompts'):
    generate(prefixes=[[5]])


class Stop(Exception):
  pass


def test_a_run_that_was_stopped_has_its_log_probabilities(tmp_path, monkeypatch):
  monkeypatch.setattr(
      journaling.Journal, 'steps', lambda self, most: min(most, 2))
  begun = [[5]] * len(pairs())
  expected = generate(prefixes=begun, slots=3)
  stops = 0
  while True:
    left = iter(range(12))

    def check_stop(left=left):
      if next(left, None) == 11:
        raise Stop

    journal = engine.Journal(tmp_path, check_stop=check_stop)
    try:
      found = generate(prefixes=begun, slots=3, journal=journal)
      break
    except Stop:
      stops += 1
      assert stops < 100
  assert stops >= 2
  for old, new in zip(expected, found, strict=True):
    assert old.tokens == new.tokens
    np.testing.assert_allclose(old.log_m, new.log_m, atol=2e-5)
    np.testing.assert_allclose(old.log_q, new.log_q, atol=2e-5)
