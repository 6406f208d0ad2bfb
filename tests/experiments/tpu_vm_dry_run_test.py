"""The commands that a dry run prints, against the forms of gcloud's reference."""

import re
import shlex
import subprocess

import pytest

from experiments import tpu_vm
from experiments.vm import accelerators
from tests.support import fake_gcloud
from tests.support import paths

TRAIN = ['python', '-m', 'experiments.train', '--workdir=gs://bucket/run']
_NAME, _ZONE = '[a-z]+', '--zone=us-west4-a'
# Each command: its words, then its flags, in any order; ? marks those that may lack.
QUEUED = {
    rf'gcloud compute tpus queued-resources create {_NAME}': [
        r'--node-id=[a-z]+', _ZONE, r'--accelerator-type=\S+', r'--runtime-version=\S+',
        r'--(spot|reserved)?', r'--metadata-from-file=startup-script=/\S+',
        r'--valid-until-duration=\d+h', '--async'],
    rf'gcloud alpha compute tpus queued-resources create {_NAME}': [
        r'--node-id=[a-z]+', _ZONE, r'--accelerator-type=\S+', r'--runtime-version=\S+',
        '--provisioning-model=flex-start', r'--max-run-duration=\d+h',
        r'--valid-until-duration=\d+h', '--async'],
    rf'gcloud compute tpus queued-resources describe {_NAME}': [_ZONE, '--format=json'],
    rf'gcloud compute tpus queued-resources delete {_NAME}': [
        _ZONE, '--force', '--quiet'],
    rf'gcloud compute tpus tpu-vm ssh {_NAME}': [
        _ZONE, r'--worker=(all|\d)', r'--command=.+',
        '--ssh-flag=-o ServerAliveInterval=30'],
    rf'gcloud compute tpus tpu-vm scp /\S+ {_NAME}:\S+': [_ZONE, '--worker=all'],
    r'git archive HEAD': ['--format=tar.gz', r'--output=/\S+'],
    r'mkdir -p /\S+': [], r'printf %s\\n .* > /\S+': [],
}
COMPUTE = {
    rf'gcloud compute instance-templates create {_NAME}': [
        r'--machine-type=(ct6e-standard-[148]t|tpu7x-standard-4t)',
        '--maintenance-policy=TERMINATE',
        r'--(provisioning-model=(SPOT|FLEX_START)|reservation-affinity=any)?',
        '--instance-termination-action=(STOP|DELETE)', r'--max-run-duration=\d+h',
        r'--image-family=\S+', '--image-project=ubuntu-os-accelerator-images',
        '--boot-disk-size=200GB', '--scopes=cloud-platform'],
    rf'gcloud compute instances create {_NAME}': [
        r'--source-instance-template=\S+', _ZONE],
    rf'gcloud compute instances describe {_NAME}': [_ZONE, r'--format=value\(status\)'],
    rf'gcloud compute instances delete {_NAME}': [_ZONE, '--quiet'],
    rf'gcloud compute instance-templates delete {_NAME}': ['--quiet'],
    rf'gcloud compute resource-policies create workload-policy {_NAME}': [
        '--type=HIGH_THROUGHPUT', r'--accelerator-topology=\d+(x\d+)+',
        '--region=us-west4'],
    rf'gcloud compute resource-policies delete {_NAME}': [
        '--region=us-west4', '--quiet'],
    rf'gcloud compute instance-groups managed create {_NAME}': [
        r'--template=\S+', r'--size=\d+', _ZONE,
        '--default-action-on-vm-failure=do-nothing',
        r'--workload-policy=projects/.*/regions/us-west4/resourcePolicies/[a-z]+'],
    rf'gcloud compute instance-groups managed wait-until {_NAME}': ['--stable', _ZONE],
    rf'gcloud compute instance-groups managed delete {_NAME}': [_ZONE, '--quiet'],
    rf'gcloud compute instance-groups managed list-instances {_NAME}': [
        _ZONE, r'(--format=value\(name\))?'],
    rf'gcloud compute ssh ({_NAME}|\$vm)': [
        _ZONE, r'--command=.+', '--ssh-flag=-o ServerAliveInterval=30'],
    rf'gcloud compute scp /\S+ ({_NAME}|\$vm):\S+': [_ZONE],
    r'git archive HEAD': ['--format=tar.gz', r'--output=/\S+'], r'mkdir -p /\S+': [],
}


def printed(capsys, verb, *options, command=()):
  argv = [verb, '--name=job', '--zone=us-west4-a', *options, '--dry_run']
  assert tpu_vm.main([*argv, *(['--', *command] if command else [])]) == 0
  return capsys.readouterr().out


