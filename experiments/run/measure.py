"""Stages of a training run around its steps; each leaves its result in a file."""

from collections.abc import Callable
import dataclasses
import functools
import json
import time
from typing import Any

import jax
import tqdm

from ddt_jax import objectives
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import lengths
from ddt_jax.report import results
from ddt_jax.rounds import counts
from ddt_jax.rounds import curate
from ddt_jax.rounds import evaluate
from ddt_jax.scoring import forward
from ddt_jax.scoring import text_stats
from ddt_jax.storage import typed_json
from ddt_jax.training import metrics
from ddt_jax.training import train_step
from experiments.run import inputs
from experiments.run import lifecycle


class NothingAccepted(RuntimeError):
  """A round is without examples."""


@dataclasses.dataclass(frozen=True)
class Measured:
  """The model between two rounds.

  Attributes:
    evaluation: accuracy by split.
    corpus: the reference solutions of the training data.
    phi: of the supervised tokens of the texts that the report shows, nats.
    seconds: that measuring took.
  """

  evaluation: dict[str, evaluate.SplitAccuracy]
  corpus: text_stats.TextStats
  phi: tuple[tuple[float, ...], ...]
  seconds: float


def rewriting(c) -> dict[str, Any] | None:
  """Options of Hinted Decoding, or None where it is switched off."""
  hint = c.hint.to_dict()
  return hint if hint.pop('enabled') else None


def curated(
    c, s: inputs.Setup, r: int, params: Any, folder: Any, step: int
) -> curate.Corpus:
  """The corpus of round r, from parameters after `step` steps."""
  options = c.curate.to_dict()
  slices = c.rounds if options.pop('problems') == 'fresh' else 1
  most = options.pop('per_round') or len(s.corpus.train)
  problems = s.corpus.train[r % slices::slices][:most]
  return curate.curate(
      params, s.config, s.tokenizer, problems, folder=folder,
      made_from={'step': step, 'seed': c.seed, 'config': lifecycle.config_hash(c)},
      key=jax.random.fold_in(jax.random.key(c.seed), r), end=s.end,
      hint=rewriting(c), decoding=s.decoding, mesh=s.mesh,
      verifier=dict(
          workers=c.evaluation.workers, timeout_s=c.evaluation.timeout_s),
      max_tokens=c.data.max_tokens, batch=c.optim.batch,
      check_stop=lifecycle.check_stop, title=f'round {r + 1}, ', **options,
  )


