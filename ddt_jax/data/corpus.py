"""The problems that a run trains, validates and evaluates on."""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import math
import pathlib
from typing import Any

from ddt_jax import errors
from ddt_jax import storage
from ddt_jax import verify
from ddt_jax.data import public_sets
from ddt_jax.data import readers
from ddt_jax.data import records
from ddt_jax.data import rows
from ddt_jax.data import splits


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Problems, grouped by use.

  Attributes:
    train: with reference solutions.
    validation: with reference solutions; for the loss on held-out text.
    evaluation: with known answers; one list for each evaluation split, by name.
    bad_rows: number of rows of the user's file that were left out.
    description: for the screen: the sizes in one line, then a line for each fact
      about the files.
  """

  train: list[records.Problem]
  validation: list[records.Problem]
  evaluation: dict[str, list[records.Problem]]
  bad_rows: int
  description: str


def from_file(
    path: str,
    *,
    validation: float,
    evaluation: float,
    evaluation_problems: int,
    evaluation_path: str = '',
    weights: str = '',
    columns: Mapping[str, str] | None = None,
    bad_rows: str = 'error',
    kind: str = 'math',
    question: str = '{problem}',
    marker: str = verify.BOX,
    seed: int = 0,
    accept: Callable[[records.Problem], None] = lambda problem: None,
) -> Corpus:
  """Reads a user's files and holds out shares of them.

  Args:
    path: a .jsonl, .json or .parquet file, or a data set of the Hugging Face hub,
      see `formats.open_source`; or several of them, with commas between.
    validation, evaluation: shares of the problems, see `splits.split`.
    evaluation_problems: limit on the evaluation problems. Only held-out problems
      with a known answer count. The others stay held out, unused.
    evaluation_path: a file whose problems are evaluated on instead of a share.
      Problems with the same prompt are not trained on.
    weights: proportions of the files in training, e.g. '2,1'; see `mixture`. ''
      takes all rows.
    columns, bad_rows, kind, accept: see `readers.read_file`.
    question: see `rows.asked`. The split does not depend on it.
    marker: the text before a final answer, see `verify.extract`. Where no solution
      has a box and some end as in GSM8K, it becomes '####'.
    seed: of the split and of the mixture.

  Raises:
    errors.InputError: a file or an option cannot be used; see `readers.read` and
      `splits.split`.
  """
  if '{problem}' not in question:
    raise errors.InputError(
        f'data.question={question!r} has no place for a {{problem}}')
  paths = _paths(path)
  shares = _weights(weights, len(paths))
  options = dict(columns=columns, bad_rows=bad_rows, kind=kind, marker=marker,
                 accept=accept)
  files = _read(paths + _paths(evaluation_path), options)
  problems = [p for file in files[:len(paths)] for p in file.problems]
  held_out = [p for file in files[len(paths):] for p in file.problems]
  notes = [
      public_sets.describe(public) for p in paths + _paths(evaluation_path)
      if (public := public_sets.named(p))]
  notes += _facts(files)

  if evaluation_path:
    problems, left = _without(problems, held_out)
    # The file replaces the share; a share on top would lose training data.
    evaluation = 0.0
    notes.append(
        f'{len(held_out)} problems of {evaluation_path} are evaluated on, no share'
        f' of {path}; {left} problems with their prompts are not trained on')
  # Before `asked`: another wording of the question must not move a problem to
  # another part.
  parts = splits.split(
      problems, validation=validation, evaluation=evaluation, seed=seed)
  train = parts.train
  if shares:
    train = _mixed(files[:len(paths)], train, shares, seed)
    notes.append(f'data.weights={weights}: {len(train)} of {len(parts.train)}'
                 ' training problems are taken')
  answered = [p for p in held_out or parts.evaluation if p.answer]
  if (held_out or parts.evaluation) and not answered:
    notes.append('no evaluation problem has an answer to verify: accuracy is not'
                 ' evaluated')

  mark = _marker([p for file in files for p in file.problems], marker, question)
  if mark != marker:
    notes.append(f'answers follow {mark}, which is data.marker from now on')
  if note := _form_of_answers(problems, mark, question):
    notes.append(note)

  def asked(some):
    return [
        rows.asked(dataclasses.replace(p, marker=mark), question) for p in some]

  answered = asked(answered[:evaluation_problems])
  return Corpus(
      asked(train), asked(parts.validation),
      {'evaluation': answered} if answered else {},
      sum(len(file.bad) for file in files),
      '\n'.join([f'{path}: {parts.describe()}', *notes]))


def mixture(
    files: Sequence[Sequence[records.Problem]], weights: Sequence[float], *,
    seed: int = 0,
) -> list[records.Problem]:
  r"""Takes as many problems as the given proportions allow.

  .. math:: n_i = w_i \min_j N_j / w_j

  No problem is repeated: a round trains on the same text after the same prompt
  once. Which ones are taken is decided by sha256(seed, id).

  Args:
    files: the problems of each file.
    weights: of each file, at least 0, one above 0.
    seed: of the choice.

  Returns:
    The problems taken, file by file, in their order.
  """
  # The scarcest file decides: it is taken whole, the others in proportion.
  unit = min(len(f) / w for f, w in zip(files, weights, strict=True) if w)
  taken = []
  for problems, weight in zip(files, weights, strict=True):
    # A fixed random order: the same choice in every process and on resuming.
    order = sorted(problems, key=lambda p: hashlib.sha256(
        f'{seed}\n{p.id}'.encode()).digest())
    chosen = {p.id for p in order[:int(unit * weight + 0.5)]}
    taken += [p for p in problems if p.id in chosen]
  return taken


def _mixed(files, train, shares, seed) -> list[records.Problem]:
  """`mixture` of those problems of the files that are trained on."""
  of_file = {p.id: i for i, file in enumerate(files) for p in file.problems}
  taken = mixture(
      [[p for p in train if of_file[p.id] == i] for i in range(len(files))],
      shares, seed=seed)
  if not taken:
    raise errors.InputError(
        'data.weights leave nothing to train on: a file with a weight has no'
        ' training problem')
  return taken


def _paths(path: str) -> list[str]:
  """One path, or several with commas between; a file's name may have a comma."""
  if not path or ',' in path and storage.path(path).exists():
    return [path] if path else []
  return [part for x in path.split(',') if (part := x.strip())]


