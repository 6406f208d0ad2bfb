"""A run's folder -> report.md, report.html, plots/*.png and a table to print.

The content is `report_summary`'s, the pictures are `report_plots`', the page
is `report_html`'s; here are the files, the Markdown and the plain text.
"""
import functools
import json
import re
import textwrap

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.report import results
from ddt_jax.report import run_page
from ddt_jax.report import run_plots
from ddt_jax.report import run_words
from ddt_jax.training import metrics

_COLUMNS = 100  # of the terminal's table
_TOKENS = 8  # of an example that the Markdown shows

_CAPTIONS = {  # of a plot: its heading and what the curves are
    'accuracy': ('Accuracy before and after training',
                 'Dots: share of problems solved. Bars: 95 % intervals.'),
    'rounds': ('Accuracy by round',
               'Share of problems solved by the greedy answer, with 95 % '
               'intervals, before training and after each round.'),
    'phi_histogram': ('phi of the reference solutions',
                      'Tokens of the reference solutions by phi, under the model '
                      'before and after training.'),
    'loss': ('Learning curves',
             'Above: negative log-likelihood, comparable between objectives. '
             'Below: the loss that was trained on. Thin: every logged step; '
             'thick: running mean.'),
}


def write(workdir) -> str:
  """Writes the report of a finished run.

  Reads config.json, metrics.jsonl and results.json. A run without an
  evaluation, validation or examples gets a report without these sections.

  Args:
    workdir: the run's folder, local or gs://.
  Returns:
    The result as plain text of at most 100 columns, for the terminal.
  Raises:
    FileNotFoundError: a file of the run is missing.
    errors.InputError: results.json has other fields than `RunResults`, or no
      step was logged.
  """
  folder = storage.path(workdir)
  config = json.loads(_read(folder / 'config.json'))
  found = results.RunResults.from_json(
      _read(folder / 'results.json'), folder / 'results.json')
  lines = metrics.read(folder)
  if not any(line['kind'] == 'train' for line in lines):
    raise errors.InputError(f'{folder / metrics.FILE} has no line of training')

  best_step = found.training.best_step
  drawers = {
      'accuracy': functools.partial(run_plots.accuracy, found),
      'phi_histogram': functools.partial(run_plots.phi_histogram,
                                         found.corpus),
      'loss': functools.partial(run_plots.loss, lines, best_step),
  }
  if found.evaluation and len(found.rounds) > 1:
    drawers['rounds'] = functools.partial(run_plots.rounds, found)
  if not found.evaluation:
    del drawers['accuracy']
  plots = {}
  for name, draw in drawers.items():
    heading, caption = _CAPTIONS[name]
    light, dark = draw(run_plots.LIGHT), draw(run_plots.DARK)
    storage.publish(folder / 'plots' / f'{name}.png', light)
    plots[heading] = light, dark, caption
  storage.publish(folder / 'report.html', run_page.page(
      config=config, found=found, plots=plots))
  storage.publish(folder / 'report.md', _markdown(config, found, list(drawers)))
  return terminal(config, found) + f'\nReport: {folder / "report.html"}\n'


def terminal(config: dict, found: results.RunResults) -> str:
  """The result as plain text of at most 100 columns."""
  training = found.training
  blocks = [
      f'Run {found.name} on {config["model"]["path"]}, seed '
      f'{found.seed}: {training.steps:,} steps on '
      f'{training.tokens:,} tokens in {run_words.duration(training.seconds)}',
      run_words.verdict(found)]
  blocks = [textwrap.fill(block, _COLUMNS) for block in blocks]
  for heading, table in run_words.tables(found):
    if heading not in ('Accuracy by round', 'Answers'):
      blocks.append(aligned(table))
  blocks.append(textwrap.fill(run_words.NOTES, _COLUMNS))
  return '\n\n'.join(blocks) + '\n'


def aligned(table: run_words.Table) -> str:
  """Names to the left, numbers to the right, a rule under the header."""
  rows = [table.header, *table.rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ['  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
      for row in rows]
  return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def _markdown(config: dict, found: results.RunResults, plots: list[str]) -> str:
  parts = [f'# Report of the run {escape(found.name)}',
           f'**{escape(run_words.verdict(found))}**']
  for heading, table in run_words.tables(found):
    parts += [f'## {heading}', markdown_table(table)]
  parts += [run_words.NOTES, '## What phi is', run_words.ABOUT_PHI]
  for name in plots:
    heading, caption = _CAPTIONS[name]
    parts += [f'## {heading}', f'![{caption}](plots/{name}.png)', caption]
  if found.examples:
    parts += ['## Examples',
              'The tokens whose phi moved most. report.html shows the whole '
              'texts, coloured by phi.']
  for example in found.examples:
    parts += [f'### {escape(example.title)}',
              f'> {escape(example.prompt)}',
              markdown_table(_moved_most(example))]
  parts += ['## The run', markdown_table(run_words.facts_table(config, found))]
  return '\n\n'.join(parts) + '\n'


def _moved_most(example: results.ShownText) -> run_words.Table:
  """The example's tokens whose phi training changed most, in text order."""
  rows = list(zip(
      example.tokens, example.phi_before, example.phi_after, strict=True))
  moved = sorted(range(len(rows)), key=lambda i: -abs(rows[i][2] - rows[i][1]))
  return run_words.Table(
      ['token', 'phi before (nats)', 'phi after (nats)'],
      [[f'"{run_words.visible(token)}"', f'{before:+.2f}', f'{after:+.2f}']
       for token, before, after in (rows[i] for i in sorted(moved[:_TOKENS]))])


def markdown_table(table: run_words.Table) -> str:
  def row(cells):
    return f'| {" | ".join(cells)} |'

  # Columns without a name hold prose.
  rule = ['--:' if i and name else ':--' for i, name in enumerate(table.header)]
  return '\n'.join([row(table.header), row(rule),
                    *(row(map(escape, cells)) for cells in table.rows)])


def escape(text: str) -> str:
  """Text that Markdown and HTML show as it is, in one line.

  Punctuation that either language could read becomes a character reference;
  so do what GitHub takes for a mention (@name), an emoji or a link.
  """
  text = re.sub(r'\s+', ' ', text.encode('utf-8', 'replace').decode('utf-8'))
  return re.sub(r'[\\`*_\[\]<>#|~$&]|(?<!\w)@|:(?=\S)',
                lambda m: f'&#{ord(m[0])};', text)


def _read(file) -> str:
  if not file.exists():
    raise FileNotFoundError(f'no {file.name} in {file.parent}: the report needs '
                            'the folder of a finished run')
  return file.read_text()
