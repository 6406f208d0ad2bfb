"""The report of a run that is not finished."""

from collections.abc import Iterator
import contextlib
import math
import os
import time

from ddt_jax import processes
from ddt_jax import report
from ddt_jax.training import metrics
from ddt_jax.training.progress import Progress
from experiments.run import lifecycle
from experiments.run import measure
from experiments.run import workdir

_SHARE = 0.02  # of the time, at most, goes into reports


@contextlib.contextmanager
def says_stopped(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Notes a stop within the block on the page of the run, and that it is at work.

  Args:
    folder: the run's, local or gs://.
  """
  def mark(when):
    # By one process alone, without a collective: the others may have ended.
    if processes.is_first():
      report.mark_stopped(folder, when)

  mark(None)  # an earlier call may have been stopped
  try:
    yield
  except KeyboardInterrupt:
    mark(time.time())
    raise
  except SystemExit as e:
    if e.code == lifecycle.RESUME:
      mark(time.time())
    raise


class LiveReport:
  """Writes report.html anew while the run is at work, but not all the time."""

  def __init__(
      self, files: workdir.Workdir, measurements: measure.Measurements,
      writer: metrics.Writer, *, wanted: bool = True):
    """`wanted`: False writes none."""
    self._files, self._measurements, self._writer = files, measurements, writer
    self._due = time.monotonic() if wanted else math.inf

  def update(self, progress: Progress, steps: int) -> None:
    """Writes the report, unless the last one is too fresh for its cost.

    Args:
      progress: of the run.
      steps: of the current round.
    """
    began = time.monotonic()
    # By the clock of one process: all of them take part.
    if not processes.from_first(lambda: began >= self._due):
      return
    self._writer.flush()
    found = self._measurements.results(progress, round_steps=steps)
    self._files.publish('so_far', found.to_json())
    processes.from_first(report.write, self._files.path)
    now = time.monotonic()
    self._due = now + (now - began) / _SHARE
