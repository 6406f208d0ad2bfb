"""What a run was: command, machine, model, objective, data, time."""

from collections.abc import Mapping
from typing import Any

from ddt_jax import objectives
from ddt_jax.report import results
from ddt_jax.report import table
from ddt_jax.training import pair_loss


def objective(config: Mapping[str, Any]) -> str:
  """Name of the loss and the options that it reads; '' where there is no name.

  Args:
    config: config.json. Its section `loss` has the options of all objectives.
  """
  loss, given = config['loss'], config.get('reference', {})
  name = loss.get('name', '')
  if name in pair_loss.NAMES:
    read = {'name': name, **config['preference']}
  elif name in objectives.WEIGHTS:
    read = objectives.pick(**loss)
    if given.get('kl_weight'):
      read['kl_weight'] = given['kl_weight']
  else:
    read = {'name': name, **config.get('distill', {})} if name else {}
  return ', '.join(f'{k} {v}' for k, v in read.items() if v != '')


def batch(config: Mapping[str, Any]) -> str:
  """Rows of a step, and the passes over them."""
  given = config['train']
  return (f'{given["batch"]:,} rows{" (packed)" if given["pack"] else ""} of at most'
          f' {config["data"]["max_tokens"]:,} tokens, {given["epochs"]} epoch(s) a'
          f' round, {config["rounds"]} round(s)')


def facts_table(
    config: Mapping[str, Any], found: results.RunResults, command: str = ''
) -> table.Table:
  """Command, machine, model, objective, data and time of a run.

  Args:
    config: config.json.
    found: the results.
    command: command line of the run, '' where it is not known.
  """
  training, data, optim = found.training, found.data, config['optim']
  rows = [['run', f'{found.name}, seed {found.seed}']]
  if command:
    rows.append(['command', command])
  if found.machine:
    rows += [['versions', found.machine.versions],
             ['devices', found.machine.devices]]
  rows += [
      ['model', f'{config["model"]["path"]}, '
                f'{training.parameters:,} parameters'],
      ['objective', objective(config) or 'defaults'],
      ['learning rate', f'{optim["lr"]:g} at its peak, schedule'
                        f' {optim["schedule"]}'],
      ['batch', batch(config)],
      ['training', f'{training.steps:,} steps, {training.tokens:,} tokens,'
                   f' {table.duration(training.seconds)}'],
      ['skipped updates', f'{training.skipped:,}'],
  ]
  if training.best_step is not None:  # None: nothing tells which is best
    value = (
        f'accuracy {100 * training.best_value:.1f} %'
        if training.best_by == 'accuracy' else
        f'NLL {training.best_value:.3f} nats per token')
    rows.append(
        ['best validation', f'step {training.best_step:,}, {value}'])
  rows += [
      ['data', f'{data.train:,} training and {data.validation:,} '
               f'validation examples; {data.bad_rows:,} bad rows, '
               f'{data.truncated:,} truncated, {data.dropped:,} dropped'],
      ['end-of-turn token', data.turn_end],
      ['time by stage', ', '.join(
          f'{stage} {table.duration(seconds)}'
          for stage, seconds in found.timings.items())],
  ]
  return table.Table(['run', ''], rows, words=(0, 1))
