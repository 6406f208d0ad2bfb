r"""Writes the notebooks from the Markdown in sources/.

python colab/build.py            # cells anew; outputs stay where the code is the same
python colab/build.py --execute  # and runs them, which needs the extra [notebooks]

A block of Python is a cell; the text between two blocks is one, too. After the
word `python` a block may state how far the figures that it prints may be from the
committed ones: `absolute=0.01 relative=0.1 percent=3`, by their sum; percent is for
figures with one decimal in place of absolute, see tests/colab/notebooks_test.py.
`{badges}` becomes the links of the notebook, and the block `install` the content
of sources/install.py. The links of the README follow, too.
"""

import argparse
import json
import os
import pathlib
import re
import tempfile

REPOSITORY = 'ORG/REPO'  # on GitHub; the one place that names it

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
NAMES = tuple(sorted(file.stem for file in (HERE / 'sources').glob('*.md')))
_BLOCK = re.compile(r'^```python([^\n]*)\n(.*?)^```\n?', re.MULTILINE | re.DOTALL)
_METADATA = {
    'accelerator': 'TPU',
    'colab': {'gpuType': 'V5E1', 'machine_shape': 'hm', 'provenance': []},
    'kernelspec': {
        'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
    'language_info': {'name': 'python'},
}


def badges(name: str) -> str:
  """Links that open a notebook on Colab and on Kaggle."""
  file = f'{REPOSITORY}/blob/main/colab/{name}.ipynb'
  return (
      '[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]'
      f'(https://colab.research.google.com/github/{file})\n'
      '[![Open In Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]'
      f'(https://kaggle.com/kernels/welcome?src=https://github.com/{file})')


def notebook(name: str) -> dict:
  """The notebook of a source, without outputs, in the format of nbformat 4.5."""
  text = (HERE / 'sources' / f'{name}.md').read_text()
  text = text.replace('{badges}', badges(name))
  # re.split with two groups: text, options, code, text, options, code, ..., text.
  parts = _BLOCK.split(text)
  cells = []
  for i, part in enumerate(parts):
    if i % 3 == 0 and part.strip():
      cells.append(_cell('markdown', part.strip(), {}))
    elif i % 3 == 2:
      cells.append(_code(parts[i - 1].split(), part.rstrip('\n')))
  for i, cell in enumerate(cells):
    cell['id'] = f'{name}-{i:02d}'
  return {
      'cells': cells, 'metadata': _METADATA, 'nbformat': 4, 'nbformat_minor': 5}


def _code(options: list[str], source: str) -> dict:
  metadata = {'tolerance': {
      key: float(value) for key, value in (
          option.split('=') for option in options if '=' in option)}}
  if options == ['install']:
    source = (HERE / 'sources' / 'install.py').read_text().rstrip('\n')
    source = source.replace('{repository}', REPOSITORY)
  if source.startswith('#@title'):
    metadata['cellView'] = 'form'  # Colab hides the code until it is asked for
  if not metadata['tolerance']:
    del metadata['tolerance']
  return _cell('code', source, metadata) | {'execution_count': None, 'outputs': []}


def _cell(kind: str, source: str, metadata: dict) -> dict:
  return {'cell_type': kind, 'id': '', 'metadata': metadata,
          'source': source.splitlines(keepends=True)}


def execute(content: dict, folder: str | os.PathLike[str]) -> dict:
  """The notebook with fresh outputs; progress bars are left out.

  Args:
    content: the notebook.
    folder: to run it in; what it writes is there afterwards.
  """
  # Here, since writing the cells alone needs only Python.
  import nbclient
  import nbformat

  node = nbformat.reads(json.dumps(content), as_version=4)
  # The project itself comes first, wherever the notebook runs.
  old = os.environ.get('PYTHONPATH')
  os.environ['PYTHONPATH'] = str(ROOT)
  try:
    nbclient.NotebookClient(
        node, timeout=600, kernel_name='python3', coalesce_streams=True,
        record_timing=False, resources={'metadata': {'path': str(folder)}},
    ).execute()
  finally:
    if old is None:
      del os.environ['PYTHONPATH']
    else:
      os.environ['PYTHONPATH'] = old
  for cell in node.cells:
    if cell.cell_type == 'code':
      cell.outputs = [
          output for output in cell.outputs if output.get('name') != 'stderr']
  # Plain dicts and lists again; the kernel has added its Python's version.
  return json.loads(nbformat.writes(node)) | {'metadata': content['metadata']}


def keep_outputs(new: dict, old: dict) -> None:
  """Copies outputs into cells whose code is still the same, or printed nothing."""
  known = {cell['id']: cell for cell in old['cells']
           if cell['cell_type'] == 'code'}
  for cell in new['cells']:
    same = known.get(cell['id'])
    if same and (same['source'] == cell['source'] or not same['outputs']):
      cell |= {key: same[key] for key in ('outputs', 'execution_count')}


def with_links(readme: str) -> str:
  """The README with links to the notebooks in `REPOSITORY`."""
  return re.sub(
      r'(colab\.research\.google\.com/github/)[^)]*?(/blob/main/colab/)',
      rf'\g<1>{REPOSITORY}\g<2>', readme)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('names', nargs='*', default=NAMES)
  parser.add_argument('--execute', action='store_true')
  arguments = parser.parse_args()
  for name in arguments.names:
    file = HERE / f'{name}.ipynb'
    content = notebook(name)
    if arguments.execute:
      with tempfile.TemporaryDirectory() as folder:
        content = execute(content, folder)
    elif file.exists():
      keep_outputs(content, json.loads(file.read_text()))
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    print(f'{file.relative_to(ROOT)}: {file.stat().st_size / 1e6:.2f} MB')
  readme = ROOT / 'README.md'
  readme.write_text(with_links(readme.read_text()))


if __name__ == '__main__':
  main()
