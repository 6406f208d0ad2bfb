r"""Speed of nucleus sampling by bisection, compared with a full sort.

python -m experiments.bench.sampler [--shape=16x151936] [--rounds=21]

The logits are float32; their rows go from nearly flat to sharp. The nucleus (0.95)
is cut before the temperature (0.3). First the kept tokens of both ways are compared
with those of a sort in float64. Then the contenders take turns in one process. A
ratio is the median over rounds of the ratio within a round, with the extremes. With
the extra [parity] the official sampler in torch takes part.
"""

import importlib.util

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import sampling
from experiments.bench import paired
from experiments.run import lifecycle

_SHAPE = flags.DEFINE_string('shape', '16x151936', 'Rows x vocabulary.')
_ROUNDS = flags.DEFINE_integer(
    'rounds', 21, 'Number of rounds; each contender runs once in a round.')

TEMPERATURE, TOP_P = 0.3, 0.95


def make_logits(rows, vocab):
  scale = np.linspace(3, 8, rows, dtype=np.float32)[:, None]
  return scale * np.random.default_rng(0).standard_normal((rows, vocab), np.float32)


def by_bisection(keys, logits):
  return sampling.draw(keys, sampling.distribution(
      logits, temperature=TEMPERATURE, top_p=TOP_P))


def sorted_nucleus(p):
  """(ids by falling probability, kept): kept where the mass before is <= top_p."""
  order = jnp.argsort(p, -1, descending=True)
  ranked = jnp.take_along_axis(p, order, -1)
  return order, jnp.cumsum(ranked, -1) - ranked <= TOP_P


def by_sort(keys, logits):
  order, kept = sorted_nucleus(jax.nn.softmax(logits))
  ranked = jnp.take_along_axis(logits, order, -1) / TEMPERATURE
  at = jax.vmap(jax.random.categorical)(keys, jnp.where(kept, ranked, -jnp.inf))
  return jnp.take_along_axis(order, at[:, None], -1)[:, 0]


def check_kept(logits):
  """Counts tokens that a float64 sort keeps and ours drops, or the reverse.

  Raises:
    AssertionError: rounding does not explain a difference, as the mass before the
      token is not within 1e-6 of top_p.
  """
  p = jax.nn.softmax(logits)
  order, kept = sorted_nucleus(p)
  found = {
      'bisection': np.asarray(sampling.nucleus(p, TOP_P)),
      'sort': np.asarray(jnp.put_along_axis(
          jnp.zeros(p.shape, bool), order, kept, -1, inplace=False)),
  }
  exact = np.asarray(p, np.float64)
  order = np.argsort(-exact, -1, kind='stable')
  ranked = np.take_along_axis(exact, order, -1)
  before = np.empty_like(exact)
  np.put_along_axis(before, order, np.cumsum(ranked, -1) - ranked, -1)
  paired.show('tokens kept in a row', {
      'fewest': (before <= TOP_P).sum(-1).min().item(),
      'most': (before <= TOP_P).sum(-1).max().item()})
  for name, x in found.items():
    other = x != (before <= TOP_P)
    assert (abs(before[other] - TOP_P) < 1e-6).all(), name
    paired.show(f'{name}: tokens kept or dropped otherwise than in float64',
                {'tokens': other.sum().item()}, '0, or rounding')


def contenders(logits):
  keys = jax.random.split(jax.random.key(0), len(logits))
  found = {
      'bisection': paired.compiled(by_bisection, keys, logits),
      'sort': paired.compiled(by_sort, keys, logits),
  }
  if importlib.util.find_spec('torch'):
    import torch

    from experiments.bench import peers

    of_torch = torch.from_numpy(logits)

    def official():
      peers.draw(of_torch)

    found['torch, official'] = official
  return found


def main():
  logits = make_logits(*map(int, _SHAPE.value.split('x')))
  check_kept(logits)
  calls = contenders(logits)
  paired.show_temporaries(calls)
  taken = paired.seconds(calls, _ROUNDS.value)
  paired.show_seconds(taken)
  for peer in [name for name in calls if name != 'bisection']:
    paired.show(f'{peer} / bisection', paired.ratio(taken, peer, 'bisection'),
                '>= 15 (151936)')


if __name__ == '__main__':
  lifecycle.launch(main)
