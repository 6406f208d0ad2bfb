r"""Speed and memory of the vocabulary head, compared with logits held in memory.

python -m experiments.bench.head [--shapes=512x896x151936,1024x256x32768] [--rounds=21]

Measures the loss and its gradients by hidden states and head, in float32 on random
data. The contenders take turns in one process. A ratio is the median over rounds of
the ratio within a round, with the extremes. With the extra [parity] the official
expression in torch takes part; with the extra [bench], tokamax's cross-entropy.
"""

import functools
import importlib.util
import os

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import ddt
from ddt_jax import vocab_head
from experiments.bench import paired
from experiments.bench import workloads
from experiments.run import lifecycle

_SHAPES = flags.DEFINE_list(
    'shapes', ['512x896x151936', '1024x256x32768'], 'Tokens x width x vocabulary.'
)
_ROUNDS = flags.DEFINE_integer(
    'rounds', 21, 'Number of rounds; each contender runs once in a round.')


def arrays(tokens, width, vocab):
  """(hidden, head, targets); the logits have a standard deviation of 3."""
  rng = np.random.default_rng(0)
  hidden = rng.standard_normal((tokens, width), np.float32)
  head = rng.standard_normal((vocab, width), np.float32) * (3 / width**0.5)
  return hidden, head, rng.integers(0, vocab, tokens).astype(np.int32)


def distilled(hidden, head, targets):
  """Forward KL from a teacher with other hidden states, in tiles of tokens."""
  total, count, _ = vocab_head.divergence(
      hidden, head, 0.9 * hidden, head, jnp.ones(len(targets)))
  return total / count


def held(hidden, head, targets):
  """Token statistics from logits that are held in memory."""
  return ddt.token_stats(hidden @ head.T, targets)


def log_p_alone(hidden, head, targets):
  """Plain cross-entropy from logits that are held in memory."""
  log_p = jax.nn.log_softmax(hidden @ head.T)
  return -jnp.take_along_axis(log_p, targets[:, None], 1).mean()


def in_torch(loss, hidden, head, targets):
  """Contender: forward and backward of loss(logits, targets) in torch."""
  import torch

  torch.set_num_threads(os.cpu_count())  # all cores, as XLA uses
  h, w = (torch.tensor(x, requires_grad=True) for x in (hidden, head))
  y = torch.tensor(targets, dtype=torch.int64)

  def call():
    h.grad = w.grad = None
    loss(h @ w.T, y).backward()

  return call


def tokamax_loss(implementation, hidden, head, targets):
  import tokamax

  return tokamax.linear_softmax_cross_entropy_loss(
      hidden, targets, head.T, reduction='mean', implementation=implementation)


def of_tokamax(shape, args):
  """{name: gradient} of tokamax's cross-entropy, or {} where its loss is wrong.

  'chunked_xla' pads the last block of the vocabulary and counts the padding. So its
  loss is wrong unless its block size divides the vocabulary, and its speed would
  prove nothing. Versions without it are measured by 'xla', which holds the logits.
  """
  for name in ('chunked_xla', 'xla'):
    loss = functools.partial(tokamax_loss, name)
    try:
      found = float(jax.jit(loss)(*args))
    except ValueError:  # no such implementation in this version
      continue
    error = abs(found - float(jax.jit(log_p_alone)(*args)))
    paired.show(f'{shape}: tokamax, {name}, error of its loss', {'nats': error})
    return {f'tokamax, {name}': workloads.gradient(loss)} if error < 1e-3 else {}
  return {}


def contenders(shape, *args):
  """{name: call} of every way that is installed."""
  found = {
      'tiles, idft': workloads.tiles('idft'),
      'tiles, sft': workloads.tiles('sft'),
      'tiles, divergence': workloads.gradient(distilled),
      'stream, idft': workloads.by_statistics('idft', vocab_head.token_stats),
      'stream, sft': workloads.by_statistics('sft', vocab_head.token_stats),
      'held, idft': workloads.by_statistics('idft', held),
      'held, cross-entropy': workloads.gradient(log_p_alone),
  }
  if importlib.util.find_spec('tokamax'):
    found |= of_tokamax(shape, args)
  found = {name: paired.compiled(f, *args) for name, f in found.items()}
  if importlib.util.find_spec('torch'):
    import torch

    from experiments.bench import peers

    found['torch, official'] = in_torch(peers.idft_loss, *args)
    found['torch, cross-entropy'] = in_torch(
        torch.nn.functional.cross_entropy, *args)
  return found


def main():
  for shape in _SHAPES.value:
    tokens, width, vocab = map(int, shape.split('x'))
    print(f'--- {tokens} tokens, width {width}, vocabulary {vocab}')
    calls = contenders(shape, *arrays(tokens, width, vocab))
    for kind in ('tiles', 'stream'):
      for what in ('flops', 'bytes accessed'):
        idft, sft = (calls[f'{kind}, {name}'].cost[what] for name in
                     ('idft', 'sft'))
        paired.show(f'{shape}: {kind}, {what} of idft / sft',
                    {'ratio': idft / sft}, '<= 1.03 (tiles)')
    paired.show_temporaries(calls, f'{shape}: ')
    taken = paired.seconds(calls, _ROUNDS.value)
    paired.show_seconds(taken, f'{shape}: ')
    for of, to, target in (
        ('tiles, idft', 'tiles, sft', '<= 1.05'),
        ('tiles, divergence', 'tiles, idft', '<= 1.6 (32768)'),
        ('tiles, idft', 'held, idft', '<= 0.92'),
        ('stream, idft', 'held, idft', ''),
        ('tiles, sft', 'held, cross-entropy', ''),
        ('tiles, sft', 'tokamax, chunked_xla', ''),
        ('tiles, sft', 'tokamax, xla', ''),
        ('tiles, idft', 'torch, official',
         '<= 0.75 (151936), <= 0.55 (32768)'),
        ('stream, idft', 'torch, official', ''),
        ('torch, official', 'torch, cross-entropy', ''),
    ):
      if to in taken:
        paired.show(f'{shape}: {of} / {to}', paired.ratio(taken, of, to), target)


if __name__ == '__main__':
  lifecycle.launch(main)
