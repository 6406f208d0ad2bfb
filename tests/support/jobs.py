"""Jobs that several processes do together, each with four fake devices.

`launch` starts them; each of them runs `python -m tests.support.jobs`.
"""

import json
import pathlib
import sys
import tempfile

import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import hinted_decode
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.scoring import forward
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from ddt_jax.weights import saving
from tests.support import commands
from tests.support import memory
from tests.support import paths

MODEL = paths.GOLDEN / 'models' / 'qwen2-tiny'


def launch(job, folder, *, n=2, timeout=300):
  """Runs a job in `n` processes and returns the result of each."""
  address = commands.free_address()
  files = [folder / f'{job}{i}.json' for i in range(n)]
  started = [
      commands.start(
          'tests.support.jobs', job, address, str(n), str(i), str(file), devices=4)
      for i, file in enumerate(files)
  ]
  try:
    for process in started:
      _, said = process.communicate(timeout=timeout)
      assert process.returncode == 0, said[-2000:]
  finally:
    for process in started:
      process.kill()
  return [json.loads(file.read_text()) for file in files]


def decode():
  """Hinted and plain responses, from parameters sharded as in training."""
  config, params = weights.load(MODEL, mesh=sharding.make_mesh())
  pairs = [([3 + i, 7, 11] * (1 + i % 3), [5, 2 + i] * (2 + i)) for i in range(13)]
  how = dict(
      max_new_tokens=20, temperature=0.8, top_p=0.95, eos_ids=range(0, 503, 9),
      key=jax.random.key(5), slots=4,
      mesh=sharding.decoding_mesh(sharding.make_mesh(), tensor=2),
  )
  hinted = hinted_decode.generate(params, config, pairs, beta=1.0, **how)
  prompts = [s for s, _ in pairs]
  plain = engine.generate(params, config, prompts, **how)
  alone = None
  # Without a mesh one process decodes alone; the others need not take part.
  if jax.process_index() == jax.process_count() - 1:
    _, own = weights.load(MODEL)
    alone = engine.generate(own, config, prompts, **how | {'mesh': None})
  return {'hinted': hinted, 'plain': plain, 'alone': alone}


def train(mesh=None):
  """Losses of ten steps, the gradient of the first, and scores of the examples.

  512 tokens in the vocabulary: devices can split the head evenly.
  """
  mesh = mesh or sharding.make_mesh(data=2, fsdp=2, tensor=2)
  config = model.ModelConfig.from_hf(dict(
      model_type='qwen2', vocab_size=512, hidden_size=32, intermediate_size=64,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      rms_norm_eps=1e-6, max_position_embeddings=64, initializer_range=0.05,
  ))
  _, tx = optimizer.make(total_steps=10, lr=1e-3)

  def create():
    return train_step.TrainState.create(
        model.init(config, jax.random.key(0)), tx)

  where = sharding.tree_shardings(jax.eval_shape(create), mesh)
  state = jax.jit(create, out_shardings=where)()
  rng = np.random.default_rng(0)
  examples = [
      chat.Example(rng.integers(0, 512, n).astype(np.int32), np.arange(n) > n // 2)
      for n in rng.integers(4, 25, 32)
  ]
  placed = sharding.batch_sharding(mesh)
  step = jax.jit(
      train_step.make_train_step(
          config, tx, name='idft', mesh=mesh, micro_batches=2),
      in_shardings=(where, placed), out_shardings=(where, None),
  )
  gradient = jax.jit(
      jax.grad(lambda p, b: train_step.loss_sums(
          p, config, b, 'idft', mesh=mesh)[0]),
      in_shardings=(where.params, placed), out_shardings=where.params,
  )
  stats = forward.token_stats(state.params, config, examples, batch=16, mesh=mesh)
  scores = [x for each in stats for x in each.phi.tolist()]
  losses, first = [], None
  for batch in batches.Stream(examples, batch=16, epochs=5, seed=0):
    batch = batches.place(batch, mesh)
    if first is None:
      first = jax.tree.map(processes.to_host, gradient(state.params, batch))
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss'] / metrics['count']))
  first = np.concatenate([x.ravel() for x in jax.tree.leaves(first)])
  return {'losses': losses, 'gradient': first.tolist(), 'phi': scores}


def save():
  """Weights in several files: their number, whether they come back, and the peak.

  The folder exists for one process alone: the first must be the one that writes.
  """
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  config, params = weights.load(MODEL, mesh=mesh)
  saving.SHARD_BYTES = 200_000
  with tempfile.TemporaryDirectory() as folder:
    with memory.peak_of_numpy((processes, 'to_host')) as peak:
      weights.save(folder, config, params)
    files = len(list(pathlib.Path(folder).glob('*.safetensors')))
    equal = None
    if files:
      here = sharding.make_mesh(devices=jax.local_devices()[:1])
      _, again = weights.load(folder, mesh=here)
      _, before = weights.load(MODEL, mesh=here)
      same = jax.tree.map(lambda a, b: bool((a == b).all()), again, before)
      equal = all(jax.tree.leaves(same))
  return {'files': files, 'equal': equal, 'peak': peak.bytes}


def decide():
  """Process 0's decisions, and the error that the others see."""
  index = jax.process_index()
  numbers = processes.from_first(lambda *x: [index, *x], 4, 'äß')
  text = processes.from_first(str.center, 'x' * (index + 1), 300, '.')
  try:
    processes.from_first(int, 'no number')
  except (ValueError, processes.FirstFailed) as e:
    return [numbers, text, type(e).__name__, str(e)]


def main(job, address, count, index, out):
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(address, int(count), int(index))
  found = {'decode': decode, 'decide': decide, 'save': save, 'train': train}[job]()
  pathlib.Path(out).write_text(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
