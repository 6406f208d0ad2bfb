"""A run -> report.md, report.html, plots/*.png and a text to print."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import textwrap
from typing import Any

from etils import epath

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax.report import page
from ddt_jax.report import results
from ddt_jax.report import run_facts
from ddt_jax.report import run_pairs
from ddt_jax.report import run_plots
from ddt_jax.report import run_words
from ddt_jax.report import style
from ddt_jax.report import table
from ddt_jax.training import metrics

_WIDTH = 100  # columns of the terminal
_TOKENS = 8  # of an example in Markdown

_CAPTIONS = {  # file: (heading, caption)
    'accuracy': ('Accuracy before and after training',
                 'Dots: share of problems solved. Bars: 95 % intervals.'),
    'rounds': ('Accuracy by round',
               'Share of problems solved by the greedy answer, with 95 % '
               'intervals, before training and after each round.'),
    'phi_histogram': ('phi of the reference solutions',
                      'Tokens of the reference solutions by phi, under the model '
                      'before and after training.'),
    'phi_before': ('phi of the reference solutions',
                   'Tokens of the reference solutions by phi, under the model before'
                   ' training. It is measured again at the end of the round.'),
    'loss': ('Learning curves',
             'Above: negative log-likelihood, comparable between objectives. With '
             'other objectives than sft it may rise while the model learns, in '
             'training too: they give unnatural tokens little weight. Below: the '
             'training loss of this objective. Dotted: a round ends; the next one '
             'has other data. Thin: each logged step; thick: running mean.'),
    'pairs_loss': ('Learning curves',
                   'Above: negative log-likelihood, in training of the right '
                   'answers of the pairs, in validation of the references held '
                   'out. It may rise while the model learns: a loss of pairs '
                   'lowers wrong answers, and right ones with them. Below: the '
                   'loss per pair. Thin: each logged step; thick: running mean.'),
    'pairs': ('Right against wrong answers',
              'Above: mean rewards, as TRL logs them: for DPO beta log(p / p of '
              'the reference) of an answer, for SimPO beta times its mean log p '
              'per token. Below: share of pairs whose right answer has the '
              'higher reward; a tie is no success. Each round has a new reference, '
              'so rewards of DPO begin at 0 again.'),
}


def write(workdir: str | os.PathLike[str]) -> str:
  """Writes the report of a run, finished or not.

  Reads config.json, metrics.jsonl, and results.json or so_far.json. A run without
  evaluation, validation or examples gets a report without these sections.

  Args:
    workdir: the run's folder, local or gs://.

  Returns:
    The result as plain text of at most 100 columns, for the terminal.

  Raises:
    FileNotFoundError: a file of the run is missing.
    errors.InputError: the results have other fields than `RunResults`, or a
      finished run has no training step.
  """
  folder = storage.path(workdir)
  config, found, lines = read(folder)

  command = _command(folder)
  facts = run_facts.facts_table(config, found, command)
  # Pictures first: the pages link to them.
  pictures = plots(found, lines)
  for name, plot in pictures.items():
    storage.publish(folder / 'plots' / f'{name}.png', plot.picture.light)
  storage.publish(folder / 'report.html', page.run(
      title=f'Report of the run {found.name}',
      verdict=run_words.verdict(found, command),
      warnings=run_words.warnings(found), tables=run_words.tables(found),
      notes=run_words.notes(found), about_phi=run_words.ABOUT_PHI,
      plots=list(pictures.values()), examples=found.examples,
      problems=found.problems, facts=facts, running=found.status is not None,
      after=found.measured_after))
  storage.publish(
      folder / 'report.md', _markdown(found, pictures, facts, command))
  return terminal(config, found) + f'\nReport: {folder / "report.html"}\n'


def mark_stopped(workdir: str | os.PathLike[str], when: float | None) -> None:
  """Says on the page of an unfinished run that it was stopped, or is at work.

  The pictures stay as they are: a stop has no time to draw them. Does nothing
  where there is no such page yet.

  Args:
    workdir: the run's folder, local or gs://.
    when: seconds since 1970; None: the run is at work again.
  """
  folder = storage.path(workdir)
  file, html, text = (
      folder / name for name in ('so_far.json', 'report.html', 'report.md'))
  if not (file.exists() and html.exists() and text.exists()):
    return
  try:
    found = results.RunResults.from_json(file.read_text(), file)
  except errors.InputError:  # of an earlier version: the run writes it anew
    return
  if found.status is None or found.status.stopped == when:
    return
  found = dataclasses.replace(
      found, status=dataclasses.replace(found.status, stopped=when))
  verdict = run_words.verdict(found, _command(folder))
  storage.publish(file, found.to_json())
  storage.publish(html, page.with_verdict(html.read_text(), verdict))
  title, _, rest = text.read_text().split('\n\n', 2)  # see `_markdown`
  storage.publish(
      text, '\n\n'.join([title, f'**{table.escape(verdict)}**', rest]))


def read(
    workdir: str | os.PathLike[str]
) -> tuple[dict[str, Any], results.RunResults, list[dict[str, Any]]]:
  """config.json, the results and the lines of metrics.jsonl of a run.

  Raises:
    FileNotFoundError, errors.InputError: see `write`.
  """
  folder = storage.path(workdir)
  config = json.loads(_read(folder / 'config.json'))
  file = folder / 'results.json'
  if not file.exists() and (folder / 'so_far.json').exists():
    file = folder / 'so_far.json'
  found = results.RunResults.from_json(_read(file), file)
  lines = metrics.read(folder, missing_ok=found.status is not None)
  if found.status is None and not any(line['kind'] == 'train' for line in lines):
    raise errors.InputError(
        f'{folder / metrics.FILE} has no line of training: the report needs the'
        ' folder of a finished run')
  return config, found, lines


def terminal(config: Mapping[str, Any], found: results.RunResults) -> str:
  """The result as plain text of at most 100 columns; `config` is config.json."""
  training = found.training
  blocks = [
      f'Run {found.name} on {config["model"]["path"]}, seed {found.seed}:'
      f' {training.steps:,} steps on {training.tokens:,} tokens in'
      f' {table.duration(training.seconds)}',
      run_words.verdict(found),
      *(f'Warning: {text}' for text in run_words.warnings(found))]
  blocks = [textwrap.fill(block, _WIDTH) for block in blocks]
  blocks += [
      table.aligned(content)
      for _, content in run_words.tables(found, details=False)]
  blocks.append(textwrap.fill(run_words.notes(found), _WIDTH))
  return '\n\n'.join(blocks) + '\n'


def plots(
    found: results.RunResults, lines: Sequence[Mapping[str, Any]]
) -> dict[str, page.Plot]:
  """The plots that the run has data for, by name of file."""
  pictures = {}
  if run_words.comparisons(found):
    pictures['accuracy'] = style.draw(run_plots.accuracy, found)
  pictures['phi_histogram'] = style.draw(
      run_plots.phi_histogram, found.corpus, found.measured_after)
  if any(line['kind'] == 'train' for line in lines):
    pictures['loss'] = style.draw(run_plots.loss, lines, found.training)
  if run_pairs.logged(lines):
    pictures['pairs'] = style.draw(run_pairs.rewards, lines)
  if found.evaluation and len(found.evaluation) > 2:
    pictures['rounds'] = style.draw(run_plots.rounds, found)
  captions = _CAPTIONS
  if 'pairs' in pictures:
    captions = captions | {'loss': captions['pairs_loss']}
  if not found.measured_after:
    captions = captions | {'phi_histogram': captions['phi_before']}
  return {
      name: page.Plot(*captions[name], picture)
      for name, picture in pictures.items()}


def _markdown(
    found: results.RunResults, pictures: Mapping[str, page.Plot],
    facts: table.Table, command: str,
) -> str:
  parts = [f'# Report of the run {table.escape(found.name)}',
           f'**{table.escape(run_words.verdict(found, command))}**',
           *(f'Warning: {table.escape(text)}' for text in run_words.warnings(found))]
  for heading, content in run_words.tables(found):
    parts += [f'## {heading}', table.markdown_table(content)]
  parts += [run_words.notes(found), '## What phi is', run_words.ABOUT_PHI]
  for name, plot in pictures.items():
    parts += [f'## {plot.heading}', f'![{plot.caption}](plots/{name}.png)',
              plot.caption]
  if found.examples:
    chosen = ('whose phi changed most' if found.measured_after
              else 'with the lowest phi')
    parts += ['## Examples',
              f'The tokens {chosen}. report.html shows the whole texts, coloured by'
              ' phi.']
  for example in found.examples:
    parts.append(f'### {table.escape(example.title)}')
    for turn in example.turns:
      if turn.context:
        parts.append(f'> {table.escape(turn.context)}')
      if turn.tokens:
        parts.append(table.markdown_table(
            _most_changed(turn) if found.measured_after else _lowest(turn)))
  parts += ['## The run', table.markdown_table(facts)]
  return '\n\n'.join(parts) + '\n'


def _most_changed(turn: results.ShownTurn) -> table.Table:
  """The tokens whose phi training changed most, in the order of the text."""
  rows = list(zip(
      turn.tokens, turn.phi_before, turn.phi_after, strict=True))
  # Markdown has no colours, so it shows a few tokens: chosen by change, then put in
  # the order of the text again.
  changed = sorted(range(len(rows)), key=lambda i: -abs(rows[i][2] - rows[i][1]))
  return table.Table(
      ['token', 'phi before (nats)', 'phi after (nats)'],
      [[f'"{table.visible(token)}"', f'{before:+.2f}', f'{after:+.2f}']
       for token, before, after in (rows[i] for i in sorted(changed[:_TOKENS]))])


def _lowest(turn: results.ShownTurn) -> table.Table:
  """The tokens with the lowest phi before training, in the order of the text."""
  lowest = sorted(range(len(turn.tokens)), key=lambda i: turn.phi_before[i])
  return table.Table(
      ['token', 'phi before (nats)'],
      [[f'"{table.visible(turn.tokens[i])}"', f'{turn.phi_before[i]:+.2f}']
       for i in sorted(lowest[:_TOKENS])])


def _command(folder: epath.Path) -> str:
  """The command line of the run; '' for one of an earlier version."""
  file = folder / 'command.txt'
  return file.read_text().strip() if file.exists() else ''


def _read(file) -> str:
  if not file.exists():
    raise FileNotFoundError(f'no {file.name} in {file.parent}: the report needs '
                            'the folder of a finished run')
  return file.read_text()
