r"""Speed of decoding, compared with the official algorithm and with torch.

python -m experiments.bench.decode [--model=27m] [--rounds=11] [--json=FILE]

Random weights in float32; prompts of 128 tokens (student) and 512 (hinted). All
contenders take turns in one process. A ratio is the median over rounds of the ratio
within a round. Needs the extra [parity], for torch.
"""

import json
import statistics
import tempfile

from absl import flags
import jax
import numpy as np

from ddt_jax import engine
from ddt_jax import model
from ddt_jax import storage
from ddt_jax import weights
from experiments.bench import models
from experiments.bench import paired
from experiments.bench import peers
from experiments.bench import workloads
from experiments.run import lifecycle

_MODEL = flags.DEFINE_enum('model', '27m', ['tiny', '27m'], 'Size of the model.')
_ROUNDS = flags.DEFINE_integer(
    'rounds', 11, 'Number of rounds; each contender runs once in a round.')
_JSON = flags.DEFINE_string('json', '', 'File that the results are written to.')
_NEW = flags.DEFINE_integer('new', 64, 'New tokens per request.')

STUDENT, HINTED = 128, 512  # tokens of a prompt
SIZES = {
    'tiny': dict(vocab=503, width=64, mlp=160, layers=3, heads=4, kv_heads=2),
    '27m': dict(vocab=32768, width=384, mlp=1024, layers=8, heads=6, kv_heads=2),
}


def make_model(name: str):
  config = models.qwen2(**SIZES[name])
  return config, model.init(config, jax.random.key(0))


def utilisation(params, config):
  """Share of slot steps that yield a token: ours and two other schedules.

  Ideal list scheduling gives each request to the first free slot at no cost. Static
  batches wait for their longest request.
  """
  lengths = np.random.default_rng(3).geometric(1 / 16, 512).clip(1, 64)
  requests = [
      engine.Request(([2 + i % 100] * 8,), int(n), i)
      for i, n in enumerate(lengths)
  ]
  syncs = []
  engine.run(
      params, config, requests, engine.DecodeOptions(eos_ids=(), slots=8),
      key=jax.random.key(0), on_sync=syncs.append,
  )
  free = [0] * 8
  for n in lengths:
    free.sort()
    free[0] += int(n)
  static = sum(8 * max(lengths[i: i + 8]) for i in range(0, 512, 8))
  return {
      'ours': lengths.sum() / (8 * sum(s.steps for s in syncs)),
      'list scheduling': lengths.sum() / (8 * max(free)),
      'static batches': lengths.sum() / static,
      'steps per host sync': sum(s.steps for s in syncs) / len(syncs),
  }


def step_times(params, config, lengths=(128, 512, 1024)):
  """Milliseconds of a hinted decoding step with 8 requests, by response length.

  Returns:
    Rows (tokens, ms a step at the start, ms a step at the end, share of attention).
    Attention is the only part of a step that grows with the context. So its share is
    estimated by the slope of a line through the last steps of all rows.
  """
  rows = []
  for new in lengths:
    pairs = workloads.make_pairs(config, 8, STUDENT, HINTED)
    run = workloads.Decoding(params, config, pairs, new, slots=8)
    run()  # compiles
    run()
    each = [
        1000 * s.decode_s / s.steps for s in run.syncs
        if s.steps == engine.STEPS_PER_SYNC  # shorter ones mostly admit requests
    ]
    rows.append((new, each[0], each[-1]))
  columns = [STUDENT + HINTED + 2 * new for new in lengths]
  slope, _ = np.polyfit(columns, [last for *_, last in rows], 1)
  return [
      (*row, min(1.0, slope * n / row[-1]))
      for row, n in zip(rows, columns, strict=True)
  ]


def main():
  config, params = make_model(_MODEL.value)
  new = _NEW.value
  with tempfile.TemporaryDirectory() as folder:
    weights.save(folder, config, params)
    net = peers.load_torch(folder)
  pairs = workloads.make_pairs(config, 32, STUDENT, HINTED)
  in_jax = peers.official_in_jax(params, config)
  ours = {
      f'{kind}, {n}': workloads.Decoding(
          params, config, pairs[:n], new, slots=n, hinted=kind == 'hinted'
      )
      for n in (1, 8, 32) for kind in ('hinted', 'plain')
  }
  contenders = ours | {
      'official, torch': lambda: peers.official(net, pairs[:1], new),
      'official, jax': lambda: in_jax(pairs[:1], new),
      'two caches, torch, 8': lambda: peers.two_caches(net, pairs[:8], new),
      'plain, transformers, 8': lambda: peers.generate(net, pairs[:8], new),
  }
  taken = paired.every_turn(contenders, _ROUNDS.value)
  tokens = {name: int(name.split()[1]) * new for name in ours} | {
      'official, torch': new, 'official, jax': new,
      'two caches, torch, 8': 8 * new, 'plain, transformers, 8': 8 * new,
  }
  rates = {
      name: [tokens[name.removesuffix(', decode')] / s for s in each[1:]]
      for name, each in taken.items()
  }
  results = {
      'model': _MODEL.value, 'rounds': _ROUNDS.value,
      'parameters': sum(x.size for x in jax.tree.leaves(params)),
      'tokens/s': {k: statistics.median(v) for k, v in rates.items()},
      'first call, s': {name: taken[name][0] for name in contenders},
      'ratios': {
          f'{a} / {b}': paired.ratio(rates, a, b)['median'] for a, b in (
              ('hinted, 32', 'official, torch'),
              ('hinted, 32, decode', 'official, torch'),
              ('hinted, 32', 'official, jax'),
              ('hinted, 32, decode', 'official, jax'),
              ('hinted, 8', 'two caches, torch, 8'),
              ('hinted, 8, decode', 'two caches, torch, 8, decode'),
              ('plain, 8', 'plain, transformers, 8'),
              ('hinted, 1, decode', 'plain, 1, decode'),
              ('hinted, 8, decode', 'plain, 8, decode'),
          )
      },
      'utilisation': utilisation(params, config),
      'ms a step': step_times(params, config),
  }
  print(table(results))
  text = json.dumps(results, default=float)
  print(text)
  if _JSON.value:
    storage.publish(storage.path(_JSON.value), text + '\n')


def table(r) -> str:
  lines = [
      f'{r["model"]}: {r["parameters"]:,} parameters; prompts of {STUDENT} and'
      f' {HINTED} tokens; medians of {r["rounds"]} rounds',
      '', '| contender, requests | tokens/s | without prompts | first call, s |',
      '|---|---:|---:|---:|',
  ]
  rates = r['tokens/s']
  for name, seconds in r['first call, s'].items():
    decode = rates.get(f'{name}, decode')
    lines.append(
        f'| {name} | {rates[name]:,.1f} | {f"{decode:,.1f}" if decode else ""} |'
        f' {seconds:.1f} |'
    )
  lines += ['', '| ratio of tokens/s | median |', '|---|---:|']
  lines += [f'| {k} | {v:.2f} |' for k, v in r['ratios'].items()]
  lines += ['', '| 512 requests, 8 slots: useful tokens / (steps x slots) | |',
            '|---|---:|']
  lines += [f'| {k} | {v:.3f} |' for k, v in r['utilisation'].items()]
  lines += ['', '| new tokens | ms a step, first | last | share of attention |',
            '|---:|---:|---:|---:|']
  lines += [
      f'| {n} | {first:.2f} | {last:.2f} | {share:.0%} |'
      for n, first, last, share in r['ms a step']
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  lifecycle.launch(main)
