"""Command lines for the shell of a host; the only shell strings of this package."""

from collections.abc import Sequence
import shlex

from experiments.vm import plan

_WORKER = ('.venv/bin/python', '-m', 'experiments.vm.worker')
STOP_SECONDS = 300  # time to save a checkpoint before the run is killed


def install(p: plan.Plan) -> str:
  """Unpacks the checkout and installs it, over an earlier one."""
  archive = p.checkout.name
  return (f'mkdir -p ddt_jax && tar -xzf {archive} -C ddt_jax'
          ' && bash ddt_jax/experiments/vm/install.sh')


def start(p: plan.Plan) -> str:
  """Starts the run detached."""
  return _worker('start', p.accelerator.hosts, *p.command)


def follow(offset: int) -> str:
  """Prints the log from this byte on until the run has ended."""
  return _worker('follow', offset)


def state() -> str:
  """Prints the state of the run as JSON; also where nothing is installed yet."""
  nothing = '{"state": "none", "status": null, "command": []}'
  return (f'if test -d ddt_jax_run; then {_worker("state")};'
          f' else echo {shlex.quote(nothing)}; fi')


def stop() -> str:
  """Lets the run save and stop."""
  return _worker('stop', STOP_SECONDS)


def _worker(verb: str, *arguments: str | int) -> str:
  words: Sequence[str] = [*_WORKER, verb, *map(str, arguments)]
  return f'cd ddt_jax && {shlex.join(words)}'
