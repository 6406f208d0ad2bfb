"""The same job on Compute Engine, as commands to paste (v6e and later).

The API of queued resources gets no new generations. Compute Engine makes a host
from an instance template. A slice of several hosts is a managed instance group with
a workload policy, which says how its chips are connected. The forms are those of
https://docs.cloud.google.com/compute/docs/tpus/create-tpu-mig-multi-host-slice.
"""

import shlex

from ddt_jax import errors
from experiments.vm import plan
from experiments.vm import remote

_PROVISIONING = {
    # STOP and not DELETE: a machine group would replace a host that is deleted.
    'spot': ['--provisioning-model=SPOT', '--instance-termination-action=STOP'],
    'flex': ['--provisioning-model=FLEX_START', '--instance-termination-action=DELETE'],
    'reserved': ['--reservation-affinity=any', '--instance-termination-action=DELETE'],
    '': ['--instance-termination-action=DELETE'],
}


def commands(verb: str, p: plan.Plan) -> list[str]:
  """Returns a verb's command lines, for a shell.

  Raises:
    InputError: Compute Engine has no such machine.
  """
  generation = p.accelerator.generation
  if not generation.machine:
    raise errors.InputError(
        f'--type={p.accelerator.name}: --api=compute knows v6e and tpu7x alone; leave'
        ' --api out')
  if p.accelerator.hosts > 1 and p.accelerator.size not in generation.topologies:
    sizes = ', '.join(map(str, generation.topologies))
    raise errors.InputError(
        f'--type={p.accelerator.name}: slices of several hosts have sizes {sizes}')
  on_hosts = {
      'create': [*_install(p), *(_start(p) if p.command else [])],
      'run': [*_install(p), *_start(p)],
      'logs': _first(p, remote.follow(0)),
      'status': _first(p, remote.state()),
      'stop': _each(p, [_ssh(p, remote.stop())]),
      'delete': [],
  }[verb]
  if verb == 'create':
    return [*_create(p), *on_hosts]
  if verb == 'status':
    return [*_status(p), *on_hosts]
  return _delete(p) if verb == 'delete' else on_hosts


def _create(p: plan.Plan) -> list[str]:
  accelerator, zone = p.accelerator, f'--zone={p.zone}'
  lines = [_line(
      'instance-templates', 'create', p.name, f'--machine-type={accelerator.machine}',
      '--maintenance-policy=TERMINATE', *_PROVISIONING[p.provisioning],
      f'--max-run-duration={p.max_duration}',
      f'--image-family={accelerator.generation.image}',
      '--image-project=ubuntu-os-accelerator-images', '--boot-disk-size=200GB',
      # The default scopes do not let the run write to gs://.
      '--scopes=cloud-platform')]
  if accelerator.hosts == 1:
    return [*lines, _line(
        'instances', 'create', p.name, f'--source-instance-template={p.name}', zone)]
  region = _region(p)
  topology = accelerator.generation.topologies[accelerator.size]
  policy = f'regions/{region}/resourcePolicies/{p.name}'
  return [
      *lines,
      _line('resource-policies', 'create', 'workload-policy', p.name,
            '--type=HIGH_THROUGHPUT', f'--accelerator-topology={topology}',
            f'--region={region}'),
      _line('instance-groups', 'managed', 'create', p.name, f'--template={p.name}',
            f'--size={accelerator.hosts}', zone,
            # A single host that is replaced does not fit into its slice.
            '--default-action-on-vm-failure=do-nothing')
      + ' --workload-policy=projects/"$(gcloud config get project)"/'
      + shlex.quote(policy),
      _line('instance-groups', 'managed', 'wait-until', p.name, '--stable', zone),
  ]


def _install(p: plan.Plan) -> list[str]:
  scp = (f'{_line("scp", str(p.checkout))} {_host(p, f":{p.checkout.name}")}'
         f' {shlex.quote(f"--zone={p.zone}")}')
  return [
      shlex.join(['mkdir', '-p', str(p.folder)]),
      shlex.join(
          ['git', 'archive', '--format=tar.gz', f'--output={p.checkout}', 'HEAD']),
      *_each(p, [scp, _ssh(p, remote.install(p))]),
  ]


def _start(p: plan.Plan) -> list[str]:
  return [*_each(p, [_ssh(p, remote.start(p))]), *_first(p, remote.follow(0))]


def _status(p: plan.Plan) -> list[str]:
  if p.accelerator.hosts == 1:
    return [_line('instances', 'describe', p.name, f'--zone={p.zone}',
                  '--format=value(status)')]
  return [_line('instance-groups', 'managed', 'list-instances', p.name,
                f'--zone={p.zone}')]


def _delete(p: plan.Plan) -> list[str]:
  zone, template = f'--zone={p.zone}', _line(
      'instance-templates', 'delete', p.name, '--quiet')
  if p.accelerator.hosts == 1:
    return [_line('instances', 'delete', p.name, zone, '--quiet'), template]
  return [
      _line('instance-groups', 'managed', 'delete', p.name, zone, '--quiet'),
      template,
      _line('resource-policies', 'delete', p.name, f'--region={_region(p)}',
            '--quiet'),
  ]


def _ssh(p: plan.Plan, command: str) -> str:
  options = [
      f'--zone={p.zone}', f'--command={command}',
      '--ssh-flag=-o ServerAliveInterval=30']
  return f'{_line("ssh")} {_host(p)} {shlex.join(options)}'


def _each(p: plan.Plan, lines: list[str]) -> list[str]:
  """The lines for each host; the shell asks for the hosts' names."""
  if p.accelerator.hosts == 1:
    return lines
  return [f'for vm in $({_names(p)}); do', *(f'  {x}' for x in lines), 'done']


def _first(p: plan.Plan, command: str) -> list[str]:
  """A command on one host; of several, on the first that is listed."""
  if p.accelerator.hosts == 1:
    return [_ssh(p, command)]
  return [f'vm=$({_names(p)} | head -n 1)', _ssh(p, command)]


def _names(p: plan.Plan) -> str:
  return _line('instance-groups', 'managed', 'list-instances', p.name,
               f'--zone={p.zone}', '--format=value(name)')


def _host(p: plan.Plan, suffix: str = '') -> str:
  """A host's name; of several, the variable of the loop over them."""
  if p.accelerator.hosts == 1:
    return shlex.quote(p.name + suffix)
  return f'"$vm"{suffix}'


def _line(*words: str) -> str:
  return shlex.join(['gcloud', 'compute', *words])


def _region(p: plan.Plan) -> str:
  """Region of a zone, e.g. us-east5 of us-east5-b."""
  return p.zone.rpartition('-')[0]