def _weights(weights: str, files: int) -> list[float]:
  """One for each file, or [] for none.

  Raises:
    errors.InputError: another number of them, or one that is no weight.
  """
  try:
    found = [float(x) for x in str(weights).strip('()[] ').split(',') if x.strip()]
  except ValueError:
    found = [-1.0]
  fine = all(math.isfinite(w) and w >= 0 for w in found)
  if found and (len(found) != files or not fine or not any(found)):
    raise errors.InputError(
        f'data.weights={weights!r}: write one number for each of the {files} files'
        ' of data.path, at least 0, not all 0, with commas between')
  return found


def _read(paths: Sequence[str], options: Mapping[str, Any]) -> list[readers.File]:
  """Reads all files; with several, ids begin with the file's name."""
  if twice := [p for p, n in collections.Counter(paths).items() if n > 1]:
    raise errors.InputError(
        f'data.path and data.evaluation_path name {twice[0]} twice')
  if not paths:
    raise errors.InputError('data.path names no file')
  # Line numbers repeat between files, so ids need the file; its name if that is
  # unique, else its path.
  names = [pathlib.PurePosixPath(p).name for p in paths]
  labels = [
      name if names.count(name) == 1 else path
      for name, path in zip(names, paths, strict=True)]
  return [
      readers.read_file(path, label=label if len(paths) > 1 else '', **options)
      for path, label in zip(paths, labels, strict=True)]


