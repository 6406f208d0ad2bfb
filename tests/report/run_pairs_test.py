"""The report of a run on pairs."""

import dataclasses
import json

from ddt_jax import report
from ddt_jax.report import run_plots
from ddt_jax.report import run_words
from ddt_jax.rounds import counts
from ddt_jax.training import metrics
from tests.support import run_folders


def finished(folder):
  """The folder of a run on pairs: its numbers, and rewards at every step."""
  def curated(pairs):
    return dataclasses.replace(
        run_folders.curated_round(pairs, 0),
        pairs=counts.PairCounts(pairs, pairs - 5, 301, 402, 53), dropped={'too long': 3}, sources={
            'chosen': counts.SourceStats(pairs, 0.012, 57.5),
            'rejected': counts.SourceStats(pairs, -0.034, 61.25)})

  found = run_folders.run_results()
  no_weight = [
      dataclasses.replace(x, weight=None, ess=None)
      for x in (found.corpus.before, found.corpus.after)]
  found = dataclasses.replace(
      found, name='dpo', rounds=(curated(1107), curated(911)),
      corpus=type(found.corpus)(*no_weight),
      training=dataclasses.replace(found.training, weight=None, ess=None))
  run_folders.workdir(folder, found)
  config = json.loads((folder / 'config.json').read_text())
  config['loss']['name'] = 'dpo'
  config['preference'] = {'beta': 0.25, 'nll_weight': 0.0}
  (folder / 'config.json').write_text(json.dumps(config))
  with metrics.Writer(folder, start_step=300, tensorboard=False) as writer:
    for step in range(1, 301):
      writer.write(step, 'train', {
          'rewards/chosen': 0.001 * step, 'rewards/rejected': -0.002 * step,
          'rewards/margins': 0.003 * step, 'rewards/accuracies': 0.75,
          'nll': 0.5, 'loss': 0.6})
  return found


def test_pairs_are_counted_and_their_rewards_are_drawn(tmp_path):
  found = finished(tmp_path)
  said = report.write(tmp_path)
  assert max(map(len, said.split('\nReport: ')[0].splitlines())) <= 100
  assert (tmp_path / 'plots' / 'pairs.png').stat().st_size > 1000
  text = (tmp_path / 'report.md').read_text()
  for number in ('1,107', '1,102', '301', '402', '53', '+0.012', '-0.034', '61.2'):
    assert number in said and number in text
  for words in ('wrong answers of pairs', 'paired', 'no right'):
    assert words in said and words in text
  assert 'rewritten' not in said and 'token weight' not in said
  assert 'references held out' in text and 'weighted nats' not in text
  assert 'name dpo, beta 0.25' in text and 'gamma_min' not in text
  assert not run_words.warnings(found)


def test_the_card_names_the_options_of_pairs(tmp_path):
  found = finished(tmp_path)
  config = {
      'name': 'dpo', 'model': {'path': 'embedded'},
      'loss': {'name': 'dpo', 'gamma_min': 0.1}, 'preference': {'beta': 0.25}}
  card = report.model_card(
      config, found, step=3, chosen='last', dtype='float32', command='')
  assert 'name dpo, beta 0.25' in card and 'gamma' not in card
  assert 'wrong answers of pairs' in card and 'token weight' not in card


def test_a_loss_of_tokens_has_no_rewards(tmp_path):
  run_folders.workdir(tmp_path, run_folders.run_results())
  said = report.write(tmp_path)
  assert 'rewritten' in said and 'token weight' in said
  assert not (tmp_path / 'plots' / 'pairs.png').exists()


def test_the_axes_of_pairs_say_what_they_show():
  lines = [{'kind': 'train', 'step': i, 'nll': 1.0, 'loss': 0.7,
            'rewards/margins': 0.0} for i in range(3)]
  lines += [{'kind': 'validation', 'step': i, 'nll': 1.0} for i in range(3)]
  fig = run_plots.loss(lines, run_folders.run_results().training)
  words = [t.get_text() for axes in fig.axes for t in axes.texts]
  assert {'training: right answers', 'validation: references'} <= set(words)
  assert 'per pair' in fig.axes[1].get_ylabel()