def check(line, forms):
  words = shlex.split(line, comments=True)
  plain = ' '.join(w for w in words if not w.startswith('--'))
  flags = [w for w in words if w.startswith('--')]
  form, = [f for f in forms if re.fullmatch(f, plain, re.DOTALL)]
  wanted = list(forms[form])
  for flag in flags:
    matching = [w for w in wanted if re.fullmatch(w, flag, re.DOTALL)]
    assert matching, f'{flag} in {line}'
    wanted.remove(matching[0])
  assert all(w.endswith('?') for w in wanted), f'{wanted} lack in {line}'


def commands_for(verb):
  return TRAIN if verb in ('create', 'run') else ()


VERBS = [v.__name__ for v in tpu_vm.VERBS]


@pytest.mark.parametrize('provisioning', ['', '--spot', '--flex', '--reserved'])
@pytest.mark.parametrize('verb', VERBS)
def test_commands_of_queued_resources(verb, provisioning, capsys, monkeypatch):
  monkeypatch.setenv('PATH', '')  # needs no gcloud
  options = ['--type=v5litepod-16', *([provisioning] if provisioning else [])]
  lines = printed(capsys, verb, *options, command=commands_for(verb)).splitlines()
  for line in lines:
    check(line, QUEUED)
  assert lines


@pytest.mark.parametrize('kind', ['v6e-1', 'v6e-8', 'v6e-16', 'tpu7x-8', 'tpu7x-16'])
@pytest.mark.parametrize('verb', VERBS)
def test_commands_of_compute_engine(verb, kind, capsys, monkeypatch):
  monkeypatch.setenv('PATH', '')
  text = printed(
      capsys, verb, f'--type={kind}', '--spot', '--api=compute',
      command=commands_for(verb))
  # The loops over the hosts, and the substitutions in them.
  text = re.sub(r'^for vm in \$\((.*)\); do$', r'\1', text, flags=re.MULTILINE)
  text = re.sub(r'^vm=\$\((.*) \| head -n 1\)$', r'\1', text, flags=re.MULTILINE)
  for line in text.splitlines():
    if line != 'done':
      check(line, COMPUTE)
  assert text


def test_the_shell_reads_what_is_printed(capsys, tmp_path, monkeypatch):
  """Every line of every verb, pasted into a shell with the fake platform."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  environment = fake_gcloud.install(tmp_path / 'fake')
  name = "it's; touch x $(touch x)\nEND `touch x` \"\\"
  argv = [f'--name={name}', '--zone=a b', '--type=v5litepod-8']
  for verb, words in (
      ('create', ['python', '-c', 'print("two\\nlines")', "';"]),
      ('status', ()), ('logs', ()), ('stop', ()), ('delete', ())
  ):
    assert tpu_vm.main([verb, *argv, '--dry_run', *(['--', *words] if words else [])]
                       ) == 0
    # Without -e: describe fails as it should before the machine exists.
    done = subprocess.run(
        ['bash', '-c', capsys.readouterr().out], cwd=paths.ROOT, text=True,
        env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if verb in ('create', 'logs'):
      assert 'two\nlines\n' in done.stdout
  assert not list(tmp_path.rglob('x')) and not (paths.ROOT / 'x').exists()
  state = fake_gcloud.load(tmp_path / 'fake')
  assert state['created'] == 1 and state['resources'] == {}


@pytest.mark.parametrize('name', ['-x', '--zone', ' ', "'"])
def test_any_name_is_quoted_and_none_refused(name, capsys):
  words = ['delete', f'--name={name}', '--zone', '-z', '--type=v4-8', '--dry_run']
  assert tpu_vm.main(words) == 0
  for line in capsys.readouterr().out.splitlines():
    found = shlex.split(line, comments=True)
    assert found[5] == name and found[6] == '--zone=-z'


@pytest.mark.parametrize('kind, hosts, runtime', [
    ('v2-8', 1, 'tpu-ubuntu2204-base'), ('v3-32', 4, 'tpu-ubuntu2204-base'),
    ('v4-8', 1, 'tpu-ubuntu2204-base'), ('v4-16', 2, 'tpu-ubuntu2204-base'),
    ('v5litepod-1', 1, 'v2-alpha-tpuv5-lite'),
    ('v5litepod-8', 1, 'v2-alpha-tpuv5-lite'),
    ('v5litepod-16', 4, 'v2-alpha-tpuv5-lite'),
    ('v5litepod-256', 64, 'v2-alpha-tpuv5-lite'),
    ('v5p-8', 1, 'v2-alpha-tpuv5'), ('v5p-128', 16, 'v2-alpha-tpuv5'),
    ('v6e-4', 1, 'v2-alpha-tpuv6e'), ('v6e-64', 16, 'v2-alpha-tpuv6e'),
])
def test_hosts_and_runtime_versions(kind, hosts, runtime):
  accelerator = accelerators.parse(kind)
  assert accelerator.hosts == hosts
  assert accelerator.generation.runtime == runtime
