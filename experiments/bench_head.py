r"""The vocabulary head beside logits that are held, in JAX and in torch.

python -m experiments.bench_head [--shapes=512x896x151936,1024x256x32768] [--rounds=21]

Forward and backward of the loss by hidden states and head, float32, random data.
All contenders take turns in one process; a ratio is the median over rounds of the
ratio within a round, with the extremes. With the extra [parity] the official
expression in torch takes part, with tokamax installed its chunked cross-entropy.
"""

import importlib.util
import os

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import ddt
from ddt_jax import objectives
from ddt_jax import vocab_head
from experiments import paired
from experiments import runtime

_SHAPES = flags.DEFINE_list(
    'shapes', ['512x896x151936', '1024x256x32768'], 'Tokens x width x vocabulary.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 21, 'Turns of every contender.')


def arrays(tokens, width, vocab):
  """hidden, head, targets; logits of a standard deviation of 3."""
  rng = np.random.default_rng(0)
  hidden = rng.standard_normal((tokens, width), np.float32)
  head = rng.standard_normal((vocab, width), np.float32) * (3 / width**0.5)
  return hidden, head, rng.integers(0, vocab, tokens).astype(np.int32)


def gradient(loss):
  """(hidden, head, targets) -> loss and its gradients."""
  return jax.value_and_grad(loss, (0, 1))


def tiles(name):
  def loss(hidden, head, targets):
    total, _, _ = vocab_head.weighted_nll(
        hidden, head, targets, jnp.ones(len(targets)),
        objectives.constant_weights(name))
    return total / len(targets)
  return gradient(loss)


def by_statistics(name, statistics):
  """The objective of whatever gives the statistics."""
  def loss(hidden, head, targets):
    stats = statistics(hidden, head, targets)
    total, count, _ = objectives.token_loss(name, stats, jnp.ones(len(targets)))
    return total / count
  return gradient(loss)


def held(hidden, head, targets):
  return ddt.token_stats(hidden @ head.T, targets)


def log_p_alone(hidden, head, targets):
  """Plain cross-entropy, logits held."""
  log_p = jax.nn.log_softmax(hidden @ head.T)
  return -jnp.take_along_axis(log_p, targets[:, None], 1).mean()


def official_in_torch(hidden, head, targets, name):
  """The official expression of IDFT, or torch's cross-entropy."""
  import torch

  torch.set_num_threads(os.cpu_count())  # as XLA does
  h, w = (torch.tensor(x, requires_grad=True) for x in (hidden, head))
  y = torch.tensor(targets, dtype=torch.int64)

  def call():
    h.grad = w.grad = None
    logits = h @ w.T
    if name == 'sft':
      loss = torch.nn.functional.cross_entropy(logits, y)
    else:
      p = logits.softmax(-1)
      with torch.no_grad():
        entropy = -(p * (p + 1e-10).log()).sum(-1)
      p_x = p.gather(-1, y[:, None])[:, 0].clamp(1e-10, 1)
      with torch.no_grad():
        phi = p_x.log() + entropy
        weight = p_x ** (-phi).exp().clamp(0.1, 2.0)
      loss = -(weight * p_x.log()).mean()
    loss.backward()

  return call


def contenders(hidden, head, targets):
  args = hidden, head, targets
  found = {
      'tiles, idft': tiles('idft'),
      'tiles, sft': tiles('sft'),
      'stream, idft': by_statistics('idft', vocab_head.token_stats),
      'stream, sft': by_statistics('sft', vocab_head.token_stats),
      'held, idft': by_statistics('idft', held),
      'held, cross-entropy': gradient(log_p_alone),
  }
  found = {name: paired.compiled(f, *args) for name, f in found.items()}
  if importlib.util.find_spec('torch'):
    found['torch, official'] = official_in_torch(*args, 'idft')
    found['torch, cross-entropy'] = official_in_torch(*args, 'sft')
  return found


def main(argv):
  del argv
  runtime.start()
  for shape in _SHAPES.value:
    tokens, width, vocab = map(int, shape.split('x'))
    print(f'--- {tokens} tokens, width {width}, vocabulary {vocab}')
    calls = contenders(*arrays(tokens, width, vocab))
    for kind in ('tiles', 'stream'):
      for what in ('flops', 'bytes accessed'):
        idft, sft = (calls[f'{kind}, {name}'].cost[what] for name in
                     ('idft', 'sft'))
        paired.show(f'{shape}: {kind}, {what} of idft / sft',
                    {'ratio': idft / sft}, '<= 1.03 (tiles)')
    for name, call in calls.items():
      if hasattr(call, 'memory'):
        paired.show(f'{shape}: {name}, temporaries in MB',
                    {'MB': call.memory.temp_size_in_bytes / 1e6})
    taken = paired.seconds(calls, _ROUNDS.value)
    for name, each in taken.items():
      paired.show(f'{shape}: {name}, seconds', {
          'median': float(np.median(each)), 'low': min(each), 'high': max(each)})
    for of, to, target in (
        ('tiles, idft', 'tiles, sft', '<= 1.05'),
        ('tiles, idft', 'held, idft', '<= 0.92'),
        ('stream, idft', 'held, idft', ''),
        ('tiles, sft', 'held, cross-entropy', ''),
        ('tiles, idft', 'torch, official',
         '<= 0.75 (151936), <= 0.55 (32768)'),
        ('stream, idft', 'torch, official', ''),
        ('torch, official', 'torch, cross-entropy', ''),
    ):
      if to in taken:
        paired.show(f'{shape}: {of} / {to}', paired.ratio(taken, of, to), target)


if __name__ == '__main__':
  app.run(main)
