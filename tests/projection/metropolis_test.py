"""Chains against the listed distribution of tiny models; starts, refusals, stops."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from ddt_jax import projection
from ddt_jax.projection import metropolis
from tests.projection import kernel_test
from tests.support import tiny_worlds

KEY = jax.random.key(5)
PAIR = tiny_worlds.STUDENT, tiny_worlds.HINTED
SUM = kernel_test.PREDICATES['a sum']


@functools.cache
def world(beta, temperature=1.0, top_p=1.0, is_right=SUM):
  config, params = tiny_worlds.tiny()
  return tiny_worlds.target(tiny_worlds.log_probs(
      config, params, beta=beta, temperature=temperature, top_p=top_p), is_right)


def project(starts, *, pairs=None, is_right=SUM, **options):
  config, params = tiny_worlds.tiny()
  options = dict(
      key=KEY, sweeps=1, max_new_tokens=tiny_worlds.LONGEST,
      eos_ids=tiny_worlds.EOS, beta=1.0, slots=2048) | options
  return projection.project(
      params, config, pairs or [PAIR] * len(starts), starts,
      is_right=lambda texts, pairs: [is_right(tuple(t)) for t in texts], **options)


def drawn_from(pi, n, seed=0):
  every = list(pi)
  rng = np.random.default_rng(seed)
  return [list(every[i]) for i in rng.choice(len(every), n, p=list(pi.values()))]


def p_value(found, pi):
  """Of chi-square; rare texts share a cell, so that each has 5 or more."""
  n = len(found)
  order = sorted(pi, key=pi.get)
  cells, cell, mass = [], [], 0.0
  for text in order:
    cell, mass = [*cell, text], mass + pi[text]
    if mass * n >= 5:
      cells.append(cell)
      cell, mass = [], 0.0
  cells[-1] += cell
  number = {text: i for i, texts in enumerate(cells) for text in texts}
  counts = np.bincount(
      [number[tuple(r.tokens)] for r in found], minlength=len(cells))
  expected = n * np.array([sum(pi[t] for t in texts) for texts in cells])
  return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize('beta, restarts, options', [
    (0.0, 0.0, {}), (1.0, 0.5, dict(temperature=0.7, top_p=0.9))])
def test_what_starts_from_pi_stays_pi(beta, restarts, options):
  pi = world(beta, **options)
  found = project(
      drawn_from(pi, 3000), sweeps=2, beta=beta, restarts=restarts, **options)
  assert p_value(found, pi) > 0.001
  # Many have moved, so that a wrong rule would show.
  assert 0.1 < np.mean([r.accepted / r.proposed for r in found]) < 0.95


def test_the_result_is_what_its_trace_says():
  pi = world(1.0)
  config, params = tiny_worlds.tiny()
  densities = tiny_worlds.log_probs(config, params, beta=1.0)
  for start, r in zip(
      drawn_from(pi, 40), project(drawn_from(pi, 40), sweeps=4), strict=True):
    assert r.proposed == len(r.trace) == 4 and r.start == 'given'
    assert r.accepted == sum(m.accepted for m in r.trace)
    assert r.drawn == sum(m.drawn for m in r.trace)
    assert tuple(r.tokens) in pi
    np.testing.assert_allclose(r.log_q, densities[tuple(r.tokens)][1], atol=1e-5)
    assert r.trace[-1].log_q == pytest.approx(sum(r.log_q), abs=1e-5)
    for m in r.trace:
      assert 0 <= m.cut < m.length and (m.counts or not m.accepted)
      assert m.cut == 0 or not m.restart
    if not r.accepted:
      assert r.tokens == start


def test_a_chain_does_not_depend_on_slots_and_a_pair_may_have_several():
  starts = drawn_from(world(1.0), 24)
  one, other = (project(starts, sweeps=3, slots=n) for n in (5, 24))
  assert [r.tokens for r in one] == [r.tokens for r in other]
  # Pair-major: the same chains as two pairs of one chain each.
  both = project([starts[:2], starts[2:4]], sweeps=3, chains=2)
  assert [r.tokens for r in both] == [r.tokens for r in project(starts[:4], sweeps=3)]
  shared = project([starts[0]], sweeps=0, chains=3)
  assert [r.tokens for r in shared] == [starts[0]] * 3


def test_each_text_is_judged_once_and_only_if_it_is_complete():
  seen = []

  def judge(texts, pairs):
    assert pairs == [i for i in pairs if i in (0, 1)]
    seen.extend((i, tuple(t)) for t, i in zip(texts, pairs, strict=True))
    return [SUM(t) for t in texts]

  config, params = tiny_worlds.tiny()
  projection.project(
      params, config, [PAIR] * 2, [[3, 2, 7], [2, 7]], key=KEY, sweeps=6, chains=20,
      max_new_tokens=3, is_right=judge, eos_ids=tiny_worlds.EOS, beta=1.0)
  assert len(seen) == len(set(seen)) > 10
  assert {t for _, t in seen} <= set(tiny_worlds.texts())


def test_a_start_that_is_never_proposed_is_replaced_or_frozen():
  # Greedy in all but name: the nucleus holds one token, so one text at most.
  nearly_greedy = dict(top_p=1e-6, beta=0.0)
  only = [text for text in tiny_worlds.texts()
          if text in world(0.0, 1.0, 1e-6, lambda text: True)]
  starts = [[3, 3, 0]]
  found, = project(
      starts, is_right=lambda text: True, sweeps=2, **nearly_greedy)
  if only:
    assert found.start == 'replaced' and tuple(found.tokens) == only[0]
  frozen, = project(
      starts, is_right=lambda text: text == (3, 3, 0), sweeps=2, **nearly_greedy)
  assert frozen.start == 'frozen' and frozen.tokens == [3, 3, 0]
  assert (frozen.proposed, frozen.accepted) == (0, 0) and frozen.drawn > 0
  # An end token alone cannot be drawn while the first token may not end a text.
  alone = [[0]]
  assert project(alone, is_right=lambda t: len(t) == 1)[0].start == 'frozen'
  assert project(
      alone, is_right=lambda t: True, first_from_hint=False)[0].start == 'given'


@pytest.mark.parametrize('starts, options, said', [
    ([[1, 1]], {}, 'must end with an end token'),
    ([[0, 0]], {}, 'none before it'),
    ([[2, 2, 2, 0]], {}, 'at most 3 tokens'),
    ([[]], {}, 'must end with an end token'),
    ([[1, 0]], {}, r'starts\[0\] is wrong'),
    ([[[2, 0]]], dict(chains=2), 'has 1 texts'),
    ([[2, 0], [2, 0]], dict(pairs=[PAIR]), '2 starts for 1 pairs'),
    ([[2, 0]], dict(sweeps=-1), 'at least 0 sweeps'),
    ([[2, 0]], dict(restarts=1.5), 'restarts=1.5'),
    ([[2, 0]], dict(max_tokens=[2, 2]), 'one limit for each pair'),
    ([[2, 0]], dict(beta=-1.0), 'hint.beta'),
])
def test_what_cannot_be_projected_is_refused_by_name(starts, options, said):
  with pytest.raises(ValueError, match=said):
    project(starts, **options)


def test_nothing_to_project():
  assert project([]) == []


# 20,000 chains: minutes ----------------------------------------------------------

CHAINS = 20_000
SWEEPS = 64  # by the kernel's powers, the start is forgotten up to the test's noise


@pytest.mark.long
@pytest.mark.parametrize('name, beta, options', [
    ('no double', 1.0, {}), ('a sum', 0.0, dict(restarts=0.0)),
    ('some words', 3.0, {}),
    ('a sum', 1.0, dict(temperature=0.7, top_p=0.9, restarts=1.0))])
def test_the_ends_of_twenty_thousand_chains_are_pi_from_three_starts(
    name, beta, options):
  is_right = kernel_test.PREDICATES[name]
  pi = world(beta, is_right=is_right, **{
      k: v for k, v in options.items() if k != 'restarts'})
  by_mass = sorted(pi, key=pi.get)
  starts = by_mass[-1], by_mass[len(pi) // 2], by_mass[0]
  n = -(-CHAINS // len(starts))
  found = project(
      list(map(list, starts)), chains=n, is_right=is_right, beta=beta,
      sweeps=SWEEPS, **options)
  groups = {'all': found} | {
      start: found[i * n: (i + 1) * n] for i, start in enumerate(starts)}
  for start, ends in groups.items():
    p = p_value(ends, pi)
    print(f'{name}, beta {beta}, {len(ends)} chains from {start}: p = {p:.3f}')
    assert p > 0.001


@pytest.mark.slow
@pytest.mark.parametrize('ratio, restarts', [
    (metropolis.log_ratio, 0.5), *kernel_test.WRONG])
def test_only_the_right_ratio_keeps_pi(ratio, restarts, monkeypatch):
  monkeypatch.setattr(metropolis, 'log_ratio', ratio)
  pi = world(0.0)
  p = [
      p_value(project(
          drawn_from(pi, CHAINS, seed), sweeps=4, beta=0.0, restarts=restarts,
          key=jax.random.fold_in(KEY, seed)), pi)
      for seed in range(3)]
  power = np.mean(np.array(p) < 0.001)
  print(f'{ratio.__name__}, {restarts:.0%} restarts: p = {", ".join(f"{x:.2g}" for x in p)}; told apart in'
        f' {100 * power:.0f} % of 3 tests')
  assert power == (ratio is not kernel_test.RIGHT)
