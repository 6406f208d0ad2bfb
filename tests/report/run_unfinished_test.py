"""The page of a run that is at work, or was stopped."""

import dataclasses
import html
import json

import pytest

from ddt_jax import report
from ddt_jax import storage
from ddt_jax.report import results
from ddt_jax.report import run_plots
from ddt_jax.report import run_words
from ddt_jax.training import metrics
from tests.report import comparison_test
from tests.support import run_folders


def _words(text):
  """A page or its Markdown, without character references."""
  return html.unescape(text)


def _unfinished(*, evaluations, remaining=3600.0):
  found = run_folders.run_results()
  return dataclasses.replace(
      found, evaluation=found.evaluation[:evaluations],
      rounds=found.rounds[:evaluations], status=results.Status(
          round=evaluations - 1, rounds=2, step=40, steps=126, written=1.7e9,
          remaining=remaining))


@pytest.mark.parametrize('evaluations, said', [
    (1, 'Before training (pass@1): target 41.0 %'),
    (2, 'So far: Accuracy (pass@1) stayed within the noise on target')])
def test_an_unfinished_run_says_how_far_it_is(tmp_path, evaluations, said):
  found = _unfinished(evaluations=evaluations)
  folder = run_folders.workdir(tmp_path, found)
  (folder / 'results.json').rename(folder / 'so_far.json')
  text = ' '.join(report.write(folder).split())
  assert f'round {evaluations} of 2, step 40 of 126' in text
  assert 'It should end about' in text and 'after another 1 h 0 min' in text
  assert said in text
  page = (folder / 'report.html').read_text()
  assert 'http-equiv="refresh"' in page
  assert results.RunResults.from_json(found.to_json()) == found
  # Before the first steps nothing is known about the time, and no curve is there.
  (folder / metrics.FILE).unlink()
  (folder / 'so_far.json').write_text(
      _unfinished(evaluations=1, remaining=None).to_json())
  assert 'should end' not in report.write(folder)
  # Once it is finished its results win.
  folder = run_folders.workdir(folder, run_folders.run_results())
  report.write(folder)
  assert 'refresh' not in (folder / 'report.html').read_text()


def test_a_running_page_without_its_first_round_is_written(tmp_path):
  found = dataclasses.replace(
      _unfinished(evaluations=1), rounds=(), evaluation=None)
  folder = run_folders.workdir(tmp_path, found)
  assert 'Accuracy is not evaluated' in ' '.join(report.write(folder).split())


def test_nothing_is_called_after_before_it_is_measured(tmp_path):
  found = _unfinished(evaluations=1)
  folder = run_folders.workdir(tmp_path, found)
  (folder / 'results.json').rename(folder / 'so_far.json')
  said = report.write(folder)
  page, text = ((folder / f'report.{x}').read_text() for x in ('html', 'md'))
  for shown in (said, page, text):
    assert 'measured again at the end of the round' in ' '.join(shown.split())
    assert '0.812' in shown and '0.551' not in shown
  tables = dict(run_words.tables(found))
  assert tables['Reference solutions'].header == ['reference solutions', 'before']
  assert tables['Reference solutions'].rows[0] == ['mean NLL (nats per token)', '0.812']
  assert tables['Answers'].rows[0] == ['target', '41.5', '3', '1']
  assert 'after training,' not in page and '>before training, mean phi' in page
  assert '-9.00 before training' in page and 'phi after' not in text
  assert 'The tokens with the lowest phi.' in text
  assert '| -9.00 |' in text  # the lowest
  fig = run_plots.phi_histogram(found.corpus, found.measured_after)
  title = ' '.join(fig.get_suptitle().split())
  assert title == 'Before training mean phi of the reference solutions is -0.31 nats'
  assert [t.get_text() for t in fig.axes[0].texts] == [
      'before training (dashed: mean -0.31)']
  # One round later there is something to compare with.
  tables = dict(run_words.tables(_unfinished(evaluations=2)))
  assert tables['Reference solutions'].header[1:] == ['before', 'after', 'change']
  assert tables['Answers'].rows[0] == ['target', '41.5 \u2192 41.5', '3 \u2192 3',
                                       '1 \u2192 1']


def test_a_stop_is_noted_on_the_page_without_drawing_it_anew(tmp_path, monkeypatch):
  folder = run_folders.workdir(tmp_path, _unfinished(evaluations=1))
  (folder / 'results.json').rename(folder / 'so_far.json')
  report.mark_stopped(folder, 1.7e9)  # there is no page yet
  (folder / 'command.txt').write_text('python -m experiments.train --workdir <x>\n')
  report.write(folder)
  files = [folder / f'report.{x}' for x in ('html', 'md')]
  at_work = [file.read_text() for file in files]
  monkeypatch.setattr(run_plots, 'loss', None)
  report.mark_stopped(folder, 1.7e9 + 60)
  for file, whole in zip(files, at_work, strict=True):
    text = file.read_text()
    verdict = _words(text)
    assert 'should end' in whole and 'should end' not in text
    assert 'step 40 of 126' in verdict
    for said in ('Stopped on 20', 'The same command resumes.',
                 'The command: python -m experiments.train --workdir <x>'):
      assert said in verdict and said not in _words(whole).split('The run')[0]
    assert text.count('\n') == whole.count('\n')
  report.mark_stopped(folder, None)
  assert [file.read_text() for file in files] == at_work
  monkeypatch.undo()
  # The page that is made anew says it too.
  report.mark_stopped(folder, 1.7e9 + 60)
  assert 'Stopped on' in report.write(folder)


def test_the_page_of_an_earlier_version_does_not_hinder_a_run(tmp_path):
  folder = run_folders.workdir(tmp_path, _unfinished(evaluations=1))
  (folder / 'results.json').rename(folder / 'so_far.json')
  report.write(folder)
  old = json.loads((folder / 'so_far.json').read_text())
  del old['status']['stopped']
  (folder / 'so_far.json').write_text(json.dumps(old))
  report.mark_stopped(folder, None)
  report.mark_stopped(folder, 1.7e9)
  assert 'Stopped' not in (folder / 'report.html').read_text()


def test_a_run_without_a_measured_round_has_no_after_beside_other_runs(tmp_path):
  folders = [
      comparison_test.workdir(tmp_path / name, found) for name, found in (
          ('done', run_folders.run_results()),
          ('at_work', dataclasses.replace(
              _unfinished(evaluations=1), kl_to_base=({'target': 0.0},))))]
  lines = report.compare(folders, storage.path(tmp_path / 'page.html')).splitlines()
  target = next(x for x in lines if x.split()[:2] == ['target', 'pass@1'])
  assert target.endswith('63.5 [56.8, 70.2]') and target.count('[') == 2
  assert next(line for line in lines if line.startswith('at_work')).endswith('12 s')
  assert not any('is highest' in line or 'KL to base' in line for line in lines)
