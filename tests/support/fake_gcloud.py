"""A gcloud in a folder: queued resources, and their hosts as folders of this machine.

`install` puts it on the PATH, with a git and a uv that save the tests' time. Its command lines are those of queued resources and
TPU VMs; anything else ends with an error. ssh runs the command line on each host by
a shell, in a home folder of its own. `state.json` holds everything:

  resources  name -> number of the creation, looks at it, whether it was preempted
  calls      all argument lists, as received
  states     of each creation: the states that describe finds; the last one stays
  fail       [[words, numbers of calls, exit status, message], ...]: calls whose
             argument list holds the words fail, if their number among them matches
  preempt    of each creation: a line of the log at which the machine is lost; or ''
  late       number of looks that find a machine ACTIVE after its run was ended by a
             preemption; 0: both end at once, and the connection with them
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

FOLDER = pathlib.Path(os.environ.get('FAKE_GCLOUD', '.'))
ROOT = pathlib.Path(__file__).parents[2]
NO_CONNECTION = 255
# A git that archives the commands alone, as they are in the working tree.
GIT = '''#!/bin/sh
test "$1 $2 $4" = "archive --format=tar.gz HEAD" || exit 129
tar -czf "${3#--output=}" -C "{root}" experiments
'''
# A uv that takes the Python of the tests.
UV = '''#!/bin/sh
echo "$*" >> "$HOME/uv_calls"
if test "$1" = venv; then
  mkdir -p .venv/bin
  printf '#!/bin/sh\\nexec {python} "$@"\\n' > .venv/bin/python
  chmod +x .venv/bin/python
fi
'''


def install(folder, **state):
  """Writes gcloud and uv into `folder`/bin; returns the environment that uses them.

  Args:
    folder: of the fake.
    **state: states, fail and preempt; default: all goes well.
  """
  programs = folder / 'bin'
  programs.mkdir(parents=True)
  # -S and -I: a start-up in a third of the time.
  gcloud = f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} "$@"\n'
  for name, text in (
      ('gcloud', gcloud), ('uv', UV.replace('{python}', sys.executable)),
      ('git', GIT.replace('{root}', str(ROOT))),
  ):
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)
  save({'resources': {}, 'created': 0, 'calls': [], 'states': [], 'fail': [],
        'preempt': [], 'late': 0} | state, folder)
  return {
      'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
      'FAKE_GCLOUD': str(folder),
  }


def load(folder=FOLDER):
  return json.loads((folder / 'state.json').read_text())


def save(state, folder=FOLDER):
  # A name of its own: two commands may write at once.
  part = folder / f'state.{os.getpid()}'
  part.write_text(json.dumps(state))
  part.replace(folder / 'state.json')


def home(name, host):
  """Home folder of a host; names may hold anything."""
  return FOLDER / 'hosts' / f'{name.encode().hex()}-{host}'


class Failure(Exception):
  """Carries the exit status and the message."""


def main(argv):
  state = load()
  state['calls'].append(argv)
  save(state)
  try:
    for words, numbers, status, message in state['fail']:
      matching = [c for c in state['calls'] if words in ' '.join(c)]
      if words in ' '.join(argv) and len(matching) in numbers:
        raise Failure(status, message)
    return act(state, [w for w in argv if w != 'alpha'])
  except Failure as e:
    print(f'ERROR: (gcloud) {e.args[1]}', file=sys.stderr)
    return e.args[0]


def act(state, argv):
  words = [w for w in argv if not w.startswith('--')]
  flags = dict(w[2:].partition('=')[::2] for w in argv if w.startswith('--'))
  match words:
    case 'compute', 'tpus', 'queued-resources', verb, name:
      return {'create': create, 'describe': describe, 'delete': delete}[verb](
          state, name, flags)
    case 'compute', 'tpus', 'tpu-vm', 'ssh', name:
      return ssh(machine(state, name), name, flags)
    case 'compute', 'tpus', 'tpu-vm', 'scp', source, target:
      name, _, path = target.rpartition(':')
      for host in range(machine(state, name)['hosts']):
        shutil.copy(source, home(name, host) / path)
      return 0
  raise Failure(2, f'Invalid choice: {words}')


def create(state, name, flags):
  if name in state['resources']:
    raise Failure(1, 'ALREADY_EXISTS')
  if 'metadata-from-file' in flags:
    script = pathlib.Path(flags['metadata-from-file'].partition('=')[2])
    flags['startup'] = script.read_text()
  # The cores or chips of a host: enough for the types of the tests.
  kind, _, size = flags['accelerator-type'].rpartition('-')
  hosts = max(1, int(size) // {'v5litepod': 4}.get(kind, 8))
  state['resources'][name] = {
      'creation': state['created'], 'looks': 0, 'hosts': hosts, 'lost': False,
      'flags': flags}
  state['created'] += 1
  save(state)
  for host in range(hosts):
    home(name, host).mkdir(parents=True)
  return 0


def current(state, resource):
  if resource['lost'] and resource['looks'] > resource['lost_at']:
    return 'SUSPENDED'
  states = dict(enumerate(state['states'])).get(resource['creation']) or ['ACTIVE']
  return states[min(resource['looks'], len(states)) - 1]


def describe(state, name, flags):
  resource = find(state, name)
  resource['looks'] += 1
  save(state)
  about = {'state': current(state, resource)}
  if about['state'] == 'FAILED':
    about['failedData'] = {'error': {'message': 'no more capacity in the zone'}}
  print(json.dumps({'name': name, 'state': about}))
  return 0


def delete(state, name, flags):
  if 'force' not in flags or 'quiet' not in flags:
    raise Failure(1, 'the node still exists')
  resource = find(state, name)
  lose(name, resource)
  del state['resources'][name]
  save(state)
  for host in range(resource['hosts']):
    shutil.rmtree(home(name, host), ignore_errors=True)
  return 0


def find(state, name):
  if name not in state['resources']:
    raise Failure(1, f'NOT_FOUND: Resource {name} was not found')
  return state['resources'][name]


def machine(state, name):
  resource = find(state, name)
  if current(state, resource) != 'ACTIVE':
    raise Failure(1, 'the node is not ready')
  return resource


def lose(name, resource):
  """Kills what runs on the hosts."""
  for host in range(resource['hosts']):
    pid = home(name, host) / 'ddt_jax_run' / 'pid'
    try:
      os.killpg(int(pid.read_text()), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
      pass


def ssh(resource, name, flags):
  hosts = range(resource['hosts'])
  if flags['worker'] != 'all':
    hosts = [int(flags['worker'])]
  started = [
      subprocess.Popen(
          ['sh', '-c', flags['command']], cwd=home(name, host),
          env=os.environ | {'HOME': str(home(name, host))}, stdout=subprocess.PIPE,
          stdin=subprocess.DEVNULL,
          start_new_session=True)  # Ctrl-C does not reach another machine
      for host in hosts
  ]
  last_line = dict(enumerate(load()['preempt'])).get(resource['creation'])
  for process in started:
    for line in process.stdout:
      sys.stdout.buffer.write(line)
      sys.stdout.buffer.flush()
      if last_line and line.decode().strip() == last_line:
        state = load()
        resource = state['resources'][name]
        resource |= {'lost': True, 'lost_at': resource['looks'] + state['late']}
        save(state)
        lose(name, resource)
        if not state['late']:
          return NO_CONNECTION
  return max(process.wait() for process in started)


if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  sys.exit(main(sys.argv[1:]))
