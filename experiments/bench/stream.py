r"""Speed of scoring a large file, compared with a bare forward pass over its batches.

python -m experiments.bench.stream [--rows=100000]

The embedded student scores reference solutions of the embedded world. Scoring covers
the whole way: counting the file's rows, tokenising, batching, statistics and PIT of
every response token, Parquet and JSON lines, ranks. The bare pass computes the logits
of prepared batches and writes nothing. Both take turns over parts of the corpus in one
process. The resident memory is printed after each part.
"""

import functools
import json
import os
import pathlib
import tempfile
import time

from absl import flags
import jax
import transformers

from ddt_jax import embedded
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import buckets
from ddt_jax.data import census
from ddt_jax.data import chat
from ddt_jax.embedded import problems
from ddt_jax.scoring import forward
from ddt_jax.scoring import scored_corpus
from ddt_jax.scoring import sources
from experiments.bench import paired
from experiments.run import lifecycle

_ROWS = flags.DEFINE_integer('rows', 100_000, 'Rows of all files together.')
_TOKENS = flags.DEFINE_integer('tokens', 4096, 'Tokens of a batch, padding included.')
_SHARD = flags.DEFINE_integer('shard', 2048, 'Rows of a shard.')
_PARTS = flags.DEFINE_integer('parts', 4, 'Number of files.')
_DISTINCT = 1 << 14  # problems; a longer file repeats them
COLUMNS = dict(
    problem='problem', solution='solution', messages='messages', answer='', id='')


def write(path, rows):
  """Writes problems with their reference solutions as JSON lines."""
  lines = [
      json.dumps({'problem': p.problem, 'solution': p.solution}) + '\n'
      for p in problems.problems('train', min(rows, _DISTINCT))
  ]
  with open(path, 'w') as f:
    for i in range(rows):
      f.write(lines[i % len(lines)])


def megabytes() -> float:
  """Resident memory of this process, in MB."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


@functools.partial(jax.jit, static_argnames='config')
def bare(params, config, batch):
  return model.forward(params, config, batch.tokens, positions=batch.positions)[0]


class Contenders:
  """The scoring command's work and the bare pass, on one part of the corpus."""

  def __init__(self):
    self.mesh = sharding.make_mesh(devices=jax.devices()[:1])
    self.config, self.params = weights.load(embedded.STUDENT, mesh=self.mesh)
    self.tokenizer = transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)
    self.end = chat.turn_end(self.tokenizer, self.config.eos_ids)
    self.how = dict(batch=1, tokens=_TOKENS.value)

  def source(self, path):
    return sources.File(
        path, COLUMNS, {}, census.take(path, columns=COLUMNS), self.tokenizer,
        self.end, self.config.vocab_size, self.config.max_positions)

  def score(self, path, folder) -> tuple[float, int]:
    """Returns the seconds and the number of scored tokens."""
    began = time.perf_counter()
    corpus = scored_corpus.ScoredCorpus(
        folder, self.source(path), size=_SHARD.value, made_from={})
    corpus.score(
        lambda examples: forward.dispatch(
            self.params, self.config, examples, mesh=self.mesh, tail=True,
            **self.how),
        seed=0)
    seconds = time.perf_counter() - began
    return seconds, int(corpus.columns('length')['length'].sum())

  def forward(self, path) -> float:
    """Seconds of computing logits for the batches that scoring makes of the file."""
    seconds = 0.0
    for block in self.source(path).blocks(_SHARD.value, 0):
      examples = [row.example for row in block]
      (window,) = buckets.by_length(examples, ahead=len(examples), **self.how)
      made = [batches.place(rows, self.mesh) for _, rows in window]
      began = time.perf_counter()
      for rows in made:
        last = bare(self.params, self.config, rows)
      jax.block_until_ready(last)
      seconds += time.perf_counter() - began
    return seconds


def main():
  both = Contenders()
  scored, taken = 0, {'scoring': [], 'bare forward': []}
  with tempfile.TemporaryDirectory() as folder:
    for part in range(_PARTS.value + 1):
      path = os.path.join(folder, f'{part}.jsonl')
      write(path, _ROWS.value // _PARTS.value)
      seconds, tokens = both.score(path, os.path.join(folder, str(part)))
      other = both.forward(path)
      if not part:  # the warm-up compiles
        continue
      scored += tokens
      taken['scoring'].append(seconds)
      taken['bare forward'].append(other)
      print(f'part {part}: scoring {seconds:.1f} s, bare forward {other:.1f} s,'
            f' {megabytes():,.0f} MB resident', flush=True)
  total = {name: sum(x) for name, x in taken.items()}
  paired.show(f'{_ROWS.value} rows, {scored} scored tokens: seconds', total)
  paired.show('speed of scoring / bare forward', {
      'all': total['bare forward'] / total['scoring'],
      **paired.ratio(taken, 'bare forward', 'scoring')}, '>= 0.8')


if __name__ == '__main__':
  lifecycle.launch(main)
