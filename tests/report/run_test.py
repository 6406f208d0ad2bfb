import dataclasses
import html.parser
import io
import json
import re

from PIL import Image
import pytest

from ddt_jax import errors
from ddt_jax import report
from ddt_jax import significance
from ddt_jax.data import chat
from ddt_jax.report import results
from ddt_jax.report import run_facts
from ddt_jax.report import run_plots
from ddt_jax.report import run_words
from ddt_jax.scoring import text_stats
from ddt_jax.training import metrics
from tests.support import run_folders
from tests.support import student


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = run_folders.workdir(tmp_path_factory.mktemp('run'), run_folders.run_results())
  return folder, report.write(folder)


class _Page(html.parser.HTMLParser):
  """Collects the tags, the text and the links of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text, self.links = set(), '', []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.links += [v for k, v in attrs if k in ('src', 'srcset', 'href')]

  def handle_data(self, data):
    self.text += data


def test_pictures_decode(run):
  folder, _ = run
  for name in ('loss', 'phi_histogram', 'accuracy', 'rounds'):
    data = (folder / 'plots' / f'{name}.png').read_bytes()
    assert f'(plots/{name}.png)' in (folder / 'report.md').read_text()
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      assert image.width > 600


def test_page_is_self_contained_and_runs_no_text_of_the_model(run):
  page = _Page((run[0] / 'report.html').read_text())
  assert 'script' not in page.tags and 'im_end' not in page.tags
  # Title, prompt, twice as a token; four problems.
  assert page.text.count(run_folders.HOSTILE) == 4 + 4
  assert page.links and all(link.startswith('data:image/png') for link in page.links)


def test_problems_stand_side_by_side_and_the_run_says_where_it_was_made(run):
  folder, _ = run
  page = (folder / 'report.html').read_text()
  assert page.count('class="columns"') == 4 and '<summary>1 more' in page
  first = page.split('class="columns"')[1]
  places = [first.index(text) for text in (
      'Reference, mean phi -1.30', 'Own answer, wrong, mean phi -0.05',
      'Rewriting, right, mean phi +0.15')]
  assert places == sorted(places)
  for text in (page, (folder / 'report.md').read_text()):
    for fact in ('8 x TPU v5 lite', '0.0003 at its peak', '32 rows of at most 256'):
      assert fact in text


def test_markdown_runs_no_text_of_the_model(run):
  text = (run[0] / 'report.md').read_text()
  assert '<script' not in text and '<|' not in text
  rows = [line for line in text.splitlines() if line.startswith('|')]
  assert any('boxed' in row for row in rows) and any('alert' in row for row in rows)
  # A bar in a token would add a column to the tables of 2, 3, 4, 7 or 9 columns.
  assert {row.count('|') - 1 for row in rows} == {2, 3, 4, 7, 9}


def test_numbers_are_those_of_the_results(run):
  folder, table = run
  page = _Page((folder / 'report.html').read_text()).text
  text = (folder / 'report.md').read_text()
  first, _, last = run_folders.run_results().evaluation
  for split in ('target', 'generalisation', 'retained'):
    for before, after in ((first[split].pass_at_1, last[split].pass_at_1),
                          (first[split].avg_at_k, last[split].avg_at_k)):
      change = f'{100 * (after.value - before.value):+.1f}'
      assert change in table and change in page and change in text
      for measure in (before, after):
        value, low, high = (100 * x for x in measure)
        cell = f'{value:.1f} [{low:.1f}, {high:.1f}]'
        assert cell in table and cell in page
        assert cell in text
  for number in ('0.812', '0.551', '-0.261', '-0.313', '-0.092', '+0.221'):
    assert number in table and number in page and number in text
  for number in ('1,107', '847', '1,403', '+0.003', '-0.041', '57.2', '58.5'):
    assert number in table and number in page and number in text
  for fact in ('1,180,416', '1,234,567', '4 min 12 s', 'step 250', '2,000'):
    assert fact in page and fact in text


def test_verdict_names_what_changed_and_what_did_not():
  assert run_words.verdict(run_folders.run_results()) == (
      'Accuracy (pass@1) rose on target (+22.5 points); stayed within the noise on '
      'generalisation (+4.0 points) and retained (-0.5 points). By sampled answers '
      '(avg@4) it rose on generalisation (+11.8 points).')


def _one_split(before, after):
  def measures(low, high):
    share = significance.Interval((low + high) / 2, low, high)
    return {'evaluation': dataclasses.replace(
        run_folders.measures(100, 1, 0.5, 0.5), pass_at_1=share, avg_at_k=share)}

  return run_words.verdict(run_folders.run_results(
      rounds=(run_folders.curated_round(1, 1),), evaluation=(measures(*before), measures(*after))))


@pytest.mark.parametrize('before, after', [
    ((0.4, 0.6), (0.5, 0.7)), ((0.5, 0.7), (0.4, 0.6)), ((0.4, 0.6), (0.6, 0.8)),
    ((0.0, 0.0), (0.0, 0.0)), ((0.4, 0.6), (0.45, 0.65))])
def test_overlapping_intervals_claim_nothing(before, after):
  text = _one_split(before, after)
  large = abs(sum(after) - sum(before)) / 2 >= 0.1
  # A large change within the noise would read like a contradiction.
  assert ('too few problems to tell a change on evaluation' in text) == large
  assert ('within the noise' in text) == (not large)
  assert not re.search('rose|fell', text)


def test_separate_intervals_are_claimed():
  assert 'rose on evaluation (+30.0 points)' in _one_split((0.4, 0.5), (0.7, 0.8))
  assert 'fell on evaluation (-30.0 points)' in _one_split((0.7, 0.8), (0.4, 0.5))


def test_terminal_table_fits_and_explains_itself(run):
  _, table = run
  lines = table.split('\nReport: ')[0].splitlines()
  assert max(map(len, lines)) <= 100
  for word in ('pass@1: share of problems', '95 % interval', 'nats', 'target'):
    assert word in table


def test_largest_numbers_still_fit_the_terminal():
  full = significance.Interval(1.0, 1.0, 1.0)
  found = run_folders.run_results()
  found = dataclasses.replace(found, evaluation=tuple(
      {name: dataclasses.replace(
          split, problems=12345, samples=64, pass_at_1=full, avg_at_k=full)
       for name, split in splits.items()} for splits in found.evaluation))
  text = report.terminal({'model': {'path': 'm' * 90}}, found)
  assert max(map(len, text.splitlines())) <= 100


def test_own_file_without_evaluation_validation_or_examples(tmp_path):
  found = run_folders.run_results(evaluation=None, examples=())
  folder = run_folders.workdir(tmp_path, dataclasses.replace(
      found, training=dataclasses.replace(
          found.training, best_step=None, best_by=None, best_value=None)),
      validation=False)
  table = report.write(folder)
  assert 'not evaluated' in table and 'pass@1 before' not in table
  assert not (folder / 'plots' / 'accuracy.png').exists()
  for name in ('report.html', 'report.md'):
    text = (folder / name).read_text()
    assert 'Examples' not in text and 'best validation' not in text
    assert 'plots/accuracy' not in text


def test_one_split_alone(tmp_path):
  found = _splits('target')
  assert 'rose on target (+22.5 points)' in report.write(run_folders.workdir(tmp_path, found))


def _splits(*names, sampled=True):
  """Results with some of the splits, with or without avg@k."""
  found = run_folders.run_results()

  def kept(split):
    if sampled:
      return split
    return dataclasses.replace(split, samples=0, avg_at_k=None)

  return dataclasses.replace(found, evaluation=tuple(
      {name: kept(splits[name]) for name in names}
      for splits in found.evaluation))


@pytest.mark.parametrize('names', [
    ('target',), ('target', 'retained'),
    ('target', 'generalisation', 'retained')])
def test_without_sampled_answers_the_greedy_ones_are_reported(tmp_path, names):
  found = _splits(*names, sampled=False)
  table = report.write(run_folders.workdir(tmp_path, found))
  assert 'rose on target (+22.5 points)' in table
  assert 'avg@4' not in table and 'By sampled answers' not in table
  assert [c.split for c in run_words.comparisons(found)] == list(names)
  assert 'avg@4' not in (tmp_path / 'report.html').read_text()


def test_results_survive_their_file():
  for found in (run_folders.run_results(), run_folders.run_results(evaluation=None, examples=())):
    assert results.RunResults.from_json(found.to_json()) == found


def test_diverged_loss_is_drawn(tmp_path):
  folder = run_folders.workdir(tmp_path, run_folders.run_results())
  with metrics.Writer(folder, start_step=300, tensorboard=False) as writer:
    writer.write(301, 'train', {'nll': float('nan'), 'loss': float('inf')})
  report.write(folder)


@pytest.mark.parametrize('damage, message', [
    (lambda r: r.pop('training'), "no field 'training'"),
    (lambda r: r.pop('rounds'), "no field 'rounds'"),
    (lambda r: r.update(extra=1), "unknown field 'extra'"),
    (lambda r: r['corpus'].pop('after'), "no field 'corpus.after'"),
    (lambda r: r['evaluation'][2].pop('target'), 'same splits'),
    (lambda r: r['evaluation'].pop(), 'one after each round'),
    (lambda r: r['corpus']['after']['histogram']['counts'].pop(), 'one count'),
    (lambda r: r['examples'][0]['turns'][0]['phi_after'].pop(), 'one phi')])
def test_incomplete_results_are_named(tmp_path, damage, message):
  folder = run_folders.workdir(tmp_path, run_folders.run_results())
  data = json.loads((folder / 'results.json').read_text())
  damage(data)
  (folder / 'results.json').write_text(json.dumps(data))
  with pytest.raises(errors.InputError, match=f'results.json.*{message}'):
    report.write(folder)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json'):
    report.write(tmp_path)


def test_run_without_training_lines_is_refused(tmp_path):
  folder = run_folders.workdir(tmp_path, run_folders.run_results())
  (folder / metrics.FILE).write_text('')
  with pytest.raises(ValueError, match='no line of training'):
    report.write(folder)


def test_several_turns_are_shown_in_their_order(tmp_path):
  words = student.tokenizer()
  turns = [
      {'role': 'user', 'content': 'What is 48 + 47?'},
      {'role': 'assistant', 'content': '48+47=95.'},
      {'role': 'user', 'content': 'And twice that?'},
      {'role': 'assistant', 'content': '2*95=190.'}]
  example = chat.encode(words, turns, student.turn_end())
  n = int(example.supervised.sum())
  shown = results.ShownText.of(words, example, [-0.1] * n, [0.1] * n)
  first, second = shown.turns
  assert '48 + 47?' in first.context and 'And twice' not in first.context
  assert ''.join(first.tokens).startswith('48+47=95.')
  assert 'And twice that?' in second.context
  assert ''.join(second.tokens).startswith('2*95=190.')
  assert len(first.phi_before) + len(second.phi_before) == n
  report.write(run_folders.workdir(tmp_path, run_folders.run_results(examples=(shown,))))
  page = _Page((tmp_path / 'report.html').read_text()).text
  places = [page.index(text) for text in (
      'What is 48 + 47?', 'And twice that?')]
  assert places == sorted(places)
  assert page.count('mean phi -0.10') == 2  # each answer before training


def _lines(folder, lines):
  (folder / metrics.FILE).unlink()
  with metrics.Writer(folder, tensorboard=False) as writer:
    for step, kind, scalars in lines:
      writer.write(step, kind, scalars)


def test_one_logged_point_is_drawn_and_nothing_is_claimed(tmp_path):
  folder = run_folders.workdir(tmp_path, run_folders.run_results())
  line = {'kind': 'train', 'step': 3, 'nll': 6.484, 'loss': 0.001}
  _lines(folder, [(3, 'train', {'nll': 6.484, 'loss': 0.001})])
  report.write(folder)
  fig = run_plots.loss([line], run_folders.run_results().training)
  assert 'was 6.484 nats per token at the one step' in fig.get_suptitle()
  for axes in fig.axes:
    assert axes.get_xlim()[0] < 3 < axes.get_xlim()[1]
    assert any(drawn.get_marker() == 'o' for drawn in axes.lines)


@pytest.mark.parametrize('after, said', [
    (-0.30, 'moved towards 0'), (-0.60, 'moved away from 0'),
    (-0.4005, 'hardly changed')])
def test_a_change_of_phi_within_its_error_is_no_change(after, said):
  edges = tuple(i / 4 for i in range(-40, 17))
  histogram = text_stats.Histogram(edges, tuple(range(56)))
  fig = run_plots.phi_histogram(results.Reference(
      run_folders.texts(0.8, -0.4, 0.6, dataclasses.replace(
          histogram, counts=tuple(1000.0 * n for n in range(56)))),
      run_folders.texts(0.7, after, 0.6, histogram)))
  assert said in ' '.join(fig.get_suptitle().split())


def test_the_best_is_called_by_what_it_is_best_by():
  found = run_folders.run_results()
  by_accuracy = dataclasses.replace(found.training, best_by='accuracy', best_value=0.881)
  facts = run_facts.facts_table(
      run_folders.CONFIG,
      dataclasses.replace(found, training=by_accuracy))
  assert ['best validation', 'step 250, accuracy 88.1 %'] in facts.rows


@pytest.mark.parametrize('config, said', [
    ({'loss': {'name': 'sft', 'beta': 1.0, 'denominator': 'tokens'},
      'reference': {'kl_weight': 0.0}}, 'name sft, denominator tokens'),
    ({'loss': {'name': 'sft', 'beta': 1.0}, 'reference': {'kl_weight': 0.5}},
     'name sft, kl_weight 0.5'),
    ({'loss': {'name': 'idft', 'beta': 1.0, 'k': 20}}, 'name idft, beta 1.0'),
    ({'loss': {'name': 'dpo', 'beta': 1.0}, 'preference': {'beta': 0.1}},
     'name dpo, beta 0.1'),
    ({'loss': {'name': 'distill', 'beta': 1.0},
      'distill': {'teacher': '', 'kind': 'forward'}}, 'name distill, kind forward'),
    ({'loss': {}}, ''),
])
def test_the_objective_is_shown_with_the_options_that_it_reads(config, said):
  assert run_facts.objective(config) == said


@pytest.mark.parametrize('weight, ess, warned', [
    (0.9, 0.8, False), (0.002, 0.3, True), (0.5, 0.002, True)])
def test_a_run_that_trains_nearly_nothing_says_so(tmp_path, weight, ess, warned):
  found = run_folders.run_results()
  found = dataclasses.replace(found, training=dataclasses.replace(
      found.training, weight=weight, ess=ess))
  said = report.write(run_folders.workdir(tmp_path, found))
  for text in (said, (tmp_path / 'report.html').read_text(),
               (tmp_path / 'report.md').read_text()):
    assert ('Nearly nothing is trained' in ' '.join(text.split())) == warned


def test_a_run_that_skipped_most_rewritings_says_what_to_try():
  found = run_folders.run_results()
  first = found.rounds[0]
  hinted = dataclasses.replace(first.hinted, responses=100, skipped=51)
  few = dataclasses.replace(first.hinted, responses=100, skipped=50)
  for counted, warned in ((hinted, True), (few, False)):
    said = run_words.warnings(dataclasses.replace(
        found, evaluation=None, rounds=(
            dataclasses.replace(first, hinted=counted),)))
    assert bool(said) == warned
  assert 'no marker' in run_words.warnings(dataclasses.replace(
      found, evaluation=None,
      rounds=(dataclasses.replace(first, hinted=hinted),)))[0]


def test_the_distance_from_the_base_is_shown_where_it_was_measured():
  found = run_folders.run_results()
  heading = 'Distance from the model before training'
  assert heading not in dict(run_words.tables(found))
  kl = ({'target': 0.0, 'retained': 0.0}, {'target': 0.125, 'retained': 0.01})
  found = dataclasses.replace(found, kl_to_base=kl)
  shown = dict(run_words.tables(found))[heading]
  assert shown.header == ['KL to base (nats per token)', 'before', 'after round 1']
  assert shown.rows == [
      ['target', '0.0000', '0.1250'], ['retained', '0.0000', '0.0100']]
  assert 'predicts forgetting' in run_words.notes(found)
  assert results.RunResults.from_json(found.to_json()) == found
