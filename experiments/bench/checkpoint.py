r"""How long a save stops training: in the background, and while it is waited for.

python -m experiments.bench.checkpoint [--sizes=embedded,smollm2] [--rounds=3]

The train state of a model (parameters and two moments, random numbers) is saved
both ways in turns. The stall is the time until the next step may start; a save in
the background counts some seconds later, which is printed as well. Between two
saves a step changes the state in place, as in training.
"""

import functools
import itertools
import tempfile
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from ddt_jax import model
from ddt_jax.training import checkpoint
from ddt_jax.training import optimizer
from ddt_jax.training import train_step
from experiments.bench import paired
from experiments.run import lifecycle
from experiments.run import model_files

_SIZES = flags.DEFINE_list(
    'sizes', ['embedded', 'smollm2'], 'Models of which the shapes are taken.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds; each way saves once.')


def random_state(path: str) -> train_step.TrainState:
  """A train state of a model's shapes; its numbers do not compress."""
  config = model.ModelConfig.from_hf(model_files.model_folder(path))
  _, tx = optimizer.make(total_steps=1, lr=1e-3)
  shapes = jax.eval_shape(lambda: train_step.TrainState.create(
      model.init(config, jax.random.key(0)), tx))
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: jnp.asarray(rng.standard_normal(x.shape, np.float32)).astype(x.dtype),
      shapes)


@functools.partial(jax.jit, donate_argnums=0)
def step(state: train_step.TrainState) -> train_step.TrainState:
  """Changes the state where it stands in memory."""
  return jax.tree.map(lambda x: x + 1, state)


def main():
  with tempfile.TemporaryDirectory() as folder:
    for name in _SIZES.value:
      held = [random_state(name)]
      nbytes = sum(x.nbytes for x in jax.tree.leaves(held[0]))
      paired.show(f'{name}, state', {'GB': nbytes / 1e9})
      kept = checkpoint.Checkpoints(folder, name, keep=1)
      held[0] = jax.block_until_ready(step(held[0]))
      numbers = itertools.count(1)

      def save(*, background, held=held, kept=kept, numbers=numbers):
        began = time.perf_counter()
        kept.save(next(numbers), held[0], {}, background=background)
        stall = time.perf_counter() - began
        held[0] = jax.block_until_ready(step(held[0]))
        checkpoint.finish()
        return {'stall': stall, 'counts': time.perf_counter() - began}

      taken = paired.seconds({
          'waited for': lambda save=save: save(background=False),
          'in the background': lambda save=save: save(background=True),
      }, _ROUNDS.value)
      paired.show_seconds(taken, f'{name}, ')
      paired.show(
          f'{name}, stall in the background / waited for', paired.ratio(
              taken, 'in the background, stall', 'waited for, stall'), '<= 0.1')


if __name__ == '__main__':
  lifecycle.launch(main)
