"""The committed notebooks are what the sources say, run, and print their figures."""

import json
import pathlib
import re
import runpy

import nbformat
import pytest

from tests.support import paths

COLAB = paths.ROOT / 'colab'
BUILD = runpy.run_path(str(COLAB / 'build.py'))
NAMES = BUILD['NAMES']
LARGEST = 1_000_000  # bytes of a notebook: GitHub shows larger ones badly


def committed(name):
  return json.loads((COLAB / f'{name}.ipynb').read_text())


def code(content):
  return [cell for cell in content['cells'] if cell['cell_type'] == 'code']


def printed(cell) -> list[str]:
  """The result of a cell as text, or else what it printed."""
  results = [''.join(output['data']['text/plain']) for output in cell['outputs']
             if output.get('output_type') == 'execute_result']
  # Beside a result, printed lines tell of the command's progress.
  return results or [
      ''.join(output.get('text', '')) for output in cell['outputs']]


def figures(cell) -> list[str]:
  """The numbers of a cell but for durations, which the machine decides."""
  texts = [re.sub(r'\d[\d.]* (s|min|h)\b', '', text) for text in printed(cell)]
  return [x for text in texts
          for x in re.findall(r'[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?', text)]


def is_close(before: str, after: str, tolerance) -> bool:
  """Whether a figure is close to the committed one.

  Percentages are printed with one decimal: a problem more or less moves them by
  half a point, however small they are.
  """
  x, y = (float(text.replace(',', '').rstrip('.')) for text in (before, after))
  absolute = tolerance['absolute']
  if re.search(r'\.\d$', before):
    absolute = tolerance.get('percent', absolute)
  return abs(x - y) <= absolute + tolerance['relative'] * abs(x)


def compare(old, new):
  """Asserts that the figures of a notebook are within the stated tolerances."""
  for before, after in zip(code(old), code(new), strict=True):
    tolerance = before['metadata'].get('tolerance')
    if not tolerance:
      continue
    expected, found = figures(before), figures(after)
    assert expected and len(expected) == len(found), (
        printed(before), printed(after))
    for x, y in zip(expected, found, strict=True):
      assert is_close(x, y, tolerance), (x, y, printed(after))


def test_there_are_three():
  assert NAMES == ('ddt', 'hinted_decoding', 'idft')
  assert {f.stem for f in COLAB.glob('*.ipynb')} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_committed_cells_are_those_of_the_source(name):
  found, expected = committed(name), BUILD['notebook'](name)
  for cell in code(found):
    cell |= {'outputs': [], 'execution_count': None}
  for cell in found['cells']:
    cell['source'] = ''.join(cell['source']).splitlines(keepends=True)
  assert found == expected, f'run python colab/build.py --execute {name}'


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_is_valid_small_and_executed(name):
  file = COLAB / f'{name}.ipynb'
  nbformat.validate(nbformat.read(file, as_version=4))
  assert file.stat().st_size < LARGEST
  content = committed(name)
  assert [cell['execution_count'] for cell in code(content)] == list(
      range(1, len(code(content)) + 1))
  assert any('text/html' in output.get('data', {})
             for cell in code(content) for output in cell['outputs'])
  for cell in code(content):
    for output in cell['outputs']:
      assert output['output_type'] != 'error'
      # No path of the machine that ran it.
      assert not re.search(r'/(root|home|tmp|Users)/', json.dumps(output))
    if 'tolerance' in cell['metadata']:
      assert figures(cell)


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_opens_with_badges_of_the_one_address(name):
  first = ''.join(committed(name)['cells'][0]['source'])
  assert BUILD['badges'](name) in first
  assert re.search(r'takes about (one|two) minutes?', ' '.join(first.split()))
  address = BUILD['REPOSITORY']
  links = re.findall(r'https://(?:colab|kaggle|github)\.[^)\s\'"]+', json.dumps(
      [cell['source'] for cell in committed(name)['cells']]))
  for link in links:
    assert address in link or link.endswith('.svg'), link
  # It stands in one script; the README has the same links.
  readme = (paths.ROOT / 'README.md').read_text()
  assert BUILD['badges'](name).split('\n')[0] in readme
  assert BUILD['with_links'](readme.replace(address, 'me/mine')) == readme


@pytest.mark.parametrize('name', NAMES)
def test_notebooks_define_nothing_of_their_own(name):
  for cell in code(committed(name)):
    source = ''.join(cell['source'])
    assert not re.search(r'^\s*(def|class) |lambda', source, re.MULTILINE)
    assert 'tensorflow' not in source


def test_a_figure_beyond_its_tolerance_is_found():
  def cell(text):
    return {'cells': [{
        'cell_type': 'code', 'metadata': {
            'tolerance': {'absolute': 0.1, 'relative': 0.01, 'percent': 2}},
        'outputs': [{'text': text}]}]}

  old = cell('phi -0.12, 1,000 rows, 3.5 %')
  compare(old, cell('phi -0.04, 1,009 rows, 5.0 %'))
  for wrong in ('phi -0.25, 1,000 rows, 3.5 %', 'phi -0.12, 1,020 rows, 3.5 %',
                'phi -0.12, 1,000 rows, 6.0 %', 'phi -0.12, 1,000 rows'):
    with pytest.raises(AssertionError):
      compare(old, cell(wrong))


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_runs_and_prints_the_committed_figures(
    name, tmp_path, monkeypatch
):
  pytest.importorskip('nbclient')
  # One device and no Colab, as on a laptop; tests have eight fake devices.
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  monkeypatch.delenv('COLAB_RELEASE_TAG', raising=False)
  # From scratch: nothing is compiled, no data set is built.
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'xla'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  folder = pathlib.Path(tmp_path, 'colab')
  folder.mkdir()
  compare(committed(name), BUILD['execute'](BUILD['notebook'](name), folder))
