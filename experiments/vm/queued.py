"""gcloud's argument lists for queued resources and their TPU VMs.

Each function returns an argument list; the forms are those of
https://docs.cloud.google.com/tpu/docs/queued-resources. A queued resource has one
node, of the same name.
"""

import shlex

from experiments.vm import plan

_QUEUED = ('compute', 'tpus', 'queued-resources')
_TPU_VM = ('gcloud', 'compute', 'tpus', 'tpu-vm')
# Otherwise a connection that the network has dropped blocks for hours.
_KEEP_ALIVE = '--ssh-flag=-o ServerAliveInterval=30'


def create(p: plan.Plan) -> list[str]:
  """Requests the machine and returns at once."""
  flex = p.provisioning == 'flex'
  options = {
      # flex-start is in the alpha commands alone. The platform ends it by itself.
      'flex': ['--provisioning-model=flex-start',
               f'--max-run-duration={p.max_duration}'],
      'spot': ['--spot'], 'reserved': ['--reserved'], '': [],
  }[p.provisioning]
  if not flex:
    options.append(f'--metadata-from-file=startup-script={p.startup}')
  return [
      'gcloud', *(['alpha'] if flex else []), *_QUEUED, 'create', p.name,
      f'--node-id={p.name}', f'--zone={p.zone}',
      f'--accelerator-type={p.accelerator.name}',
      f'--runtime-version={p.accelerator.generation.runtime}', *options,
      f'--valid-until-duration={p.valid_for}', '--async',
  ]


def describe(p: plan.Plan) -> list[str]:
  """Prints the queued resource as JSON."""
  return [
      'gcloud', *_QUEUED, 'describe', p.name, f'--zone={p.zone}', '--format=json']


def delete(p: plan.Plan) -> list[str]:
  """Deletes the queued resource and its node."""
  # --force: without it a queued resource that has a node is not deleted.
  return [
      'gcloud', *_QUEUED, 'delete', p.name, f'--zone={p.zone}', '--force', '--quiet']


def ssh(p: plan.Plan, worker: int | str, command: str) -> list[str]:
  """Runs a shell's command line on one host, or with 'all' on all at once."""
  return [
      *_TPU_VM, 'ssh', p.name, f'--zone={p.zone}', f'--worker={worker}',
      f'--command={command}', _KEEP_ALIVE]


def scp(p: plan.Plan) -> list[str]:
  """Copies the checkout to all hosts."""
  return [
      *_TPU_VM, 'scp', str(p.checkout), f'{p.name}:{p.checkout.name}',
      f'--zone={p.zone}', '--worker=all']


def startup_script(p: plan.Plan, seconds: int) -> str:
  """The script that deletes the machine after so many seconds.

  A host runs it when it boots, so that it works without a connection. Queued
  resources have a maximum duration of their own for flex-start alone.
  """
  delete_it = shlex.join([*delete(p), '--async'])
  # A login shell has the PATH on which the VM's own gcloud is.
  timer = ['systemd-run', f'--on-active={seconds}s', 'bash', '-lc', delete_it]
  return f'#!/bin/bash\n{shlex.join(timer)}\n'
