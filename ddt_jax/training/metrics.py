"""Scalars of a run: to metrics.jsonl, to TensorBoard and optionally to W&B.

metrics.jsonl is the record behind the report. It has one JSON object a line:
``{"step": 3, "kind": "train", "loss": 0.41, ..., "time": 1700000000.0}``.
"""
from collections.abc import Iterable
import importlib
import json
import math
import time
import uuid

from etils import epath

from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import storage

FILE = 'metrics.jsonl'
TIME_FIELDS = ('tokens_per_s', 'time')  # the only fields that a resume may change
_FLUSH_SECONDS = 1.0  # an fsync per line would cost more than a short step
_FLUSH_SECONDS_REMOTE = 30.0  # each flush to an object store uploads the whole file
_RESERVED = ('step', 'kind', 'time')


class Writer:
  """Writes the scalars of one run, which may resume after an interruption.

  Lines stay in memory for about a second (gs://: half a minute), because making
  a line durable costs more than a short training step. They reach the file at
  `flush`, at `close`, and at the first `write` after that time. A kill loses the
  lines still in memory: call `flush` before saving a checkpoint, so that every
  step which the checkpoint covers has its lines.

  A run that resumes at `start_step` repeats the steps after it. Opening drops
  their old lines. A line that exists already (same step, kind and names) is not
  written again. The file of an interrupted run therefore equals that of an
  unbroken run, except for `TIME_FIELDS`.

  With several processes, process 0 writes; the calls of the others do nothing.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as workdir:
    ...   with Writer(workdir, tensorboard=False) as writer:
    ...     writer.write(1, 'train', {'loss': 0.5})
    ...   read(workdir)[0]['loss']
    0.5
  """

  def __init__(self, workdir, *, start_step: int = 0, tensorboard: bool = True,
               wandb: str | None = None, config: dict | None = None):
    """Opens the run's files.

    Args:
      workdir: the run's folder, local or gs://.
      start_step: step of the checkpoint that the run resumes from, or 0.
      tensorboard: whether to write event files to `<workdir>/tensorboard`.
      wandb: name of the W&B project to log to, or None.
      config: the run's, by which W&B sorts and filters runs.

    Raises:
      ImportError: `wandb` names a project, and W&B is not installed.
      errors.InputError: a line of metrics.jsonl cannot be read.
    """
    self._workdir = storage.path(workdir)
    self._file = self._workdir / FILE
    self._is_remote = '://' in str(self._workdir)
    self._interval = _FLUSH_SECONDS_REMOTE if self._is_remote else _FLUSH_SECONDS
    self._flushed_at = time.monotonic()
    self._buffer: list[str] = []  # lines that are not in the file yet
    self._written: list[str] = []  # lines of the file; kept for gs:// alone
    self._wandb = self._tensorboard = None
    if not processes.is_first():
      return
    self._workdir.mkdir(parents=True, exist_ok=True)
    self._wandb = _open_wandb(self._workdir, wandb, config) if wandb else None
    self._known = self._drop_after(start_step)
    self._tensorboard = (
        _open_tensorboard(self._workdir, start_step) if tensorboard else None)

  def write(self, step: int, kind: str, scalars: dict[str, float]) -> None:
    """Records the scalars of one step.

    Args:
      step: the training step that the scalars belong to.
      kind: group of the scalars, e.g. 'train' or 'validation'; TensorBoard shows
        them as `kind/name`.
      scalars: name -> anything that `float` accepts. NaN and infinities become
        null in metrics.jsonl, because JSON has no numbers for them.

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
    if _identity(step, kind, scalars) in self._known:
      return
    line = {'step': int(step), 'kind': kind,
            **{k: v if math.isfinite(v) else None for k, v in scalars.items()},
            'time': time.time()}
    # allow_nan=False: Python would write NaN, which is not JSON.
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
    if self._buffer and self._is_remote:
      # An object cannot be appended to, so each flush replaces the whole file.
      storage.publish(self._file, ''.join(self._written + self._buffer))
      self._written += self._buffer
    elif self._buffer:
      storage.append(self._file, ''.join(self._buffer))
    self._buffer = []
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
    """Drops the lines of later steps; returns the identities of the others."""
    if not self._file.exists():
      return set()
    lines = storage.read_lines(self._file)
    rows = _parse(self._file, lines)
    kept = [(line + '\n', row) for line, row in zip(lines, rows, strict=True)
            if row['step'] <= start_step]
    text = [line for line, _ in kept]
    # Even if no line is dropped: the file may end in half a line after a kill.
    storage.publish(self._file, ''.join(text))
    if self._is_remote:
      self._written = text
    return {_identity(row['step'], row['kind'], row) for _, row in kept}


def read(
    workdir, kind: str | None = None, *, missing_ok: bool = False
) -> list[dict]:
  """Returns the lines of a run's metrics.jsonl, in the order of writing.

  Args:
    workdir: the run's folder.
    kind: the only kind to return, or None for all.
    missing_ok: a folder without metrics.jsonl has no lines.

  Returns:
    One dict a line; a value that was not finite is None.

  Raises:
    errors.InputError: the folder has no metrics.jsonl, or a line of it cannot be
      read.
  """
  file = storage.path(workdir) / FILE
  if not file.exists() and missing_ok:
    return []
  if not file.exists():
    raise errors.InputError(f'no {FILE} in {workdir}: is it the folder of a run?')
  rows = _parse(file, storage.read_lines(file))
  return [row for row in rows if kind in (None, row['kind'])]


def _parse(file: epath.Path, lines: Iterable[str]) -> list[dict]:
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      row['step'], row['kind']
    except (ValueError, TypeError, KeyError):
      raise errors.InputError(
          f'{file}:{number}: not a line of metrics: {line[:60]!r}. Remove the line,'
          ' or restore the file from a copy.') from None
    rows.append(row)
  return rows


def _identity(step: int, kind: str, names: Iterable[str]) -> tuple:
  # With the names, because a step may write several lines of one kind.
  return (int(step), kind, frozenset(names) - set(_RESERVED))


def _open_tensorboard(workdir: epath.Path, start_step: int):
  import tensorboardX  # slow to import

  # TensorBoard hides the points of earlier files from `purge_step` on. File names
  # count whole seconds: without the suffix, a run that resumes within a second
  # would overwrite the earlier file.
  return tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=start_step + 1,
      filename_suffix=f'.{time.time_ns()}')


def _open_wandb(workdir: epath.Path, project: str, config: dict | None):
  try:
    wandb = importlib.import_module('wandb')
  except ImportError as error:
    raise ImportError(
        'logging to W&B needs its package: pip install "ddt_jax[wandb]"'
    ) from error
  # A resumed run continues its curves under the same id. W&B ignores the steps
  # that it has seen already; their numbers are equal.
  id_file = workdir / 'wandb_id'
  if not id_file.exists():
    storage.publish(id_file, uuid.uuid4().hex[:8])
  return wandb.init(project=project, name=workdir.name, config=config,
                    id=id_file.read_text().strip(), resume='allow')
