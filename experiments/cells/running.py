"""One cell: its config, its run, and what is measured of it."""

from collections.abc import Mapping
import copy
import dataclasses
import importlib
import json
from typing import Any

from etils import epath
import jax
import numpy as np

from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.data import pair_batches
from ddt_jax.data import records
from ddt_jax.data import stage_cache
from ddt_jax.report import results
from ddt_jax.report import study
from ddt_jax.rounds import answers
from ddt_jax.rounds import counts
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import forward
from ddt_jax.scoring import text_stats
from ddt_jax.storage import typed_json
from ddt_jax.training import distill
from ddt_jax.training import metrics
from experiments import train
from experiments.cells import corpora
from experiments.cells import plan
from experiments.run import checks
from experiments.run import curation
from experiments.run import drift
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import steps
from experiments.run import workdir

RECORD = 'cell.json'  # written last: the cell is finished
GIVEN = 'given'  # the corpus of the reference solutions
FAILED = 'failed.txt'  # instead of it: why the cell has no results
_FAILURES = (FloatingPointError, curation.NothingAccepted)
_OBJECTIVE = ('loss', 'preference', 'reference', 'distill', 'curriculum')
_DATA = ('curate', 'hint')  # sections of methods that make their own data


def config(c, cell: plan.Cell) -> Any:
  """The run's config of a cell, see configs/study.py.

  Args:
    c: the study's config.
    cell: of a method.
  """
  method, found = c.methods[cell.method], copy.deepcopy(c.run)
  source = importlib.import_module(f'configs.{method.config}').get_config()
  for section in _OBJECTIVE:
    found[section] = source[section]
  if not method.corpus:
    shared = {'problems': c.run.curate.problems}
    for section in _DATA:
      found[section].update(source[section].to_dict() | (
          shared if section == 'curate' else {}))
  else:
    # Only checked, as the corpus is made already: pairs refuse other settings.
    found.update(corpora.sections(c.corpora[method.corpus]))
    found.loss = source.loss
  found.update(method.get('set', {}))
  found.name, found.seed, found.optim.lr = cell.method, cell.seed, cell.rate
  return found


def check(c, s: inputs.Inputs) -> None:
  """Tries the options of every method; InputError names the field."""
  for method in c.methods:
    checks.check_options(
        config(c, plan.Cell(method, plan.rates(c, method)[0], 0)), s.mesh)


def folder_of(root: epath.Path, cell: plan.Cell) -> epath.Path:
  """The folder of a cell below that of the study."""
  return root / 'cells' / cell.name


def read(root: epath.Path, cell: plan.Cell) -> study.CellRecord | None:
  """The record of a cell below the study's folder; None if it is not finished."""
  file = folder_of(root, cell) / RECORD
  return study.CellRecord.from_json(file.read_text(), file) if file.exists() else None


def failed(root: epath.Path, cell: plan.Cell) -> str:
  """Why a cell failed, in one line; '' if it did not."""
  file = folder_of(root, cell) / FAILED
  return file.read_text().strip() if file.exists() else ''


def keeps_model(c, cell: plan.Cell) -> bool:
  """Whether a finished cell keeps its parameters, in its folder `model`.

  Cells on the given solutions do, of the first seed: the mechanism is measured of
  them. All models of a study would fill a disk.
  """
  return cell.seed == 0 and cell.method in c.methods and (
      c.methods[cell.method].corpus == GIVEN)


class Cells:
  """The cells below one folder.

  Attributes:
    corpora: that they share.
  """

  def __init__(self, c, folder: epath.Path, s: inputs.Inputs):
    """Runs nothing yet.

    Args:
      c: the study's config.
      folder: of the study.
      s: inputs of `c.run`.
    """
    self._c, self._folder = c, folder
    self.corpora = corpora.Corpora(c, folder / 'corpora', s)

  def run(self, cell: plan.Cell) -> None:
    """Runs a cell, or what an interrupted call has left of it.

    Where training diverges or has no examples, the reason is kept instead: one cell
    must not end a study of hours.

    Raises:
      storage.Locked: another process runs it, or makes its corpus.
    """
    folder = folder_of(self._folder, cell)
    with storage.lock(folder):
      make = self._untouched if cell.method == plan.UNTOUCHED else self._trained
      try:
        storage.publish(folder / RECORD, make(cell, folder).to_json())
      except _FAILURES as e:
        storage.publish(folder / FAILED, f'{e}\n')
      (folder / 'checkpoints').rmtree(missing_ok=True)
      if not keeps_model(self._c, cell):
        (folder / 'model').rmtree(missing_ok=True)

  def _untouched(self, cell: plan.Cell, folder: epath.Path) -> study.CellRecord:
    """Measures the model before training."""
    c, s, files = self._c.run, self.corpora.inputs_of(cell.seed), workdir.Workdir(folder)
    c = copy.deepcopy(c)
    c.name, c.seed = cell.method, cell.seed
    workdir.keep_config(folder, c)
    files.once('evaluation', lambda: {'splits': typed_json.plain(evaluate.by_split(
        s.params, s.config, s.tokenizer, s.corpus.evaluation,
        key=jax.random.key(c.seed), title='untouched, ', verifier=c.verifier,
        folder=folder / 'measured' / '0', check_stop=lifecycle.check_stop,
        made_from={'rounds': 0, 'seed': c.seed, 'config': workdir.config_hash(c)},
        **s.decoding, **c.evaluation))})
    files.once(drift.BASE_SAMPLES, lambda: drift.draw(c, s, s.params))
    return study.CellRecord(
        method=cell.method, rate=0.0, seed=cell.seed, validation=None,
        splits=_splits(s, s.params, folder / 'measured' / '0', {}),
        data_before=None, data_after=None, examples=0, steps=0,
        cost=study.Cost(0, 0, 0.0, 0.0))

  def _trained(self, cell: plan.Cell, folder: epath.Path) -> study.CellRecord:
    """Trains and measures a method."""
    c, s = config(self._c, cell), self.corpora.inputs_of(cell.seed)
    base = folder_of(self._folder, plan.Cell(plan.UNTOUCHED, 0.0, cell.seed))
    if not (base / RECORD).exists():
      raise storage.Locked(f'{base.name} is not finished, and {cell.name} needs it')
    before = typed_json.parse(
        workdir.Workdir(base).read('evaluation')['splits'],
        dict[str, evaluate.SplitAccuracy])
    given, name = steps.Given(before=before), self._c.methods[cell.method].corpus
    if name:
      shared = self.corpora.get(name, cell.seed)
      given = steps.Given(shared.examples, shared.summary, before)
      s = dataclasses.replace(s, train=_measured(shared))
    workdir.keep_config(folder, c)
    samples = f'{drift.BASE_SAMPLES}.json'
    storage.publish(folder / samples, (base / samples).read_text())
    finished = folder / 'results.json'
    if finished.exists():
      found = results.RunResults.from_json(finished.read_text(), finished)
    else:
      found = train.run(c, folder, s, given)
    _, params = weights.load(
        str(folder / 'model'), mesh=s.mesh, dtype=c.model.dtype, remat=c.model.remat)
    (summary,) = found.rounds
    return study.CellRecord(
        method=cell.method, rate=cell.rate, seed=cell.seed,
        validation=_validation(folder),
        splits=_splits(s, params, folder / 'measured' / '1', found.kl_to_base[-1]),
        data_before=_texts(found.corpus.before) if name else None,
        data_after=_texts(found.corpus.after) if name else None,
        examples=sum(x.examples for x in summary.sources.values()),
        steps=found.training.steps, cost=cost(c, found))


