"""Describes a run before it begins: counts, memory, and one example as the model sees it."""

import sys
import textwrap
from typing import Any

import jax
import numpy as np

from ddt_jax import lora
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax.data import chat
from ddt_jax.model import kernels
from ddt_jax.training import distill
from ddt_jax.training import optimizer
from ddt_jax.training import pair_loss
from ddt_jax.training import reference
from ddt_jax.training import train_step
from experiments.run import distilling
from experiments.run import inputs
from experiments.run import steps


def text(c, s: inputs.Inputs) -> str:
  """Describes a run before it begins.

  Args:
    c, s: the config, and the inputs made from it.
  """
  examples = s.train.examples
  lengths = np.array([len(e.tokens) for e in examples])
  trained = sum(int(e.supervised.sum()) for e in examples)
  size = sum(x.size for x in jax.tree.leaves(s.params if s.base is None else s.base))
  frozen = '' if s.adapters is None else (
      f', frozen; adapters of rank {s.adapters.rank} train {lora.count(s.adapters):,}')
  answers = sum(bool(p.answer) for p in s.corpus.train)
  use, first = 'trained on', 'The first reference. Training is on the text'
  if c.loss.name in pair_loss.NAMES:
    use = 'in answers'
    first = (
        'The first reference, which is measured alone: training is on pairs of own'
        ' answers.\nSuch an answer stands')
  return '\n'.join([
      f'model     {c.model.path}: {size:,} parameters{frozen}, computed'
      f' in {s.config.dtype}, {s.config.max_positions:,} positions',
      f'data      {len(s.corpus.train):,} problems to train on, {answers:,} with an'
      f' answer to verify; {len(s.corpus.validation):,} for validation;'
      f' {sum(map(len, s.corpus.evaluation.values())):,} for evaluation',
      f'tokens    {lengths.sum():,} in {len(examples):,} references, {trained:,}'
      f' of them {use}; longest {lengths.max():,}, median'
      f' {int(np.median(lengths)):,}',
      f'devices   {s.mesh.size} {s.mesh.devices.flat[0].device_kind}'
      f' ({", ".join(f"{a}={n}" for a, n in s.mesh.shape.items())})',
      f'attention {attention(c, s)}',
      f'memory    {state_bytes(c, s) / 2**30:.2f} GiB a device for parameters, and'
      ' gradients and Adam\'s moments of what is trained, without activations and'
      ' caches',
      *([distilling.memory(c, s)] if c.loss.name == distill.NAME else []),
      '', f'{first} between » and «:', '',
      textwrap.indent(marked(s.tokenizer, examples[0]), '  '), '',
  ])


def attention(c, s: inputs.Inputs) -> kernels.Choice:
  """The program that computes attention in training, for rows of data.max_tokens."""
  return kernels.choose(
      s.mesh, dtype=s.config.dtype, time=c.data.max_tokens - 1,
      head_dim=s.config.head_dim, kv_heads=s.config.num_kv_heads,
      segmented=c.train.pack)


def say_attention(c, s: inputs.Inputs) -> None:
  """Prints the program for attention, once in a run of several processes."""
  if processes.is_first():
    print(f'attention: {attention(c, s)}', file=sys.stderr)


def state_bytes(c, s: inputs.Inputs) -> int:
  """Bytes of the train state, gradients, base and teacher on one device."""
  _, tx = optimizer.make(total_steps=1, **c.optim)
  # Shapes alone: nothing is allocated.
  rule = reference.Reference(**c.reference)
  state = jax.eval_shape(
      lambda p: train_step.TrainState.create(
          p, tx, rule.start(p) if steps.reads_reference(c) else None), s.trained)

  def on_one(tree: Any) -> int:
    places = sharding.tree_shardings(tree, s.mesh)
    return sum(
        int(np.prod(place.shard_shape(x.shape))) * x.dtype.itemsize
        for x, place in zip(
            jax.tree.leaves(tree), jax.tree.leaves(places), strict=True))

  teacher = on_one(s.teacher.params) if s.teacher else 0
  # Gradients have the shapes of what is trained.
  return on_one(state) + on_one(state.params) + on_one(s.base) + teacher


def marked(tokenizer: Any, example: chat.Example) -> str:
  """The example's text, special tokens included, with the trained parts marked."""
  # Indices where trained and untrained text meet.
  edges = np.flatnonzero(np.diff(example.supervised.astype(int))) + 1
  parts = []
  for part in np.split(np.arange(len(example.tokens)), edges):
    piece = tokenizer.decode(example.tokens[part])
    parts.append(f'»{piece}«' if example.supervised[part[0]] else piece)
  return ''.join(parts)