class Stages:
  """What a run does besides its steps."""

  def __init__(self, c, workdir: Any, s: inputs.Setup):
    self._c, self._workdir, self._s = c, workdir, s
    evaluation = c.evaluation.to_dict()
    evaluation.pop('problems')
    self._solve = functools.partial(
        evaluate.accuracy, config=s.config, tokenizer=s.tokenizer,
        key=jax.random.key(c.seed), **s.decoding, **evaluation,
    )
    answered = [p for p in s.corpus.validation if p.answer]
    self._validated = answered[:c.validation.problems]
    self._eval_fn = jax.jit(
        train_step.make_eval_step(s.config, mesh=s.mesh, **objectives.pick(**c.loss)),
        out_shardings=sharding.replicated(s.mesh),
    )

  def _once(self, name: str, make: Callable[[], dict]) -> dict[str, Any]:
    """The content of a file of the run, made if it is not there."""
    file = self._file(name)
    if not processes.from_first(file.exists):
      began = time.monotonic()
      made = make() | {'seconds': time.monotonic() - began}
      processes.from_first(lambda: storage.publish(file, json.dumps(made)))
    return self._read(name)

  def _read(self, name: str) -> dict[str, Any]:
    file = self._file(name)
    return processes.from_first(lambda: json.loads(file.read_text()))

  def _file(self, name: str) -> Any:
    return self._workdir / f'{name}.json'

  def measure(self, r: int, params: Any) -> Measured:
    """Accuracy and token statistics after r rounds."""
    c, s = self._c, self._s
    name = f'round {r}' if r else 'before'

    def make():
      found = {}
      for split, problems in tqdm.tqdm(
          s.corpus.evaluation.items(), f'{name}, evaluate'
      ):
        found[split] = self._solve(params, problems=problems)
        lifecycle.check_stop()
      stats = list(forward.token_stats(
          params, s.config, s.train.examples[:c.report.examples],
          batch=c.optim.batch, mesh=s.mesh,
      ))
      return {
          'evaluation': typed_json.plain(found),
          'corpus': typed_json.plain(text_stats.describe(
              stats, **objectives.pick(**c.loss))),
          'phi': [x.phi.tolist() for x in stats[:c.report.shown]],
      }

    return typed_json.parse(self._once(f'measured/{r}', make), Measured)

  def curate(self, r: int, params: Any, step: int) -> list[chat.Example]:
    """What round r trains on, cut to the longest that is allowed."""
    c = self._c
    corpus = curated(
        c, self._s, r, params, self._workdir / 'rounds' / str(r), step
    )
    if not corpus.examples:
      raise NothingAccepted(
          f'round {r + 1} has nothing to train on: no response was accepted. With'
          ' curate.fallback=reference the solutions that are given are trained on'
      )
    fitted = lengths.fit(
        corpus.examples, c.data.max_tokens, overlong=c.data.overlong
    )
    self._once(
        f'rounds/{r}/summary', lambda: typed_json.plain(corpus.summary))
    return fitted.examples

  def _summary(self, r: int) -> counts.RoundSummary:
    found = self._read(f'rounds/{r}/summary')
    del found['seconds']
    return typed_json.parse(found, counts.RoundSummary)

  def validate(self, params: Any, accuracy: bool) -> dict[str, float]:
    """NLL of the references held out and, at the slower pace, accuracy."""
    s = self._s
    found = objectives.summarise(train_step.add(
        self._eval_fn(params, batches.place(b, s.mesh))
        for b in batches.in_order(s.validation.examples, batch=self._c.optim.batch)
    ))
    if accuracy and self._validated:
      solved = self._solve(params, problems=self._validated, samples=0)
      found['accuracy'] = solved.pass_at_1.value
    return found

  def write_results(self, progress: dict[str, Any], params: Any) -> results.RunResults:
    """What the report is made of, into a file too; all stages have been run."""
    found = self._found(progress, params)
    processes.from_first(
        lambda: storage.publish(self._file('results'), found.to_json()))
    return found

  def _found(self, progress: dict[str, Any], params: Any) -> results.RunResults:
    c, s = self._c, self._s
    measured = [self.measure(r, params) for r in range(c.rounds + 1)]
    rounds = tuple(self._summary(r) for r in range(c.rounds))
    before, after = measured[0], measured[-1]
    timings = {'evaluate': sum(m.seconds for m in measured)}
    for stage in rounds[0].timings:
      timings[stage] = sum(r.timings[stage] for r in rounds)
    return results.RunResults(
        name=c.name, seed=c.seed, rounds=rounds,
        evaluation=tuple(m.evaluation for m in measured)
        if s.corpus.evaluation else None,
        corpus=results.Reference(before.corpus, after.corpus),
        data=results.Data(
            train=len(s.train.examples),
            validation=len(s.validation.examples),
            bad_rows=s.corpus.bad_rows, truncated=s.train.truncated,
            dropped=s.train.dropped, turn_end=s.end.text,
        ),
        training=results.Training(
            steps=progress['step'],
            parameters=sum(x.size for x in jax.tree.leaves(params)),
            **{k: progress[k] for k in
               ('tokens', 'seconds', 'skipped', 'best_step', 'best_nll')},
        ),
        timings=timings | {'train': progress['seconds']},
        examples=tuple(
            results.ShownText.of(s.tokenizer, *shown) for shown in zip(
                s.train.examples, before.phi, after.phi, strict=False
            )
        ),
    )


class Log:
  """Sums of steps, written as one line; keeps `progress` up to date."""

  def __init__(
      self, writer: metrics.Writer, progress: dict[str, Any],
      rate: Callable[[int], Any], *, patience: int,
  ):
    """Args: where to, what is carried on, the learning rate by steps of the round,
    and how many updates may be skipped in a row."""
    self._writer, self._progress = writer, progress
    self._rate, self._patience = rate, patience
    self._pending: list[train_step.Metrics] = []
    self.restart_clock()

  def restart_clock(self) -> None:
    """What came since the last line is not the training's time."""
    self._since = time.monotonic()

  def add(self, metrics: train_step.Metrics) -> None:
    self._pending.append(metrics)

  def write(self) -> str:
    """Writes what is pending and returns it in short.

    Raises:
      FloatingPointError: too many updates in a row were skipped.
    """
    progress, pending = self._progress, self._pending
    progress['skipped_in_a_row'] = train_step.check_finite(
        pending, progress['skipped_in_a_row'], self._patience
    )
    sums, n = train_step.add(pending), len(pending)
    seconds = time.monotonic() - self._since
    progress['skipped'] += n - int(sums['finite'])
    shown = objectives.summarise(sums) | {
        'loss': sums['loss'] / max(sums['count'], 1.0),
        'grad_norm': sums['grad_norm'] / n,
        'curriculum': sums['curriculum'] / n,
        'lr': float(self._rate(progress['done'] - 1)),
        'skipped': progress['skipped'],
        'tokens_per_s': sums['tokens'] / seconds,
    }
    self._writer.write(progress['step'], 'train', shown)
    progress['tokens'] += int(sums['tokens'])
    progress['seconds'] += seconds
    self._pending = []
    self.restart_clock()
    return (
        'loss {loss:.3f}, NLL {nll:.3f}, phi {phi:.3f},'
        ' {tokens_per_s:,.0f} tokens/s'.format(**shown)
    )
