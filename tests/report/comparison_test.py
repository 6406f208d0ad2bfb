"""One page of several runs."""

import dataclasses
import json

import pytest

from ddt_jax import errors
from ddt_jax import report
from ddt_jax import storage
from ddt_jax.report import comparison
from ddt_jax.training import metrics
from tests.support import run_folders

CONFIG = {'name': 'a', 'model': {'path': 'embedded'}, 'seed': 0,
          'loss': {'name': 'idft', 'beta': 1.0}, 'optim': {'lr': 3e-4}}


def workdir(folder, found=None, **config):
  folder.mkdir()
  with metrics.Writer(folder, tensorboard=False) as writer:
    for step in range(1, 31):
      writer.write(step, 'train', {'nll': 1 / step, 'loss': 0.1})
    writer.write(30, 'validation', {'nll': 0.4, 'accuracy': 0.7})
  (folder / 'config.json').write_text(json.dumps(CONFIG | config))
  found = found or run_folders.run_results()
  (folder / 'results.json').write_text(found.to_json())
  return folder


def test_runs_stand_side_by_side_with_their_intervals(tmp_path):
  found = run_folders.run_results()
  before, _, last = found.evaluation
  worse = dataclasses.replace(
      found, evaluation=(before, before, before),
      kl_to_base=({'target': 0.0}, {'target': 0.25}))
  folders = [
      workdir(tmp_path / 'idft'),
      workdir(tmp_path / 'sft', worse, loss={'name': 'sft'}, optim={'lr': 1e-3})]
  out = storage.path(tmp_path / 'page.html')
  said = report.compare(folders, out)
  page = out.read_text()
  for text in (said, page):
    for share in (last['target'].pass_at_1, before['target'].pass_at_1):
      value, low, high = (100 * x for x in share)
      assert f'{value:.1f} [{low:.1f}, {high:.1f}]' in text
    for option in ('loss.name', 'optim.lr', 'loss.beta'):
      assert option in text
    assert 'model.path' not in text  # the same in both
    assert 'KL to base' in text and '0.2500' in text
    assert 'before training' in text
    assert 'target: idft is highest with 63.5 % (pass@1), by more than the' in text
    assert 'retained: sft is highest with 92.0 % (pass@1); within the noise: idft.' in (
        text)
  assert page.count('<img') == 2 and '<script' not in page
  assert str(out) in said


def test_runs_without_evaluation_or_of_the_same_name(tmp_path):
  (tmp_path / 'x').mkdir()
  (tmp_path / 'y').mkdir()
  found = dataclasses.replace(run_folders.run_results(), evaluation=None)
  folders = [
      workdir(tmp_path / 'x' / 'run', found), workdir(tmp_path / 'y' / 'run', found)]
  said = report.compare(folders, storage.path(tmp_path / 'page.html'))
  assert 'is highest' not in said and 'Accuracy' not in said.split('NLL')[0] and str(folders[0]) in said
  with pytest.raises(errors.InputError, match='named twice'):
    report.compare([folders[0], folders[0]], storage.path(tmp_path / 'p.html'))


@pytest.mark.parametrize('solved, said', [
    ({'idft': 0.35, 'sft': 0.35},
     'idft and sft are highest, both with 35.0 % (pass@1).'),
    ({'idft': 0.35, 'sft': 0.35004, 'dft': 0.05},
     'idft and sft are highest, both with 35.0 % (pass@1), by more than the noise.'),
    ({'a': 0.35, 'b': 0.34, 'c': 0.35, 'd': 0.35},
     'a, c and d are highest, all with 35.0 % (pass@1); within the noise: b.'),
    ({'a': 0.35, 'b': 0.34}, 'a is highest with 35.0 % (pass@1); within the noise: b.'),
])
def test_runs_that_are_equal_as_printed_are_named_together(solved, said):
  runs = [one_split(name, 0.3, share) for name, share in solved.items()]
  assert comparison.verdicts(runs) == [f'target: {said}']


def one_split(name, before, after, problems=200):
  first, last = (
      {'target': run_folders.measures(problems, 1, x, x)} for x in (before, after))
  return comparison.Run(name, {}, dataclasses.replace(
      run_folders.run_results(), evaluation=(first, first, last)), [])


@pytest.mark.parametrize('other, said', [
    (dict(before=0.6), 'before training 30.0 % of 200 (a), 60.0 % of 200 (b).'),
    (dict(before=0.3, problems=5), 'before training 30.0 % of 200 (a), 30.0 % of 5 (b).'),
    (dict(before=0.305), '')])
def test_runs_that_began_with_other_models_or_problems_are_not_compared(other, said):
  text, = comparison.verdicts([
      one_split('a', 0.3, 0.9), one_split('b', after=0.5, **other)])
  assert ('not compared' in text) == bool(said) and said in text
  assert ('a is highest' in text) == (not said)
