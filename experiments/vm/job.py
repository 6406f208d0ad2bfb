"""A job's life: create the machine, install, run, follow; after a preemption again.

A spot machine that is preempted ends as a SUSPENDED queued resource, which never
runs again. It is deleted and requested anew, and the same command resumes from the
run's workdir.
"""

from collections.abc import Callable
import json
import shlex
import time
from typing import Any, BinaryIO, NamedTuple

from ddt_jax import errors
from experiments.vm import gcloud
from experiments.vm import plan
from experiments.vm import queued
from experiments.vm import remote

ENDED = ('FAILED', 'SUSPENDED')  # states that a queued resource never leaves
_LOST = ('SUSPENDING', 'SUSPENDED')
_NO_CONNECTION = 255  # ssh's exit status, apart from that of the command
_TRIES = 10  # in a row, to connect or to read the state; one a poll
_LATE = 4  # polls within which a preemption shows in the state
_KILLED = 137  # as a shell reports SIGKILL


class Preempted(Exception):
  """The machine was taken away."""


class Expired(Exception):
  """The machine's maximum duration is over, or somebody has deleted it."""


class State(NamedTuple):
  """State of the queued resource.

  Attributes:
    name: as the platform names it, e.g. ACTIVE; '' if there is none.
    reason: of a failure, or ''.
  """

  name: str
  reason: str = ''


