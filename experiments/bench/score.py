r"""Speed of the scorer, compared with the official calculator and a bare forward pass.

python -m experiments.bench.score [--size=4x512x151936] [--texts=12] [--rounds=11]

The texts are conversations of the embedded world, of mixed lengths. The model has
random weights in float32. Every token but a text's first is scored. The calculator
takes one text at a time. The bare pass computes the logits of the scorer's own batches
and nothing else: it shows what the statistics cost. The contenders take turns in one
process. A ratio is the median over rounds of the ratio within a round, with the
extremes. Peak memory is of fresh processes. The calculator needs the extra [parity].
"""

import copy
import functools
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import transformers

from ddt_jax import embedded
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import vocab_head
from ddt_jax import weights
from ddt_jax.data import buckets
from ddt_jax.data import chat
from ddt_jax.embedded import problems
from ddt_jax.scoring import forward
from experiments.bench import models
from experiments.bench import paired
from experiments.run import lifecycle

_SIZE = flags.DEFINE_string('size', '4x512x151936', 'Layers x width x vocabulary.')
_TEXTS = flags.DEFINE_integer('texts', 12, 'Number of texts.')
_BATCH = flags.DEFINE_integer('batch', 4, 'Rows scored together.')
_ROUNDS = flags.DEFINE_integer(
    'rounds', 11, 'Number of rounds; each contender runs once in a round.')
_CORPORA = flags.DEFINE_list(
    'corpora', ['512', '8192'],
    'Numbers of texts to stream; peak memory is shown for each.')
_STREAM = flags.DEFINE_integer(
    'stream', 0, 'Score this many random texts with a small model, print the peak'
    ' memory of the process in MB, and end.')


def make_chats(count):
  """Conversations of 1 to 8 problems with their solutions; most have 1 or 2."""
  turns = np.random.default_rng(0).geometric(0.4, count).clip(1, 8)
  each = problems.problems('train', int(turns.sum()))
  return [sum((list(next(each).conversation) for _ in range(n)), []) for n in turns]


def tokenise(chats):
  tokenizer = transformers.AutoTokenizer.from_pretrained(embedded.STUDENT)
  end = chat.turn_end(tokenizer)
  began = time.perf_counter()
  tokens = [chat.encode(tokenizer, turns, end).tokens for turns in chats]
  show_seconds('tokenising', began)
  return [chat.Example(t, np.arange(len(t)) > 0) for t in tokens]


def write(found):
  """Writes phi of each text as a line of JSON, and prints the seconds."""
  began = time.perf_counter()
  lines = [json.dumps({'phi': x.tolist()}) + '\n' for x in found]
  with tempfile.TemporaryDirectory() as folder:
    storage.publish(storage.path(folder) / 'phi.jsonl', ''.join(lines))
  show_seconds('writing', began)


def show_seconds(name, began):
  paired.show(f'{name}, seconds of all texts', {'s': time.perf_counter() - began})


