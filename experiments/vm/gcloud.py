"""Runs gcloud, or prints its commands.

`Gcloud` and `DryRun` have the same methods. The code that calls them does not know
which one it has, so a dry run prints what would be run.
"""

from collections.abc import Sequence
import json
import os
import pathlib
import select
import shlex
import subprocess
import sys
import time
from typing import BinaryIO

from ddt_jax import errors
from experiments.vm import plan


class Failed(errors.InputError):
  """A command failed.

  Attributes:
    status: its exit status.
    output: its standard error, where that was captured.
  """

  def __init__(self, argv: Sequence[str], status: int, output: str = ''):
    self.status, self.output = status, output
    reason = output.strip() or 'its message stands above'
    super().__init__(
        f'{shlex.join(argv)}\n  failed with exit status {status}: {reason}')


class Gcloud:
  """Runs commands."""

  def say(self, text: str) -> None:
    """Prints a message to the user."""
    print(text, file=sys.stderr, flush=True)

  def answer(self, text: str) -> None:
    """Prints what the user asked for."""
    print(text, flush=True)

  def make_folder(self, folder: pathlib.Path) -> None:
    """Makes a local folder for files that gcloud reads."""
    folder.mkdir(parents=True, exist_ok=True)

  def write(self, file: pathlib.Path, text: str) -> None:
    """Writes a local file for gcloud."""
    file.write_text(text)

  def run(self, argv: Sequence[str]) -> None:
    """Runs a command, whose output the user sees.

    Raises:
      Failed: it did not end with 0.
    """
    # Standard output belongs to the run's log: 2 is standard error. git archives
    # the whole checkout only from its root.
    done = _started(argv, stdout=2, cwd=plan.ROOT).wait()
    if done:
      raise Failed(argv, done)

  def text(self, argv: Sequence[str]) -> str:
    """Runs a command and returns its standard output.

    Raises:
      Failed: it did not end with 0.
    """
    process = _started(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    if process.returncode:
      raise Failed(argv, process.returncode, err)
    return out

  def stream(
      self, argv: Sequence[str], out: BinaryIO, deadline: float
  ) -> tuple[int, int]:
    """Copies a command's output as it comes.

    Args:
      argv: the command.
      out: binary stream.
      deadline: by `time.monotonic()`; the command is ended then.

    Returns:
      (bytes copied, exit status).

    Raises:
      TimeoutError: the deadline has passed.
    """
    copied, process = 0, _started(argv, stdout=subprocess.PIPE)
    with process:  # waits for it in the end
      try:
        while True:
          ready, _, _ = select.select([process.stdout], [], [], 1.0)
          if ready:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
              break
            out.write(data)
            out.flush()
            copied += len(data)
          if time.monotonic() > deadline:
            raise TimeoutError
      except BaseException:
        process.terminate()
        raise
    return copied, process.returncode


class DryRun:
  """Prints the commands for a shell; answers as if everything went well.

  Attributes:
    exists: whether the machine does; True after it was created.
  """

  def __init__(self, exists: bool):
    self.exists = exists

  def say(self, text: str) -> None:
    """Prints nothing: its messages are about what has not happened."""

  answer = say

  def make_folder(self, folder: pathlib.Path) -> None:
    print(shlex.join(['mkdir', '-p', str(folder)]))

  def write(self, file: pathlib.Path, text: str) -> None:
    # Not a here document: a line of the text could end it.
    lines = shlex.join(['printf', '%s\\n', *text.removesuffix('\n').split('\n')])
    print(f'{lines} > {shlex.quote(str(file))}')

  def run(self, argv: Sequence[str]) -> None:
    print(shlex.join(argv))
    if 'queued-resources' in argv:
      self.exists = 'create' in argv

  def text(self, argv: Sequence[str]) -> str:
    if 'queued-resources' not in argv:
      print(shlex.join(argv))
      return json.dumps({'state': 'ended', 'status': 0, 'command': []})
    wanted = 'must be ACTIVE' if self.exists else 'must not exist'
    print(f'{shlex.join(argv)}  # {wanted}')
    if not self.exists:
      raise Failed(argv, 1, 'NOT_FOUND')
    return json.dumps({'state': {'state': 'ACTIVE'}})

  def stream(
      self, argv: Sequence[str], out: BinaryIO, deadline: float
  ) -> tuple[int, int]:
    print(shlex.join(argv))
    return 0, 0


def _started(argv: Sequence[str], **options) -> subprocess.Popen:
  try:
    return subprocess.Popen(argv, **options)
  except FileNotFoundError:
    raise errors.InputError(
        f'{argv[0]} is not on the PATH. Install it, e.g. by'
        ' https://cloud.google.com/sdk/docs/install, or print the commands with'
        ' --dry_run') from None