class Job:
  """One machine and its run; every method calls gcloud.

  Attributes:
    plan: what the user asked for.
    gcloud: `gcloud.Gcloud` or `gcloud.DryRun`.
    poll: seconds between two looks at the machine.
    out: binary stream for the run's log.
  """

  def __init__(
      self, plan_: plan.Plan, runner: gcloud.Gcloud | gcloud.DryRun, *,
      poll: float, out: BinaryIO,
  ):
    self.plan, self.gcloud, self.poll, self.out = plan_, runner, poll, out
    self._say = runner.say
    self._deadline = float('inf')

  def state(self) -> State:
    """Reads the machine's state.

    Raises:
      gcloud.Failed: gcloud could not say.
    """
    try:
      found = json.loads(self.gcloud.text(queued.describe(self.plan)))
    except gcloud.Failed as e:
      if 'NOT_FOUND' in e.output:
        return State('')
      raise
    about = found.get('state', {})
    error = about.get('failedData', {}).get('error', {})
    return State(about.get('state', 'UNKNOWN'), error.get('message', ''))

  def create(self) -> None:
    """Creates the machine and waits until it is active.

    One that is active already is kept. One that has ended is deleted first.

    Raises:
      Preempted: it was taken away before it was active.
      errors.InputError: the request failed.
    """
    p, state = self.plan, self.state()
    if state.name in ENDED:
      self._say(f'{p.name} is {state.name}, from which it cannot return')
      self.delete()
      state = State('')
    new = not state.name
    if new:
      limit = plan.seconds('max_duration', p.max_duration)
      if p.provisioning != 'flex':
        self.gcloud.make_folder(p.folder)
        self.gcloud.write(p.startup, queued.startup_script(p, limit))
      self.gcloud.run(queued.create(p))
    self._wait_until_active()
    if new:
      self._deadline = time.monotonic() + limit

  def _wait_until_active(self) -> None:
    shown = None
    while True:
      state = self._patiently(self.state)
      if state.name != shown:
        self._say(f'{self.plan.name}: {state.name or "deleted"}')
        shown = state.name
      if state.name == 'ACTIVE':
        return
      if not state.name:
        raise errors.InputError(f'{self.plan.name} was deleted while it was awaited')
      if state.name == 'FAILED':
        raise errors.InputError(
            f'the request for {self.plan.name} failed: '
            + (state.reason or 'see the command status'))
      if state.name == 'SUSPENDED':
        raise Preempted
      time.sleep(self.poll)

  def delete(self) -> None:
    """Deletes the machine and whatever runs on it."""
    self.gcloud.run(queued.delete(self.plan))

  def connect(self) -> None:
    """Waits until every host takes a connection."""
    # One after the other: the first connection spreads the ssh key, and calls in
    # parallel would do that at the same time. sshd starts after the host is active.
    for host in range(self.plan.accelerator.hosts):
      self._remotely(
          self.gcloud.run, queued.ssh(self.plan, host, 'true'), always_again=True)

  def install(self) -> None:
    """Copies the checkout's HEAD to every host and installs it there."""
    p = self.plan
    self.gcloud.make_folder(p.folder)
    self.gcloud.run([
        'git', 'archive', '--format=tar.gz', f'--output={p.checkout}', 'HEAD'])
    self._remotely(self.gcloud.run, queued.scp(p))
    self._remotely(self.gcloud.run, queued.ssh(p, 'all', remote.install(p)))

  def run(self) -> int:
    """Starts the command on all hosts and follows it to its end.

    A run of the same command that is in progress is followed alone.

    Returns:
      The command's exit status on host 0.

    Raises:
      errors.InputError: another command is running.
    """
    p = self.plan
    self.connect()
    found = self.run_state()
    if found['state'] == 'running':
      if tuple(found['command']) != p.command:
        raise errors.InputError(
            f'{p.name} runs another command. To see its log: {p.call("logs")}; to'
            f' end it: {p.call("stop")}')
      self._say('the run is in progress; its log from the beginning:')
    else:
      self.install()
      self._remotely(self.gcloud.run, queued.ssh(p, 'all', remote.start(p)))
    return self.follow()

  def run_to_end(self, *, new: bool) -> int:
    """Runs the command to its end, on as many machines as that takes.

    Args:
      new: whether to create the machine if there is none.

    Returns:
      The command's exit status.

    Raises:
      Expired: the machine's maximum duration is over.
      errors.InputError: a command failed although the machine is active.
    """
    while True:
      try:
        if new:
          self.create()
        return self.run()
      except Preempted:
        if self.plan.provisioning == 'flex':  # not preempted, but at its end
          raise Expired from None
        if not new:
          raise errors.InputError(
              f'{self.plan.name} was preempted. Create it again and give it the same'
              ' command, which resumes') from None
        self._say(f'{self.plan.name} was preempted; the run resumes on a new machine')
        self._wait_until_suspended()

  def _wait_until_suspended(self) -> None:
    while self._patiently(self.state).name == 'SUSPENDING':
      time.sleep(self.poll)

  def follow(self) -> int:
    """Copies host 0's log to `out` until the run has ended.

    Returns:
      The run's exit status.

    Raises:
      Preempted, Expired: the machine was taken away.
    """
    p, offset, lost = self.plan, 0, 0
    while True:
      try:
        copied, status = self.gcloud.stream(
            queued.ssh(p, 0, remote.follow(offset)), self.out, self._deadline)
      except TimeoutError:
        raise Expired from None
      if not status:
        break
      offset, lost = offset + copied, 0 if copied else lost + 1
      self._check(gcloud.Failed(['ssh', p.name], status), lost < _TRIES)
      self._say('the connection was lost; the run continues; connecting again')
      time.sleep(self.poll)
    status = self.run_state()['status']
    status = _KILLED if status is None else status
    if status and p.provisioning == 'spot':
      self._raise_if_preempted()
    self._say(f'the run ended with exit status {status}')
    if status and p.accelerator.hosts > 1:
      others = queued.ssh(p, 'all', 'tail -n 20 ddt_jax_run/log')
      self._say('the last lines of all hosts: ' + shlex.join(others))
    return status

  def _raise_if_preempted(self) -> None:
    """Looks for a preemption that has ended the run before it ends the machine."""
    for _ in range(_LATE):
      if self._patiently(self.state).name in _LOST:
        raise Preempted
      time.sleep(self.poll)

  def run_state(self) -> dict[str, Any]:
    """State of the run on host 0, as `worker.state` returns it."""
    return json.loads(self._remotely(
        self.gcloud.text, queued.ssh(self.plan, 0, remote.state())))

  def stop(self) -> None:
    """Lets the run save and stop, on all hosts; the machine stays."""
    self._remotely(self.gcloud.run, queued.ssh(self.plan, 'all', remote.stop()))

  def _remotely(
      self, call: Callable[..., Any], argv: list[str], *, always_again: bool = False
  ) -> Any:
    """Calls over ssh, again if the connection and not the command failed.

    Args:
      call: takes the argument list.
      argv: argument list.
      always_again: for a command that cannot fail by itself.
    """
    for tries in range(1, _TRIES + 1):
      try:
        return call(argv)
      except gcloud.Failed as e:
        again = always_again or e.status == _NO_CONNECTION
        self._check(e, again and tries < _TRIES)
        time.sleep(self.poll)

  def _check(self, failed: gcloud.Failed, again: bool) -> None:
    """After a failed connection: raises its cause, unless it may be tried again."""
    name = self._patiently(self.state).name
    if name in _LOST:
      raise Preempted
    if not name:
      raise Expired
    if not again:
      raise failed

  def _patiently(self, call: Callable[[], Any]) -> Any:
    """Calls again after a failure: a network may be away for minutes."""
    for tries in range(1, _TRIES + 1):
      try:
        return call()
      except gcloud.Failed:
        if tries == _TRIES:
          raise
        time.sleep(self.poll)
