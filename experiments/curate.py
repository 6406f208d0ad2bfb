r"""Builds the on-policy corpus of one round, for any trainer.

python -m experiments.curate --config configs/idft.py --out corpus.jsonl \
    [--config.data.path=mine.jsonl] [--config.model.path=DIR]

Writes one conversation a line, {"messages": [...], "id", "source", "phi"}. What
was sampled on the way, wrong answers too, stays in the folder beside it, from
which an interrupted call goes on.
"""

import json

from absl import app
from absl import flags
from ml_collections import config_flags

from ddt_jax import processes
from ddt_jax import storage
from ddt_jax.rounds import curate
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import measure

_OUT = flags.DEFINE_string('out', 'corpus.jsonl', 'The file to write.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  lifecycle.start()
  c = flags.FLAGS.config
  c.rounds = 1  # of all problems
  out = storage.path(_OUT.value)
  folder = out.parent / f'{out.name}.shards'
  with inputs.owned(c, folder) as s:
    corpus = measure.curated(c, s, 0, s.params, folder, step=0)
    rows = zip(corpus.responses, corpus.problems, strict=True)
    lines = [json.dumps(curate.to_chat(*row)) + '\n' for row in rows]
    processes.from_first(lambda: storage.publish(out, ''.join(lines)))
  solved = corpus.summary.solved
  print(
      f'{out}: {len(corpus.responses)} of {corpus.summary.problems} problems;'
      f' {solved["own"]} solved by the model itself, {solved["hinted"]} by'
      f' hinting, {solved["reference"]} given as references'
  )


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', 'configs/idft.py')
  app.run(main)
