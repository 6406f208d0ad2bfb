"""Folders of finished runs with made-up numbers."""

import dataclasses
import json
import math
import random

from ddt_jax import significance
from ddt_jax.report import results
from ddt_jax.rounds import counts
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import text_stats
from ddt_jax.training import metrics

CONFIG = {
    'model': {'path': 'embedded'}, 'seed': 0, 'rounds': 2,
    'loss': {'name': 'idft', 'beta': 1.0, 'gamma_min': 0.1, 'gamma_max': 2.0},
    'optim': {'lr': 3e-4, 'schedule': 'cosine'}, 'data': {'max_tokens': 256},
    'train': {'batch': 32, 'pack': False, 'epochs': 1}}
HOSTILE = '<script>alert(1)</script>'


def _interval(value, count):
  half = 1.96 * math.sqrt(value * (1 - value) / count)
  return significance.Interval(
      value, max(value - half, 0.0), min(value + half, 1.0))


def measures(n, k, greedy, sampled):
  return evaluate.SplitAccuracy(
      problems=n, samples=k, pass_at_1=_interval(greedy, n),
      avg_at_k=_interval(sampled, 2 * n), abstained=1, mean_tokens=41.5,
      unfinished=3, skipped=0)


def curated_round(own, hinted):
  def count(n, skipped):
    return counts.StageCounts(
        responses=n, accepted=n, correct=n, abstained=1,
        skipped=skipped, mentions=0,
        tokens=57 * n)

  return counts.RoundSummary(
      problems=2000, unanswerable=0, own=count(own, 0),
      hinted=count(hinted, 13), dropped={},
      solved={'own': own, 'hinted': hinted, 'reference': 0},
      sources={'own': counts.SourceStats(own, 0.0034, 57.25),
               'hinted': counts.SourceStats(hinted, -0.0411, 58.5),
               'reference': counts.SourceStats(0, None, None)},
      skipped_for={'no marker': 13},
      timings={'sample': 20.0, 'rewrite': 35.0, 'score': 5.0})


def texts(nll, phi, weight, histogram):
  return text_stats.TextStats(
      nll=nll, phi=phi, entropy=0.5, weight=weight, ess=0.9, clipped=0.1,
      tokens=98304.0, examples=2000, histogram=histogram)


def run_results(**changed):
  edges = tuple(i / 4 for i in range(-40, 17))

  def histogram(center, width):
    return text_stats.Histogram(edges, tuple(
        round(1e5 * math.exp(-abs(edge - center) / width))
        for edge in edges[1:]))

  chance = random.Random(0)
  tokens = ('Tom', ' has', ' 12', ' apples', ' &', ' gives', ' 5', ' away', '.', '\n',
            'So', ' he', ' keeps', ' 12', ' -', ' 5', ' =', ' ', '\\boxed{', '7', '}',
            HOSTILE, '|', '<|im_end|>')
  before = [min(chance.gauss(-0.6, 1.6), 1.8) for _ in tokens]
  before[9], before[18], before[21] = -4.0, -7.5, -9.0  # newline, box, script
  first = {'target': measures(200, 4, 0.41, 0.405),
           'generalisation': measures(200, 4, 0.325, 0.31),
           'retained': measures(200, 4, 0.92, 0.9)}
  last = {'target': measures(200, 4, 0.635, 0.62),
          'generalisation': measures(200, 4, 0.365, 0.4275),
          'retained': measures(200, 4, 0.915, 0.8975)}
  return dataclasses.replace(results.RunResults(
      name='idft', seed=0, evaluation=(first, first, last),
      rounds=(curated_round(1107, 847), curated_round(1403, 134)),
      corpus=results.Reference(
          texts(0.8123, -0.3127, 0.61, histogram(-0.1, 0.9)),
          texts(0.5511, -0.0921, 0.72, histogram(0.0, 0.5))),
      data=results.Data(
          train=2000, validation=100, bad_rows=2, truncated=5, dropped=1,
          turn_end='<|im_end|>'),
      training=results.Training(
          steps=300, tokens=1234567, seconds=252.4, skipped=1, best_step=250,
          best_by='nll', best_value=0.561, parameters=1180416, weight=0.7,
          ess=0.8),
      timings={'load': 2.1, 'evaluate before': 31.0, 'train': 252.4,
               'evaluate after': 30.2},
      examples=(results.ShownText(
          f'A training example {HOSTILE}', (results.ShownTurn(
              context=f'Tom has 12 apples. {HOSTILE} How many?', tokens=tokens,
              phi_before=tuple(before),
              phi_after=tuple(0.4 * phi for phi in before)),)),),
      status=None,
      problems=tuple(results.ShownProblem(
          f'Problem {i} {HOSTILE}', '7', (
              results.ShownAnswer('reference', ('12', ' -', ' 5'), (-3.0, -1.0, 0.1)),
              results.ShownAnswer('wrong', ('So', ' 8'), (0.1, -0.2)),
              results.ShownAnswer('rewritten', ('So', ' 7'), (0.1, 0.2))))
          for i in range(1, 5)),
      machine=results.Machine('8 x TPU v5 lite', 'ddt_jax 0.1.0, jax 0.9'),
  ), **changed)


def workdir(folder, found, *, validation=True):
  """The folder of a run, as training leaves it before the report."""
  chance = random.Random(1)
  config = CONFIG
  with metrics.Writer(folder, tensorboard=False) as writer:
    for step in range(1, 301):
      nll = 0.5 + 0.4 * math.exp(-step / 80)
      writer.write(step, 'train', {
          'nll': nll + chance.gauss(0, 0.05), 'loss': 0.4 * nll + chance.gauss(0, 0.02),
          'phi': -0.1})
      if validation and step % 50 == 0:
        writer.write(step, 'validation', {
            'nll': nll + 0.03 + (0.01 if step == 300 else 0), 'phi': -0.1})
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'results.json').write_text(found.to_json())
  return folder
