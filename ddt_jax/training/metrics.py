"""Scalars of a run: to metrics.jsonl, to TensorBoard and, if asked, to W&B.

metrics.jsonl is the record that the report is made from: one object a line,
``{"step": 3, "kind": "train", "loss": 0.41, ..., "time": 1700000000.0}``.
"""
import importlib
import json
import math
import time
import uuid

from ddt_jax import processes
from ddt_jax import storage

FILE = 'metrics.jsonl'
TIME_FIELDS = ('tokens_per_s', 'time')  # all that may differ after a resume
_FLUSH_SECONDS = 1.0
_FLUSH_SECONDS_REMOTE = 30.0  # Each flush to an object store makes new objects.
_RESERVED = ('step', 'kind', 'time')


class Writer:
  """Writes the scalars of one run, which may have been interrupted before.

  Lines are kept in memory for up to about a second (gs://: half a minute),
  because making each line durable costs more than a short training step. They
  reach the file when a `write` finds the last flush longer ago than that, at
  `flush` and at `close`. A killed process loses what is still in memory: call
  `flush` before saving a checkpoint, so that every step the checkpoint covers
  has its lines.

  A run that resumes from a checkpoint of step `start_step` repeats the steps
  after it. Their old lines are dropped on opening, and a line that stands
  already (same step, kind and names) is not written again; so the file of an
  interrupted run equals that of an unbroken one, apart from `TIME_FIELDS`.

  Of several processes the first writes; the others' calls do nothing.

  Example:
    >>> with Writer(workdir) as writer:
    ...   writer.write(1, 'train', {'loss': 0.5})
  """

  def __init__(self, workdir, *, start_step: int = 0, tensorboard: bool = True,
               wandb: str | None = None):
    """Opens the run's files.

    Args:
      workdir: the run's folder, local or gs://.
      start_step: the step resumed from; 0 for a run from the beginning.
      tensorboard: whether to write event files to `<workdir>/tensorboard`.
      wandb: name of the W&B project to log to, or None.
    Raises:
      ImportError: W&B is asked for and not installed.
    """
    self._workdir = storage.path(workdir)
    self._file = self._workdir / FILE
    self._buffer: list[str] = []
    self._wandb = self._tensorboard = None
    if not processes.is_first():
      return
    self._workdir.mkdir(parents=True, exist_ok=True)
    is_remote = '://' in str(self._workdir)
    self._interval = _FLUSH_SECONDS_REMOTE if is_remote else _FLUSH_SECONDS
    self._flushed_at = time.monotonic()
    self._wandb = _open_wandb(self._workdir, wandb) if wandb else None
    self._standing = self._drop_after(start_step)
    self._tensorboard = (
        _open_tensorboard(self._workdir, start_step) if tensorboard else None)

  def write(self, step: int, kind: str, scalars: dict[str, float]) -> None:
    """Records `scalars` of one step under 'train', 'validation', ....

    Args:
      step: the training step the scalars belong to.
      kind: the group of the scalars; TensorBoard shows them as `kind/name`.
      scalars: name -> anything `float` accepts. NaN and infinities become null
        in metrics.jsonl, which JSON has no number for.
    Raises:
      ValueError: a scalar is called 'step', 'kind' or 'time'.
    """
    if not processes.is_first():
      return
    taken = sorted(set(scalars) & set(_RESERVED))
    if taken:
      raise ValueError(f'a scalar cannot be called {taken[0]!r}: every line of '
                       f'{FILE} has that field already')
    scalars = {name: float(value) for name, value in scalars.items()}
    if _identity(step, kind, scalars) in self._standing:
      return
    line = {'step': int(step), 'kind': kind,
            **{k: v if math.isfinite(v) else None for k, v in scalars.items()},
            'time': time.time()}
    self._buffer.append(json.dumps(line, allow_nan=False) + '\n')
    if self._tensorboard:
      for name, value in scalars.items():
        self._tensorboard.add_scalar(f'{kind}/{name}', value, step)
    if self._wandb:
      self._wandb.log({f'{kind}/{k}': v for k, v in scalars.items()}, step=step)
    if time.monotonic() - self._flushed_at >= self._interval:
      self.flush()

  def flush(self) -> None:
    """Makes every line written so far durable."""
    if self._buffer:
      storage.append(self._file, ''.join(self._buffer))
      self._buffer.clear()
    if self._tensorboard:
      self._tensorboard.flush()
    self._flushed_at = time.monotonic()

  def close(self) -> None:
    """Flushes, and ends the TensorBoard and W&B runs."""
    self.flush()
    if self._tensorboard:
      self._tensorboard.close()
    if self._wandb:
      self._wandb.finish()

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _drop_after(self, start_step: int) -> set[tuple]:
    """Drops the lines of later steps; returns what stands, by identity."""
    if not self._file.exists():
      return set()
    lines = [(line, json.loads(line)) for line in storage.read_lines(self._file)]
    kept = [(line, row) for line, row in lines if row['step'] <= start_step]
    # Published even if no whole line goes: a kill can leave half a line behind.
    storage.publish(self._file, ''.join(line + '\n' for line, _ in kept))
    return {_identity(row['step'], row['kind'], row) for _, row in kept}


def read(workdir, kind: str | None = None) -> list[dict]:
  """The lines of a run's metrics.jsonl, in the order they were written.

  Args:
    workdir: the run's folder.
    kind: only lines of this kind, or None for all.
  Returns:
    One dict a line; a value that was not finite is None.
  Raises:
    FileNotFoundError: the run has written no metrics.
  """
  file = storage.path(workdir) / FILE
  if not file.exists():
    raise FileNotFoundError(f'no {FILE} in {workdir}: is it the folder of a run?')
  rows = [json.loads(line) for line in storage.read_lines(file)]
  return [row for row in rows if kind in (None, row['kind'])]


def _identity(step: int, kind: str, names) -> tuple:
  return (int(step), kind, frozenset(names) - set(_RESERVED))


def _open_tensorboard(workdir, start_step: int):
  import tensorboardX  # Here, because it is slow to import.
  # TensorBoard hides what earlier files hold from `purge_step` on. The suffix
  # keeps a run resumed within a second from overwriting the earlier file, whose
  # name counts whole seconds.
  return tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=start_step + 1,
      filename_suffix=f'.{time.time_ns()}')


def _open_wandb(workdir, project: str):
  try:
    wandb = importlib.import_module('wandb')
  except ImportError as error:
    raise ImportError(
        'logging to W&B needs its package: pip install "ddt_jax[wandb]"'
    ) from error
  # The id is kept beside the run, so that a resumed run continues its curves.
  # W&B ignores steps it has seen: the repeated ones, whose numbers are equal.
  id_file = workdir / 'wandb_id'
  if not id_file.exists():
    storage.publish(id_file, uuid.uuid4().hex[:8])
  return wandb.init(project=project, name=workdir.name,
                    id=id_file.read_text().strip(), resume='allow')
