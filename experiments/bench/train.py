r"""Speed of the training step, compared with the official loss in torch.

python -m experiments.bench.train [--size=4x512x151936] [--tokens=512] [--rounds=11]

By default a Qwen2 of 4 layers, width 512 and vocabulary 151936 in float32, AdamW with
clipping, and one row whose tokens are all supervised. In torch it is transformers'
model. First the gradients are compared. Then the contenders take turns in one process,
each with its own state. A ratio is the median over rounds of the ratio within a round,
with the extremes. Compile times are of fresh processes, with an empty compilation cache
and with the cache that the first process filled. Needs the extra [parity], for torch.
"""

import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags
import jax
import numpy as np
import optax
import safetensors.numpy

from ddt_jax import model
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.bench import models
from experiments.bench import paired
from experiments.run import lifecycle

_SIZE = flags.DEFINE_string('size', '4x512x151936', 'Layers x width x vocabulary.')
_TOKENS = flags.DEFINE_integer('tokens', 512, 'Tokens in the batch, all supervised.')
_ROUNDS = flags.DEFINE_integer(
    'rounds', 11, 'Number of rounds; each contender runs once in a round.')
_PROCESSES = flags.DEFINE_integer(
    'processes', 3,
    'Number of cold and warm compilations, each in its own process.')
_COMPILE = flags.DEFINE_bool(
    'compile_alone', False, 'Compile the step, print the seconds, and end.')

ADAM = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01, clip=1.0)
LR = 1e-5


def make_batch(config: model.ModelConfig, tokens: int) -> batches.Batch:
  ids = np.random.default_rng(0).integers(2, config.vocab_size, tokens + 1)
  example = chat.Example(ids.astype(np.int32), np.ones(tokens + 1, bool))
  return batches.collate([example], 1, tokens)


def make_step(config: model.ModelConfig, name: str):
  """(optimizer, jitted step that donates its state)."""
  tx = optimizer.make_optimizer(optax.constant_schedule(LR), **ADAM)
  return tx, jax.jit(
      train_step.make_train_step(config, tx, name=name), donate_argnums=0)


class Ours:
  """Contender: one step of an objective, from the state of the previous call."""

  def __init__(self, config, params, batch, name):
    tx, step = make_step(config, name)
    # The step donates its state. A copy keeps `params` alive for other contenders.
    own = jax.tree.map(lambda x: x + 0, params)
    self._state, self._batch = train_step.TrainState.create(own, tx), batch
    self._step = step.lower(self._state, batch).compile()
    self.memory = self._step.memory_analysis()

  def __call__(self):
    self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready((self._state, metrics))


class Torch:
  """Contender: one step of the official loss on transformers' model."""

  def __init__(self, folder, batch):
    import torch  # of the extra [parity]; the process that compiles needs none

    from experiments.bench import peers

    self._loss = peers.idft_loss
    self._net = peers.load_torch(folder).train()
    self._ids, self._targets = (
        torch.from_numpy(x).long() for x in (batch.tokens, batch.targets[0]))
    self._adam = torch.optim.AdamW(
        self._net.parameters(), LR, (ADAM['b1'], ADAM['b2']), ADAM['eps'],
        ADAM['weight_decay'])
    self._clip = lambda: torch.nn.utils.clip_grad_norm_(
        self._net.parameters(), ADAM['clip'])

  def _backward(self, net):
    net.zero_grad()
    logits = net(self._ids, use_cache=False).logits[0]
    self._loss(logits, self._targets).backward()

  def gradient(self, *, exact=False):
    """{parameter name: gradient}, computed in float64 if `exact`."""
    net = copy.deepcopy(self._net).double() if exact else self._net
    self._backward(net)
    return {k: p.grad.numpy().copy() for k, p in net.named_parameters()}

  def __call__(self):
    self._backward(self._net)
    self._clip()
    self._adam.step()


def check_gradients(config, params, batch, peer: Torch) -> None:
  """Compares our gradient with that of the official loss in float64.

  Raises:
    AssertionError: the norm of the difference is above 1e-5 of the gradient's norm.
  """
  def loss(params, batch):
    total, (count, _) = train_step.loss_sums(params, config, batch, 'idft')
    return total / count

  # Saved and read as a Hugging Face folder, gradients have the names of torch's.
  with tempfile.TemporaryDirectory() as folder:
    weights.save(folder, config, jax.jit(jax.grad(loss))(params, batch))
    ours = {}
    for file in pathlib.Path(folder).glob('*.safetensors'):
      ours |= safetensors.numpy.load_file(file)
  theirs, exact = peer.gradient(), peer.gradient(exact=True)
  assert ours.keys() == exact.keys()
  norm = np.sqrt(sum(np.sum(g**2) for g in exact.values()))
  for name, found in {'idft': ours, 'torch, official': theirs}.items():
    error = np.sqrt(sum(np.sum((found[k] - g)**2) for k, g in exact.items()))
    paired.show(f'{name}, gradient: difference from float64 / norm',
                {'ratio': float(error / norm)}, '<= 1e-5')
    assert name != 'idft' or error <= 1e-5 * norm


def compile_alone(config, tokens):
  """Prints the seconds that tracing and compiling the step take."""
  tx, step = make_step(config, 'idft')
  params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
  state = jax.eval_shape(lambda p: train_step.TrainState.create(p, tx), params)
  began = time.perf_counter()
  lowered = step.lower(state, make_batch(config, tokens))
  traced = time.perf_counter()
  lowered.compile()
  print(json.dumps(
      {'trace': traced - began, 'compile': time.perf_counter() - traced}))


def show_compilation(processes: int) -> None:
  """Prints compile times of fresh processes, with a cold and with a warm cache."""
  found = {'cold': [], 'warm': []}
  for _ in range(processes):
    with tempfile.TemporaryDirectory() as cache:
      for kind in found:
        done = subprocess.run(
            [sys.executable, '-m', 'experiments.bench.train', '--compile_alone',
             f'--size={_SIZE.value}', f'--tokens={_TOKENS.value}'],
            env=os.environ | {'JAX_COMPILATION_CACHE_DIR': cache}, text=True,
            stdout=subprocess.PIPE, check=True,
        )
        found[kind].append(json.loads(done.stdout))
  for part in ('trace', 'compile'):
    taken = {kind: [x[part] for x in each] for kind, each in found.items()}
    paired.show_seconds(taken, f'{part}, ')
    paired.show(f'{part}, warm / cold', paired.ratio(taken, 'warm', 'cold'),
                '<= 0.25' if part == 'compile' else '')


def main():
  config = models.named(_SIZE.value)
  if _COMPILE.value:
    compile_alone(config, _TOKENS.value)
    return
  show_compilation(_PROCESSES.value)
  params = models.weights(config)
  batch = make_batch(config, _TOKENS.value)
  with tempfile.TemporaryDirectory() as folder:
    weights.save(folder, config, params)
    official = Torch(folder, batch)
  check_gradients(config, params, batch, official)
  calls = {name: Ours(config, params, batch, name) for name in ('idft', 'sft')}
  paired.show_temporaries(calls)
  calls['torch, official'] = official
  taken = paired.seconds(calls, _ROUNDS.value)
  paired.show_seconds(taken)
  paired.show('tokens/s, idft / torch, official',
              paired.ratio(taken, 'torch, official', 'idft'), '>= 1.3')
  paired.show('seconds, idft / sft', paired.ratio(taken, 'idft', 'sft'), '<= 1.05')


if __name__ == '__main__':
  lifecycle.launch(main)
