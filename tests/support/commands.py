"""Runs `python -m MODULE FLAGS` from the root of the repository, as a user does."""

import os
import socket
import subprocess
import sys

from tests.support import paths


def environment(devices=1, **more):
  """This process's environment, but with `devices` fake CPU devices."""
  flags = f'--xla_force_host_platform_device_count={devices}'
  found = os.environ | {
      'XLA_FLAGS': flags if devices > 1 else '', 'PYTHONPATH': str(paths.ROOT)}
  if devices == 1:
    found.pop('PJRT_NPROC', None)  # conftest.py sets it for its eight devices
  return found | more


def run(module, *flags, check=True, devices=1, timeout=300, **variables):
  """Runs a command to its end.

  Args:
    check: whether an exit status other than 0 fails the test.
    devices: number of fake CPU devices.
    timeout: seconds.
    **variables: environment variables.
  Returns:
    The completed process; `stdout` and `stderr` are texts.
  """
  done = subprocess.run(
      [sys.executable, '-m', module, *flags], cwd=paths.ROOT,
      env=environment(devices, **variables), text=True, capture_output=True,
      timeout=timeout)
  assert not check or done.returncode == 0, done.stderr[-3000:]
  return done


def start(module, *flags, devices=1, stdout=subprocess.DEVNULL,
          stderr=subprocess.PIPE, start_new_session=False, **variables):
  """Starts a command and returns its `subprocess.Popen`, in text mode."""
  return subprocess.Popen(
      [sys.executable, '-m', module, *flags], cwd=paths.ROOT,
      env=environment(devices, **variables), text=True, stdout=stdout,
      stderr=stderr, start_new_session=start_new_session)


def free_address():
  """HOST:PORT on which no process listens yet."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{s.getsockname()[1]}'


def start_together(module, *flags, processes=2):
  """Starts one command as several processes that share its work."""
  address = free_address()
  return [
      start(
          module, *flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
          start_new_session=True, JAX_COORDINATOR_ADDRESS=address,
          JAX_NUM_PROCESSES=str(processes), JAX_PROCESS_ID=str(i))
      for i in range(processes)
  ]


def finish(started, timeout=300):
  """Waits for the processes; returns (standard output, exit status) of each."""
  try:
    return [(p.communicate(timeout=timeout)[0], p.returncode) for p in started]
  finally:
    for p in started:
      p.kill()