def scorer(params, config, examples):
  """Contender that returns phi of each text."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return lambda: [
      stats.phi for stats in forward.token_stats(
          params, config, examples, batch=_BATCH.value, mesh=mesh)
  ]


@functools.partial(jax.jit, static_argnames='config')
def bare_logits(params, config, batch, places):
  """Logits at these flat positions of the batch; None is every position."""
  hidden, _ = model.forward(
      params, config, batch.tokens, positions=batch.positions,
      return_hidden=True)
  if places is not None:
    hidden = hidden.reshape(-1, config.width)[places]
  return model.logits(params, hidden)


def bare(params, config, examples):
  """Contenders that compute the logits of the scorer's batches, and nothing else.

  Returns:
    {name: contender}: logits of every position, and of the scored positions alone.
  """
  made = [
      rows for window in buckets.by_length(examples, batch=_BATCH.value)
      for _, rows in window
  ]
  scored = [np.flatnonzero(rows.mask) for rows in made]
  paired.show('scored tokens / places in the padded batches', {
      'ratio': sum(map(len, scored)) / sum(x.mask.size for x in made),
      'tokens': sum(map(len, scored)), 'batches': len(made),
      'shapes': len({x.mask.shape for x in made})})
  made = jax.tree.map(jnp.asarray, made)

  def contender(places):
    def call():
      for rows, at in zip(made, places, strict=True):
        jax.block_until_ready(bare_logits(params, config, rows, at))
    return call

  return {'bare forward': contender([None] * len(made)),
          'bare forward, scored places': contender(scored)}


def calculator(params, config, examples):
  """Contender that returns phi of each text in torch; and phi in float64."""
  from experiments.bench import peers

  with tempfile.TemporaryDirectory() as folder:
    weights.save(folder, config, params)
    net = peers.load_torch(folder)
  texts = [e.tokens for e in examples]
  exact = peers.phi(copy.deepcopy(net).double(), texts)
  return (lambda: peers.phi(net, texts)), exact


def show_differences(found, official, exact):
  """Prints the greatest differences between the three phi of a token."""
  for name, a, b in (('scorer and calculator', found, official),
                     ('scorer and float64', found, exact),
                     ('calculator and float64', official, exact)):
    paired.show(f'phi, {name}: greatest difference', {'nats': max(
        abs(x - y).max().item() for x, y in zip(a, b, strict=True))}, '<= 1e-5')


def without_result(f):
  """`f` as `paired` calls it, which takes a result for the seconds of parts."""
  def call():
    f()
  return call


def show_temporaries(config):
  """Prints the memory of the head's statistics for rows of more and more tokens."""
  head = jax.ShapeDtypeStruct((config.vocab_size, config.width), jnp.float32)
  for tokens in (4096, 8192, 32768):
    hidden = jax.ShapeDtypeStruct((1, tokens, config.width), jnp.float32)
    targets, mask = (jax.ShapeDtypeStruct((1, tokens), t)
                     for t in (jnp.int32, jnp.float32))
    run = jax.jit(vocab_head.supervised_stats).lower(hidden, head, targets, mask)
    paired.show(f'{tokens} tokens: temporaries of the head in MB',
                {'MB': run.compile().memory_analysis().temp_size_in_bytes / 1e6})


def stream(texts):
  """Prints the peak memory of scoring this many texts, read one by one."""
  config = models.named('2x64x4096')
  params = model.init(config, jax.random.key(0))

  def examples():
    rng = np.random.default_rng(0)
    for _ in range(texts):
      tokens = rng.integers(2, config.vocab_size, rng.integers(8, 256), np.int32)
      yield chat.Example(tokens, np.arange(len(tokens)) > 0)

  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  for _ in forward.token_stats(params, config, examples(), batch=8, mesh=mesh):
    pass
  print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))


def show_memory():
  """Prints the peak memory of processes that score few and many texts."""
  for texts in _CORPORA.value:
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.bench.score', f'--stream={texts}'],
        text=True, stdout=subprocess.PIPE, check=True)
    paired.show(f'{texts} texts streamed: peak memory of the process in MB',
                {'MB': json.loads(done.stdout)})


def main():
  if _STREAM.value:
    stream(_STREAM.value)
    return
  config = models.named(_SIZE.value)
  show_memory()
  show_temporaries(config)
  examples = tokenise(make_chats(_TEXTS.value))
  lengths = [len(e.tokens) for e in examples]
  paired.show('tokens of a text', {
      'shortest': min(lengths), 'mean': np.mean(lengths).item(),
      'longest': max(lengths)})
  args = models.weights(config), config, examples
  made = {'scorer': scorer(*args)}
  write(found := made['scorer']())
  if importlib.util.find_spec('torch'):
    made['calculator'], exact = calculator(*args)
    show_differences(found, made['calculator'](), exact)
  calls = bare(*args) | {name: without_result(f) for name, f in made.items()}
  taken = paired.seconds(calls, _ROUNDS.value)
  paired.show_seconds(taken)
  for peer, target in (
      ('calculator', '>= 2.5'), ('bare forward', '>= 0.92'),
      ('bare forward, scored places', ''),
  ):
    if peer in taken:
      paired.show(f'texts/s, scorer / {peer}',
                  paired.ratio(taken, peer, 'scorer'), target)


if __name__ == '__main__':
  lifecycle.launch(main)