def _measured(shared: corpora.Shared) -> lengths.Fitted:
  """The examples whose NLL and phi are measured: of pairs the chosen sides."""
  examples = [
      e.chosen if isinstance(e, pair_batches.PairExample) else e
      for e in shared.examples]
  return lengths.Fitted(examples, 0, 0)


def _validation(folder: epath.Path) -> float:
  """The last validation accuracy of a run."""
  lines = metrics.read(folder, 'validation')
  return [x['accuracy'] for x in lines if x.get('accuracy') is not None][-1]


def _texts(found: text_stats.TextStats) -> study.Texts:
  return study.Texts(found.nll, found.phi, found.entropy)


def _splits(
    s: inputs.Inputs, params: Any, folder: epath.Path, kl: Mapping[str, float]
) -> dict[str, study.SplitRecord]:
  """What an evaluation kept in its folder, problem by problem."""
  found = {}
  for split, problems in s.corpus.evaluation.items():
    lines = [json.loads(x) for x in storage.read_lines(folder / f'{split}.jsonl')]
    greedy = [x for x in lines if x['decoding'] == 'greedy']
    sampled = [x for x in lines if x['decoding'] == 'sampled']
    each = len(sampled) // len(greedy)
    right = np.array([x['correct'] is True for x in sampled], int)
    found[split] = study.SplitRecord(
        greedy=tuple(int(x['correct'] is True) for x in greedy),
        right=tuple(right.reshape(len(greedy), each).sum(1).tolist()), samples=each,
        tokens=float(np.mean([x['tokens'] for x in greedy])),
        kl_to_base=kl.get(split),
        own=_own(s, params, problems, folder / split / 'sampled', each))
  return found


def _own(
    s: inputs.Inputs, params: Any, problems: list[records.Problem],
    folder: epath.Path, each: int
) -> study.Texts | None:
  """The first sample of each problem under the model that drew it."""
  if not each:
    return None
  responses = stage_cache.finished(folder, records.Response)[::each]
  # strict=False: only the first problems of a split are evaluated.
  prompts = answers.prompt_ids(s.tokenizer, problems[:len(responses)])
  stats = list(forward.token_stats(
      params, s.config, [
          chat.answered(p, r.tokens) for p, r in zip(prompts, responses, strict=True)
          if r.tokens],
      batch=s.rows, mesh=s.mesh, after=lifecycle.check_stop))
  return _texts(text_stats.describe(stats, name='sft'))


def cost(c, found: results.RunResults) -> study.Cost:
  """Tokens, floating-point operations and seconds of a cell, see `study.Cost`.

  Args:
    c: the run's config.
    found: its results, of one round.
  """
  (summary,), training = found.rounds, found.training
  drawn = summary.own.tokens + summary.hinted.tokens
  streams = summary.own.tokens + 2 * summary.hinted.tokens  # two contexts
  if summary.projected:
    # A cut is uniform in the text, so a move draws half of it anew on average.
    moved = c.curate.project.sweeps * summary.projected.tokens // 2
    drawn, streams = drawn + moved, streams + 2 * moved
  # A second model reads what is trained, or what is distilled.
  second = c.loss.name in (distill.NAME, 'dpo') or c.reference.kl_weight > 0
  flops = training.parameters * (
      (6 + 2 * second) * training.tokens + 2 * streams)
  return study.Cost(
      drawn, training.tokens, float(flops),
      training.seconds + _seconds(summary))


def _seconds(summary: counts.RoundSummary) -> float:
  return sum(summary.timings.values())
