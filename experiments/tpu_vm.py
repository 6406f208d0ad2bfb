r"""Any command on Google Cloud TPU VMs, by the gcloud on the PATH.

python -m experiments.tpu_vm create --name NAME --zone ZONE --type v5litepod-16 \
    [--spot | --flex | --reserved] [--delete_on_success] \
    -- python -m experiments.train --config configs/idft.py --workdir=gs://BUCKET/RUN
python -m experiments.tpu_vm create --name NAME --zone ZONE --type v5litepod-16 \
    --spot --dry_run
python -m experiments.tpu_vm {run,logs,status,stop,delete} --name NAME --zone ZONE \
    --type v5litepod-16 [-- COMMAND for run]

create requests the machine, installs the checkout's HEAD on every host and, with a
command after --, runs it on all of them and shows the first one's log. A machine
that is preempted is created again and the command repeated, which resumes. After
Ctrl-C the run continues; `logs` shows it again. --dry_run prints the commands.
"""

import argparse
from collections.abc import Sequence
import re
import shlex
import sys

from ddt_jax import errors
from experiments.run import lifecycle
from experiments.vm import accelerators
from experiments.vm import compute
from experiments.vm import gcloud
from experiments.vm import job
from experiments.vm import plan


def create(j: job.Job, options: argparse.Namespace) -> int:
  """Creates and installs; with a command, runs it."""
  if j.plan.command:
    return run(j, options)
  j.create()
  j.connect()
  if j.run_state()['state'] == 'running':
    raise errors.InputError(
        f'{j.plan.name} is busy with a run, whose code stays as it is. To see its log:'
        f' {j.plan.call("logs")}')
  j.install()
  return 0


def run(j: job.Job, options: argparse.Namespace) -> int:
  """Runs the command to its end; returns its exit status."""
  status = j.run_to_end(new=options.verb == 'create')
  if not status and options.delete_on_success:
    j.delete()
  return status


def logs(j: job.Job, options: argparse.Namespace) -> int:
  """Shows the log; returns the run's exit status."""
  _check_run(j)
  return j.follow()


def status(j: job.Job, options: argparse.Namespace) -> int:
  """Prints the states of machine and run."""
  p, state = j.plan, j.state()
  answer = j.gcloud.answer
  answer(f'{p.name}: {state.name or "does not exist"} {state.reason}'.rstrip())
  if state.name == 'ACTIVE':
    found = j.run_state()
    ended = f', exit status {found["status"]}' if found['state'] == 'ended' else ''
    answer(f'run: {found["state"]}{ended}: {shlex.join(found["command"])}'.rstrip(': '))
  return 0


def stop(j: job.Job, options: argparse.Namespace) -> int:
  """Stops the run."""
  _check_run(j)
  j.stop()
  return 0


def delete(j: job.Job, options: argparse.Namespace) -> int:
  """Deletes the machine, if there is one."""
  if j.state().name:
    j.delete()
  return 0


VERBS = {
    create: 'request a machine and install; with a command, run it too',
    run: 'install the checkout and run a command on a machine that exists',
    logs: "show the run's log until it ends",
    status: 'show the state of machine and run',
    stop: 'let the run save and stop; the machine stays',
    delete: 'delete the machine and whatever runs on it',
}


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, plan.Plan]:
  """Reads the command line.

  Args:
    argv: without the program's name; the words after the first -- are the command.

  Returns:
    (options, plan).

  Raises:
    InputError: an option does not fit.
  """
  argv = list(argv)
  end = argv.index('--') if '--' in argv else len(argv)
  words, rest = [], iter(argv[:end])
  for word in rest:
    if word in ('--name', '--zone') and (value := next(rest, None)) is not None:
      # Joined by =, argparse takes values that begin with a hyphen, too.
      word = f'{word}={value}'
    words.append(word)
  _check_words(words)
  options, command = _parser().parse_args(words), tuple(argv[end + 1:])
  if command and options.verb not in ('create', 'run'):
    raise errors.InputError(f'{options.verb} takes no command after --')
  if not command and options.verb == 'run':
    raise errors.InputError('run needs a command: run ... -- python -m ...')
  for flag in ('max_duration', 'valid_for'):
    plan.seconds(flag, getattr(options, flag))
  p = plan.Plan(
      options.name, options.zone, accelerators.parse(options.type),
      provisioning=options.provisioning, max_duration=options.max_duration,
      valid_for=options.valid_for, command=command)
  plan.check_output(p)
  if options.api == 'compute' and not options.dry_run:
    raise errors.InputError(
        '--api=compute only prints commands, to paste them: add --dry_run')
  if options.api == 'tpu' and not p.accelerator.generation.runtime:
    raise errors.InputError(
        f'queued resources have no {options.type}: add --api=compute --dry_run')
  return options, p


