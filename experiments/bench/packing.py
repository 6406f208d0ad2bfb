r"""What packing gains on texts as long as chains of thought.

python -m experiments.bench.packing [--size=2x128x2048] [--time=4096] [--rounds=5]

Lengths are log-normal with median 300 and 99th percentile 3,500 tokens, cut at
--time. Rows without packing are as long as the longest example. Gradients of IDFT
on a batch of either kind take turns, so their ratio counts; the supervised
tokens of a batch are the mean over all batches.
"""

import time

from absl import flags
import jax

from ddt_jax.data import batches
from ddt_jax.data import packing
from ddt_jax.training import train_step
from experiments.bench import models
from experiments.bench import paired
from experiments.bench import workloads
from experiments.run import lifecycle

_SIZE = flags.DEFINE_string('size', '2x128x2048', 'Layers x width x vocabulary.')
_TIME = flags.DEFINE_integer('time', 4096, 'Longest example, in tokens.')
_EXAMPLES = flags.DEFINE_integer('examples', 300_000, 'Examples that are planned.')
_ROWS = flags.DEFINE_integer('rows', 2, 'Rows of a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds; each contender steps once.')


def main():
  config = models.named(_SIZE.value)
  lengths = models.chain_lengths(_EXAMPLES.value, _TIME.value)
  inputs = list(lengths - 1)
  began = time.perf_counter()
  rows = packing.plan(inputs, _TIME.value - 1, seed=0)
  paired.show(f'plan of {len(lengths):,} examples',
              {'seconds': time.perf_counter() - began, 'rows': len(rows)})
  alone = [[i] for i in range(len(lengths))]
  kinds = {'packed': rows, 'one example a row': alone}
  supervised = {}
  for name, planned in kinds.items():
    padding = packing.padding_share(planned, inputs, _TIME.value - 1)
    paired.show(f'padding, {name}', {'share': padding},
                '<= 0.03' if name == 'packed' else '')
    supervised[name] = sum(inputs) / len(planned)  # a row

  # One batch of each kind; its shape decides the time of a step, not its content.
  some = workloads.examples(config, lengths[:50 * _ROWS.value])
  packed = next(packing.pack(
      some, rows=_ROWS.value, time=_TIME.value - 1, seed=0))
  padded = batches.collate(some[:_ROWS.value], _ROWS.value, _TIME.value - 1)
  params = models.weights(config)

  def gradient(params, batch):
    return jax.grad(
        lambda p: train_step.loss_sums(p, config, batch, 'idft')[0])(params)

  taken = paired.seconds({
      name: paired.compiled(gradient, params, batch)
      for name, batch in zip(kinds, (packed, padded), strict=True)
  }, _ROUNDS.value)
  paired.show_seconds(taken, 'step, ')
  gain = supervised['packed'] / supervised['one example a row']
  faster = paired.ratio(taken, 'one example a row', 'packed')
  paired.show(
      'supervised tokens a second, packed / one example a row',
      faster | {k: gain * faster[k] for k in ('median', 'low', 'high')}, '>= 5')


if __name__ == '__main__':
  lifecycle.launch(main)
