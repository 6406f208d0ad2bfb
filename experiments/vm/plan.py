"""The machine and the run that the user asked for."""

import dataclasses
import hashlib
import pathlib
import re
import shlex

from ddt_jax import errors
from ddt_jax import storage
from experiments.vm import accelerators

# The folder of git's checkout, which is copied to the hosts.
ROOT = pathlib.Path(__file__).parents[2]
_SECONDS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}
# Commands that write a folder or file, and the flag that names it.
_OUTPUT = {
    'experiments.curate': 'out', 'experiments.score': 'workdir',
    'experiments.study': 'workdir', 'experiments.train': 'workdir',
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """A TPU VM and the command to run on it.

  Attributes:
    name: of the queued resource and of its node.
    zone: e.g. us-west4-a.
    accelerator: its type.
    provisioning: 'spot', 'flex', 'reserved', or '' for on demand.
    max_duration: of the machine, e.g. 24h; it is deleted then.
    valid_for: of the request: it ends if no machine is available for so long.
    command: argument list, or empty.
  """

  name: str
  zone: str
  accelerator: accelerators.Accelerator
  provisioning: str = ''
  max_duration: str = '24h'
  valid_for: str = '6h'
  command: tuple[str, ...] = ()

  @property
  def folder(self) -> pathlib.Path:
    """Local folder for the files that gcloud reads."""
    # A digest, because names may hold slashes and, for scp, colons.
    digest = hashlib.sha256(f'{self.zone}/{self.name}'.encode()).hexdigest()
    return pathlib.Path(storage.user_cache()).absolute() / 'tpu_vm' / digest[:12]

  @property
  def checkout(self) -> pathlib.Path:
    """Local file: the checkout's HEAD."""
    return self.folder / 'ddt_jax.tar.gz'

  @property
  def startup(self) -> pathlib.Path:
    """Local file: the script that each host runs when it boots."""
    return self.folder / 'startup.sh'

  def call(self, verb: str) -> str:
    """Our own command with another verb for this machine, to paste."""
    return shlex.join([
        'python', '-m', 'experiments.tpu_vm', verb, f'--name={self.name}',
        f'--zone={self.zone}', f'--type={self.accelerator.name}'])


def seconds(flag: str, duration: str) -> int:
  """The seconds of a duration such as 90m, 24h or 7d.

  Args:
    flag: that holds it, for the message.
    duration: number and unit.

  Raises:
    InputError: it is not written so.
  """
  found = re.fullmatch(r'([1-9]\d*)([smhd])', duration)
  if not found:
    raise errors.InputError(
        f'--{flag}={duration}: write a number and a unit, e.g. 90m, 24h or 7d')
  return int(found[1]) * _SECONDS[found[2]]


def check_output(plan: Plan) -> None:
  """Refuses a command that several hosts would run on folders of their own.

  Raises:
    InputError: the command writes to a local path, or does not say where.
  """
  if plan.accelerator.hosts == 1 or not plan.command:
    return
  flag = next((_OUTPUT[w] for w in plan.command if w in _OUTPUT), 'workdir')
  needed = any(w in _OUTPUT for w in plan.command)
  text = '\n'.join(plan.command)
  given = re.findall(rf'^--?{flag}[=\n](.*)$', text, re.MULTILINE)
  path = given[-1] if given else ''
  if path.startswith('gs://') or not (needed or given):
    return
  raise errors.InputError(
      f'{plan.accelerator.name} has {plan.accelerator.hosts} hosts, which must see'
      f' one folder: give the command --{flag}=gs://BUCKET/PATH'
      + (f' instead of --{flag}={path}' if given else ''))
