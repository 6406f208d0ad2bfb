"""The model card of a fine-tuned model: README.md of its folder."""

from collections.abc import Mapping
import json
import re
from typing import Any

from ddt_jax.report import results
from ddt_jax.report import run_facts
from ddt_jax.report import run_rounds
from ddt_jax.report import run_words
from ddt_jax.report import table

_HUB_ID = re.compile(r'[\w.-]+/[\w.-]+')
_PAPER = '[Towards On-Policy SFT](https://arxiv.org/abs/2602.12222)'


def model_card(
    config: Mapping[str, Any],
    found: results.RunResults | None,
    *,
    step: int,
    chosen: str,
    dtype: str,
    command: str,
) -> str:
  """Base, data, method, phi and command of a model, as Markdown.

  Args:
    config: the run's config.json.
    found: its results; None if they are not of these parameters.
    step: the optimizer steps that the parameters have seen.
    chosen: 'last' or 'best': which of the run's parameters these are.
    dtype: of the files.
    command: that trained the model; '' if unknown.
  """
  name = table.escape(str(config['name']))
  parts = [
      _front_matter(config),
      f'# {name}\n\nFine-tuned by ddt_jax, after {_PAPER}. The terms of the base'
      ' model apply to this one, too.',
      run_words.verdict(found) if found else
      'The run has no results of these parameters: it was not finished, or has'
      ' measured others.',
      table.markdown_table(_facts(config, found, step, chosen, dtype)),
  ]
  if found:
    for heading, content in (
        ('Accuracy', run_words.accuracy_table(found)),
        ('Training data', run_rounds.sources_table(found.rounds)),
        ('Reference solutions', run_words.corpus_table(found)),
    ):
      if content:
        parts += [f'## {heading}', table.markdown_table(content)]
    parts += ['## What phi is', run_words.ABOUT_PHI]
  if command:
    # A fence that the command cannot end, whatever it holds.
    fence = '`' * max(3, 1 + max(map(len, re.findall('`+', command)), default=0))
    parts += ['## Command', f'{fence}bash\n{command}\n{fence}']
  return '\n\n'.join(parts) + '\n'


def _front_matter(config: Mapping[str, Any]) -> str:
  """The YAML that the Hugging Face hub reads."""
  base = config['model']['path']
  lines = ['library_name: transformers', 'pipeline_tag: text-generation']
  if _HUB_ID.fullmatch(base):  # a folder of somebody's disk means nothing there
    lines.append(f'base_model: {json.dumps(base)}')
  tags = ['ddt_jax', config['loss'].get('name', '')]
  lines += ['tags:', *(f'- {json.dumps(t)}' for t in tags if t)]
  return '\n'.join(['---', *lines, '---'])


def _facts(config, found, step: int, chosen: str, dtype: str) -> table.Table:
  data, optim, train = (config.get(k, {}) for k in ('data', 'optim', 'train'))
  method = run_facts.objective(config)
  # Sections that a run of another kind may lack.
  method += ''.join(
      f', {label} {section[k]}' for section, k, label in (
          (optim, 'lr', 'learning rate'), (train, 'batch', 'batch'),
          (train, 'epochs', 'epochs')) if k in section)
  best = ' (best validation)' if chosen == 'best' else ''
  rows = [
      ['base', config['model']['path']],
      ['data', data.get('path') or data.get('name', '')],
      ['method', method],
      *_lora(config.get('lora', {})),
      ['weights', f'after step {step:,}{best}, {dtype}'],
  ]
  if found:
    before, after = found.corpus.before.phi, found.corpus.after.phi
    rows += [
        ['training', f'{found.training.steps:,} steps, {found.training.tokens:,}'
                     ' supervised tokens'],
        ['phi', f'{before:+.3f} before, {after:+.3f} after: mean of the reference'
                ' solutions, nats per token'],
    ]
  return table.Table(['', ''], rows, words=(0, 1))


def _lora(options: Mapping[str, Any]) -> list[list[str]]:
  """A row on the adapters, if some were trained."""
  if not options.get('rank'):
    return []
  scale = 'alpha / sqrt(rank)' if options['rslora'] else 'alpha / rank'
  return [['LoRA', f'rank {options["rank"]}, alpha {options["alpha"]:g} (scale:'
                   f' {scale}), on {options["targets"]}']]