def _without(problems, held_out):
  """(problems without a prompt of `held_out`, number of the others)."""
  keys = splits.keys([*problems, *held_out])
  taken = set(keys[len(problems):])
  # The keys of the training problems come first; zip stops after them.
  kept = [p for p, key in zip(problems, keys, strict=False) if key not in taken]
  if not kept:
    raise errors.InputError(
        'each problem of data.path is also in data.evaluation_path: nothing is left'
        ' to train on')
  return kept, len(problems) - len(kept)


def _marker(problems, marker: str, question: str) -> str:
  """The marker of a run: one for all problems, as Hinted Decoding needs it."""
  # The user chose a marker, or asks for a box: nothing to guess.
  if marker != verify.BOX or 'boxed' in question:
    return marker
  # One boxed solution is enough: the model is then trained to box.
  if any(verify.extract(p.solution) is not None for p in problems):
    return marker
  if any(rows.after_hashes(p.solution) for p in problems):
    return rows.HASHES
  return marker


def _form_of_answers(
    problems: Sequence[records.Problem], marker: str, question: str
) -> str:
  """A warning where prompts and solutions differ about the marker; '' without one."""
  answerable = [p for p in problems if p.answer]
  word = marker.strip(r'\{ ')
  if not answerable:
    return (
        f'warning: no row has an answer to verify, so nothing is rewritten, yet each'
        f' prompt asks for "{marker}"; --config.data.question=\'{{problem}}\' leaves'
        ' prompts as they are') if word in question else ''
  written = sum(marker in p.solution for p in answerable)
  if 2 * written >= len(answerable):
    return ''
  have = f'{written} of {len(answerable)} solutions have it'
  if word in question:
    return _other_form(answerable, marker, have)
  prompts = [turn['content'] for p in answerable for turn in p.conversation[:-1]]
  if any(word in x for x in prompts if isinstance(x, str)):
    return ''
  ask = "--config.data.question='{problem} Put the final answer in \\boxed{}.'"
  if marker != verify.BOX:
    ask += f" --config.data.marker='{verify.BOX}'"
  return (
      f'warning: no prompt asks for "{marker}", which answers are read after, and'
      f' {have}: answers of the model may count as wrong. To ask for it: {ask}')


def _other_form(
    answerable: Sequence[records.Problem], marker: str, have: str
) -> str:
  """A warning that solutions give their answers in another form than is asked for."""
  said = (
      f'warning: prompts ask for "{marker}" and {have}. A rewriting that copies'
      ' their form counts as wrong, and solutions taken as they are teach it.')
  if 2 * sum(bool(rows.after_hashes(p.solution)) for p in answerable) > len(answerable):
    return (
        f"{said} To keep theirs: --config.data.marker='{rows.HASHES}'"
        f" --config.data.question='{{problem}} End with {rows.HASHES} and the answer.'")
  return f'{said} --config.curate.fallback=drop takes none as it is'


def _facts(files: Sequence[readers.File]) -> list[str]:
  """Lines about the rows: layouts, answers, untrained turns, bad rows."""
  found, notes = [p for file in files for p in file.problems], []
  layouts = sum((collections.Counter(f.layouts) for f in files),
                collections.Counter())
  for name, count in layouts.items():
    if name:
      notes.append(f'{count} rows read as {name}')
  answers = [p.answer for p in found if p.answer]
  text = f'{len(answers)} of {len(found)} rows have an answer to verify'
  # Several lines hint at a column of solutions that was taken for answers.
  if long := sum('\n' in answer for answer in answers):
    text += f'; {long} of these answers have several lines: is the column right?'
  notes.append(text)
  unused = sum(not turn.get('train', True) for p in found for turn in p.messages)
  if unused:
    notes.append(f'{unused} assistant turns have weight 0 and are not trained on')
  bad = [row for file in files for row in file.bad]
  if bad:
    notes.append(f'{len(bad)} bad rows are left out:')
    notes += readers.named(bad)
  return notes
