r"""Time and memory until the first batch of a large file, with no step computed.

python -m experiments.bench.startup [--rows=300000] [--file=FILE.jsonl|.parquet]

Makes a file of conversations whose lengths are those of chains of thought, see
`bench.packing`. Then it starts `configs/reference.py` on it twice, each time in a
process of its own, with SmolLM2's tokenizer: reading, checking, tokenising, the
round's corpus, the plan of packed rows, one batch. The first start finds no kept
tokens.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import flags
import numpy as np

from configs import reference
from ddt_jax import storage
from experiments.bench import models
from experiments.bench import paired
from experiments.run import curation
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import steps

_ROWS = flags.DEFINE_integer('rows', 300_000, 'Rows of the file.')
_FILE = flags.DEFINE_string(
    'file', '', 'A .jsonl or .parquet file, made if it is missing; default: one in'
    ' a temporary folder.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the texts.')
_LONGEST = flags.DEFINE_integer('longest', 4096, 'Tokens of an example.')
_MODEL = flags.DEFINE_string('model', 'smollm2', 'The model.path of the tokenizer.')
_RUN = flags.DEFINE_string(
    'run', '', 'Folder of a run: one start in this process, and no more.')
_POOL = 20_000  # sentences that texts consist of
_WORDS = (
    'the of and to a in is that it was for on are as with they at be this from have'
    ' or by one had not but what all were when we there can an your which their if do'
    ' will each how them then many some so these would other into has more two like'
    ' time number people sum product equation value square root triangle angle side'
    ' length total price apples remaining therefore because since divide multiply'
    ' subtract add both sides simplify substitute variable function integer positive'
    ' negative fraction denominator probability expected average distance speed hours'
).split()


def sentences(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
  """Sentences with numbers, and the tokens of each, about."""
  pool, sizes = [], []
  for _ in range(_POOL):
    words = rng.choice(_WORDS, rng.integers(5, 15))
    a, b = rng.integers(1, 1000, 2)
    pool.append(' '.join(words) + f', so {a} + {b} = {a + b}. ')
    # SmolLM2 has a token for each word, digit and mark.
    sizes.append(len(words) + 8 + len(f'{a}{b}{a + b}'))
  return pool, np.array(sizes)


def write(file: pathlib.Path, rows: int, seed: int) -> None:
  """Writes rows of `problem` and `solution`."""
  rng = np.random.default_rng(seed)
  pool, sizes = sentences(rng)
  mean = float(sizes.mean())

  def some(tokens):
    return ''.join(pool[i] for i in rng.integers(
        0, _POOL, max(1, round(tokens / mean))))

  def texts():
    for i, length in enumerate(models.chain_lengths(rows, _LONGEST.value)):
      # 30: the chat template's own tokens.
      yield {'problem': f'{i}: ' + some(min(60, length / 6)),
             'solution': some(length - min(60, length / 6) - 30)}

  if file.suffix == '.jsonl':
    with file.open('w') as f:
      f.writelines(json.dumps(row) + '\n' for row in texts())
    return
  import pyarrow  # here: it loads slowly, and JSON files do not need it
  from pyarrow import parquet
  columns = pyarrow.schema([('problem', 'string'), ('solution', 'string')])
  block = []
  with parquet.ParquetWriter(file, columns) as f:
    for row in texts():
      block.append(row)
      if len(block) == 10_000:
        f.write(pyarrow.RecordBatch.from_pylist(block, columns))
        block = []
    if block:
      f.write(pyarrow.RecordBatch.from_pylist(block, columns))


def config(file: str):
  """The config of a run on the file; one packed row a step."""
  c = reference.get_config()
  c.model.path = _MODEL.value
  c.data.path, c.data.max_tokens = file, _LONGEST.value
  c.data.validation = c.data.evaluation = 0.01
  c.train.batch, c.train.pack = 1, True
  c.curate.score = False
  return c


def start(file: str, folder: str) -> dict[str, float]:
  """Starts a run up to its first batch.

  Args:
    file: of the rows.
    folder: of the run.

  Returns:
    Seconds by stage, tokens, and the peak memory of this process in GB.
  """
  marks = {}

  def mark(name):
    marks[name] = time.perf_counter() - began
    print(f'{name}: {marks[name]:.1f} s', file=sys.stderr, flush=True)

  began = time.perf_counter()
  kept = len(list((storage.user_cache() / 'tokens').glob('*/*')))
  c = config(file)
  s = inputs.make(c)
  mark('read and tokenised')
  corpus = curation.corpus_of_round(
      c, s, 0, s.params, pathlib.Path(folder) / 'rounds/0', 0)
  mark('corpus')
  stream, total = steps.make_stream(c, corpus.examples, 0)
  mark('planned')
  next(stream)
  mark('first batch')
  used = os.times()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return marks | {
      'files of kept tokens': kept,
      'tokens': sum(len(e.tokens) for e in s.train.examples), 'steps': total,
      'CPU seconds': used.user + used.system, 'peak GB': peak / 1e9}


def main():
  if _RUN.value:
    print(json.dumps(start(_FILE.value, _RUN.value)))
    return
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(_FILE.value or f'{folder}/rows.jsonl')
    if not file.exists():
      write(file, _ROWS.value, _SEED.value)
    # A cache of its own: the first start must find nothing.
    environment = os.environ | {'XDG_CACHE_HOME': folder}
    for name in ('first', 'second'):
      found = subprocess.run(
          [sys.executable, '-m', 'experiments.bench.startup', f'--file={file}',
           f'--model={_MODEL.value}', f'--longest={_LONGEST.value}',
           f'--run={folder}/run'],
          env=environment, stdout=subprocess.PIPE, text=True, check=True)
      paired.show(f'{name} start', json.loads(found.stdout.splitlines()[-1]))


if __name__ == '__main__':
  lifecycle.launch(main)
