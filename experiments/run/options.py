"""The command line: options that do not exist or do not fit end in one line."""

from collections.abc import Iterator, Sequence
import inspect
import pathlib
import re
import runpy
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from ddt_jax import errors
from experiments.run import usage

# Names of the same option in other trainers.
ELSEWHERE = {
    'learning_rate': 'optim.lr',
    'lr_scheduler_type': 'optim.schedule',
    'adam_beta1': 'optim.b1',
    'adam_beta2': 'optim.b2',
    'adam_epsilon': 'optim.eps',
    'max_grad_norm': 'optim.clip',
    'batch_size': 'train.batch',
    'per_device_train_batch_size': 'train.batch',
    'global_batch_size': 'train.batch',
    'num_epochs': 'train.epochs',
    'num_train_epochs': 'train.epochs',
    'max_steps': 'train.max_steps',
    'early_stopping_patience': 'validation.patience',
    'gradient_accumulation_steps': 'train.micro_batches',
    'max_length': 'data.max_tokens',
    'max_seq_length': 'data.max_tokens',
    'dataset': 'data.path',
    'eval_steps': 'validation.every',
    'save_steps': 'checkpoint.every',
    'logging_steps': 'log.every',
    'model_name_or_path': 'model.path',
    'torch_dtype': 'model.dtype',
    'gradient_checkpointing': 'model.remat',
    'num_generations': 'curate.samples',
    'max_completion_length': 'curate.max_new_tokens',
    'lora_r': 'lora.rank',
    'lora_rank': 'lora.rank',
    'lora_alpha': 'lora.alpha',
    'lora_target_modules': 'lora.targets',
    'target_modules': 'lora.targets',
    'use_rslora': 'lora.rslora',
}
# Options that stood elsewhere in earlier versions; old commands go on working.
MOVED = {
    'optim.batch': 'train.batch',
    'optim.epochs': 'train.epochs',
    'optim.micro_batches': 'train.micro_batches',
    'optim.across_rounds': 'train.across_rounds',
    'optim.max_skipped_in_a_row': 'train.max_skipped_in_a_row',
    'data.mask_mode': 'train.mask_mode',
    'evaluation.workers': 'verifier.workers',
    'evaluation.timeout_s': 'verifier.timeout_s',
}
# How an option of ours differs from its namesake.
NOTES = {
    'train.max_steps': 'of each round',
    'train.batch': 'of a step, over all devices',
    'train.micro_batches': 'it cuts the batch and does not enlarge it',
}


def define_config(default: str) -> None:
  """Defines --config and its overrides; an unknown field ends the process.

  An option that has moved is taken under its old name, with a note.

  Args:
    default: the config file where none is given.
  """
  # By hand first: config_flags reports an unknown field by a traceback.
  given = re.search(r'(?:^|\n)--?config[=\n]([^\n]+)', '\n'.join(sys.argv))
  file, _, argument = (given[1] if given else default).partition(':')
  if not pathlib.Path(file).is_file():
    beside = map(str, pathlib.Path(file).parent.glob('*.py'))
    ours = pathlib.Path('configs', file)
    near = f'; did you mean {ours}?' if ours.is_file() else errors.did_you_mean(
        file, beside)
    _fail(f'--config={file}: there is no such file{near}')
  get_config = runpy.run_path(file)['get_config']
  if argument and not inspect.signature(get_config).parameters:
    _fail(f'--config={file}:{argument}: this config has no presets')
  try:
    config = get_config(argument) if argument else get_config()
  except ValueError as e:
    # The message lists the presets of this config.
    words = [w for w in re.findall(r'[\w.-]+', str(e)) if w != argument]
    near = errors.did_you_mean(argument, words)
    _fail(f'--config={file}:{argument}: {e}{near}')
  for i, word in enumerate(sys.argv):
    override = re.match(r'--?config\.([\w.]+)', word)
    if not override or _has(config, override[1]):
      continue
    new = MOVED.get(override[1])
    if new is None or not _has(config, new):
      _fail(unknown(override[1], config))
    print(f'config.{override[1]} is now config.{new}', file=sys.stderr)
    # In argv, since config_flags reads overrides from there and not from absl's
    # list.
    sys.argv[i] = word.replace(override[1], new, 1)
  config_flags.DEFINE_config_file('config', default)


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake in them ends the process with status 2.

  Args:
    argv: of the process.

  Returns:
    The program's name alone.
  """
  if usage.is_asked(argv):
    print(usage.text(sys.modules['__main__'].__doc__, flags.FLAGS))
    sys.exit(0)
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as e:
    _fail(_explained(e))
  if len(rest) > 1:
    _fail(f'unknown argument {rest[1]!r}; options begin with --')
  return rest


def _explained(e: flags.Error) -> str:
  """One line on a mistake in the flags, with the nearest right word."""
  if isinstance(e, flags.UnrecognizedFlagError):
    return no_flag(e.flagname, [flag.name for flag in usage.own(flags.FLAGS)])
  message = str(e).replace('flag --', '--')
  value = re.match('--(\\w+)=(.*): value should be one of', message, re.DOTALL)
  if not value:
    return message
  choices = flags.FLAGS[value[1]].parser.enum_values
  return str(errors.no_choice(f'--{value[1]}', value[2], choices))


def no_flag(name: str, known: Sequence[str]) -> str:
  """Says that a command has no such flag, and which one may be meant.

  Example:
    >>> no_flag('confg.optim.lr', ['config', 'workdir'])
    'there is no option --confg.optim.lr; did you mean --config.optim.lr? See --help'
  """
  flag, dot, field = name.partition('.')
  near = errors.nearest(flag, known)
  meant = f'; did you mean --{near}{dot}{field}?' if near else '.'
  return f'there is no option --{name}{meant} See --help'


def unknown(name: str, config: ml_collections.ConfigDict) -> str:
  """Says that a config has no such field, and which one may be meant.

  Args:
    name: dotted, without "config.".
    config: it has the fields that there are.
  """
  fields = list(dict(flat(config)))
  section, _, last = name.rpartition('.')
  siblings = [f for f in fields if section and f.startswith(f'{section}.')]
  # From the surest guess to the vaguest; the first one is shown.
  meant = [f for f in (ELSEWHERE.get(last),) if f in fields]
  slips = [f for f in fields if errors.is_slip(name, f)]
  meant += filter(None, [errors.nearest(name, slips)])
  meant += [f for f in fields if f.rpartition('.')[2] == last]
  meant += filter(None, [
      errors.nearest(name, siblings), errors.nearest(name, fields)])
  message = f'there is no option config.{name}'
  if meant:
    message += f'; did you mean config.{meant[0]}?'
    if note := NOTES.get(meant[0]):
      message += f' ({note})'
  if siblings:
    names = ', '.join(f.removeprefix(f'{section}.') for f in siblings)
    message += f' (config.{section} has {names})'
  elif not meant:
    sections = dict.fromkeys(f.partition('.')[0] for f in fields)
    message += f'; there are {", ".join(sections)}'
  return message


def _fail(message: str):
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def _has(config: Any, name: str) -> bool:
  for part in name.split('.'):
    if not isinstance(config, ml_collections.ConfigDict) or part not in config:
      return False
    config = config[part]
  return True


def flat(
    config: ml_collections.ConfigDict, prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, value) of every field."""
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from flat(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
