r"""What fewer bits do to phi: bfloat16 products, and bfloat16 or int8 caches.

python -m experiments.bench.precision [--model=smollm2] [--samples=512] [--tokens=64]

The model answers questions of the embedded world by sampling. Own samples and the
reference solutions are scored with float32 and with bfloat16 products; both hold
the weights, the softmax and phi in float32. Then samples are drawn with caches of
fewer bits, and scored in float32: their mean phi is 0 if the cache changes nothing.
Standard errors are over texts.
"""

import dataclasses
from typing import Any, NamedTuple

from absl import flags
import jax
import numpy as np

from ddt_jax import ddt
from ddt_jax import engine
from ddt_jax import model
from ddt_jax import sharding
from ddt_jax.data import chat
from ddt_jax.embedded import word_problems
from ddt_jax.scoring import forward
from experiments.bench import paired
from experiments.run import inputs
from experiments.run import lifecycle

_MODEL = flags.DEFINE_string(
    'model', 'embedded', 'Hugging Face folder or id, embedded or smollm2.')
_SAMPLES = flags.DEFINE_integer('samples', 512, 'Texts of each kind.', lower_bound=2)
_TOKENS = flags.DEFINE_integer(
    'tokens', 64, 'Longest text, tokens.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 16, 'Rows scored together.', lower_bound=1)

CACHES = ('float32', 'bfloat16', 'int8')
LEVEL = 0.05  # of the tests


class Model(NamedTuple):
  """A model on one device, and the token that ends its turns."""

  tokenizer: Any
  config: model.ModelConfig
  params: Any
  end: chat.TurnEnd
  mesh: jax.sharding.Mesh


def load(path: str) -> Model:
  mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
  tokenizer, config, params = inputs.load_model(
      mesh, path=path, dtype='float32', remat='none')
  end = chat.turn_end(tokenizer, config.eos_ids)
  return Model(tokenizer, config, params, end, mesh)


def draw(m: Model, problems, cache_dtype: str) -> list[chat.Example]:
  """A sampled answer to each problem, as an example whose answer is scored."""
  prompts = [
      chat.encode_prompt(m.tokenizer, p.conversation[:-1]) for p in problems]
  with engine.progress_bar(len(prompts), 'own samples') as bar:
    found = engine.generate(
        m.params, m.config, prompts, key=jax.random.key(0),
        max_new_tokens=_TOKENS.value, eos_ids=(*m.config.eos_ids, m.end.id),
        slots=64, cache_dtype=cache_dtype, journal=engine.Journal(bar=bar))
  return [
      chat.Example(
          np.array([*prompt, *g.tokens], np.int32),
          np.arange(len(prompt) + len(g.tokens)) >= len(prompt))
      for prompt, g in zip(prompts, found, strict=True)]


def references(m: Model, problems) -> list[chat.Example]:
  """The reference solutions, cut at the longest text."""
  examples = (chat.encode(m.tokenizer, p.conversation, m.end) for p in problems)
  cut = []
  for tokens, supervised, *_ in examples:
    most = int(np.argmax(supervised)) + _TOKENS.value
    cut.append(chat.Example(tokens[:most], supervised[:most]))
  return cut


def score(m: Model, examples, dtype: str) -> list[ddt.TokenStats]:
  config = dataclasses.replace(m.config, dtype=dtype)
  return list(forward.token_stats(
      m.params, config, examples, batch=_BATCH.value, mesh=m.mesh))


def mean(texts: list[np.ndarray]) -> dict[str, float]:
  """Mean over tokens, and its standard error, for which texts are independent."""
  sums, counts = np.array([[x.sum(), len(x)] for x in texts]).T
  average = sums.sum() / counts.sum()
  spread = np.sum((sums - average * counts) ** 2) ** 0.5
  return {'mean': average, 'se': spread / counts.sum()}


def rejected(stats: list[ddt.TokenStats]) -> float:
  """Share of texts that the on-policy test rejects."""
  longest = max(len(x.phi) for x in stats)
  rows = jax.tree.map(
      lambda *x: np.stack([np.pad(a, (0, longest - len(a))) for a in x]), *stats)
  mask = np.stack([np.arange(longest) < len(x.phi) for x in stats])
  return float(np.mean(ddt.on_policy_test(rows, mask).p_value < LEVEL))


def compare_products(m: Model, name: str, examples: list[chat.Example]) -> None:
  """Prints phi in float32 and bfloat16, and the difference."""
  scores = {dtype: score(m, examples, dtype) for dtype in ('float32', 'bfloat16')}
  for dtype, stats in scores.items():
    paired.show(f'{name}, {dtype} products: phi in nats a token',
                mean([x.phi for x in stats]) | {'rejected': rejected(stats)})
  moved = [
      np.asarray(b.phi) - np.asarray(a.phi) for a, b in zip(
          scores['float32'], scores['bfloat16'], strict=True)]
  every = np.concatenate(moved)
  paired.show(f'{name}: phi in bfloat16 - phi in float32, nats a token', mean(moved) | {
      'sd': float(every.std()), 'p99': float(np.quantile(np.abs(every), 0.99)),
      'sd of a text': float(np.std([x.mean() for x in moved])),
      'tokens': len(every)})


def main():
  with lifecycle.explained_errors():
    m = load(_MODEL.value)
  problems = word_problems.load('train')[:_SAMPLES.value]
  compare_products(m, 'references', references(m, problems))
  for cache in CACHES:
    examples = draw(m, problems, cache)
    if cache == 'float32':
      compare_products(m, 'own samples', examples)
      continue
    stats = score(m, examples, 'float32')
    paired.show(f'samples with a cache in {cache}: phi in nats a token',
                mean([x.phi for x in stats]) | {'rejected': rejected(stats)})


if __name__ == '__main__':
  lifecycle.launch(main)