def _check_words(words: Sequence[str]) -> None:
  """Raises InputError for a verb or an option that does not exist.

  argparse would first miss the option that was meant, and names none.
  """
  verbs = [verb.__name__ for verb in VERBS]
  if words and words[0] not in (*verbs, '-h', '--help'):
    raise errors.InputError(
        f'there is no verb {words[0]!r}{errors.did_you_mean(words[0], verbs)}; there'
        f' are {", ".join(verbs)}')
  known = ['--help', *re.findall(r'--[\w-]+', _machine().format_help())]
  for word in words:
    name = word.partition('=')[0]
    if name.startswith('--') and name not in known:
      raise errors.InputError(
          f'there is no option {name}{errors.did_you_mean(name, known)}; see --help')


def _machine() -> argparse.ArgumentParser:
  """Options that every verb takes."""
  machine = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  add = machine.add_argument
  add('--name', required=True, help='of the machine')
  add('--zone', required=True, help='e.g. us-west4-a')
  add('--type', required=True, help='accelerator type, e.g. v5litepod-16')
  provisioning = machine.add_mutually_exclusive_group()
  for name in ('spot', 'flex', 'reserved'):
    provisioning.add_argument(
        f'--{name}', dest='provisioning', action='store_const', const=name, default='')
  add('--max_duration', default='24h',
      help='the machine deletes itself after it; default %(default)s')
  add('--valid_for', default='6h',
      help='end the request if no machine comes for so long; default %(default)s')
  add('--delete_on_success', action='store_true',
      help='delete the machine if the command ends with 0')
  add('--api', choices=('tpu', 'compute'), default='tpu',
      help='queued resources, or Compute Engine (v6e, tpu7x; with --dry_run alone)')
  add('--dry_run', '--dry-run', action='store_true',
      help='print the commands; needs no gcloud')
  add('--poll', type=float, default=30.0, metavar='SECONDS',
      help='between two looks at the machine; default %(default)s')
  return machine


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      'python -m experiments.tpu_vm', description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  verbs = parser.add_subparsers(dest='verb', required=True)
  for verb, text in VERBS.items():
    verbs.add_parser(verb.__name__, parents=[_machine()], help=text, allow_abbrev=False)
  return parser


def _check_run(j: job.Job) -> None:
  """Raises InputError if there is no machine or no run."""
  name = j.state().name
  if name != 'ACTIVE':
    raise errors.InputError(
        f'{j.plan.name} is {name}' if name else f'there is no {j.plan.name}')
  if j.run_state()['state'] == 'none':
    raise errors.InputError(f'no run was started on {j.plan.name}')


def what_remains(j: job.Job) -> str:
  """A line that says what still costs money, and how to delete it."""
  p, delete_it = j.plan, f'To delete it: {j.plan.call("delete")}'
  try:
    name = j.state().name
  except errors.InputError:
    return f'{p.name} may still run: gcloud could not say. {delete_it}'
  if not name:
    return f'nothing is left of {p.name}'
  if name in job.ENDED:
    return f'{p.name} is {name} and costs nothing, but keeps its name. {delete_it}'
  return (f'{p.name} ({p.accelerator.name} in {p.zone}) is {name} and costs money'
          f' while it is active, at most {p.max_duration}. {delete_it}')


def perform(j: job.Job, options: argparse.Namespace) -> int:
  """Performs the verb; returns the exit status."""
  p, say = j.plan, j.gcloud.say
  try:
    return {v.__name__: v for v in VERBS}[options.verb](j, options)
  except job.Preempted:
    say(f'{p.name} was preempted. Create it again and give it the same command,'
        ' which resumes')
  except job.Expired:
    say(f'{p.name}: its maximum duration is over, or it was deleted. Create it again'
        ' and give it the same command, which resumes')
    if j.state().name:
      j.delete()
  except KeyboardInterrupt:
    say(f'\ninterrupted. A run that was started continues: {p.call("logs")}')
    return lifecycle.INTERRUPTED
  return lifecycle.RESUME


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit status."""
  with lifecycle.explained_errors():
    options, p = parse(argv)
    if options.api == 'compute':
      print('\n'.join(compute.commands(options.verb, p)))
      return 0
  if options.dry_run:
    runner = gcloud.DryRun(exists=options.verb != 'create')
    j = job.Job(p, runner, poll=0, out=sys.stdout.buffer)
    return perform(j, options)
  j = job.Job(p, gcloud.Gcloud(), poll=options.poll, out=sys.stdout.buffer)
  try:
    with lifecycle.explained_errors():
      return perform(j, options)
  finally:
    j.gcloud.say(what_remains(j))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
