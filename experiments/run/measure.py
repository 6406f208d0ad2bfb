"""Measurements of a run: the model before and after each round, and validation."""

from collections.abc import Iterator
import dataclasses
import time
from typing import Any

import jax

from ddt_jax import objectives
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import packing
from ddt_jax.report import results
from ddt_jax.rounds import counts
from ddt_jax.rounds import evaluate
from ddt_jax.rounds import stages
from ddt_jax.scoring import forward
from ddt_jax.scoring import text_stats
from ddt_jax.storage import typed_json
from ddt_jax.training import metrics
from ddt_jax.training import train_step
from ddt_jax.training.progress import Progress
from experiments.run import drift
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import provenance
from experiments.run import shown
from experiments.run import workdir

_SHOWN = 'rounds/0/shown'  # file of the problems that the report shows


@dataclasses.dataclass(frozen=True)
class Measured:
  """The model between two rounds.

  Attributes:
    evaluation: accuracy by split.
    corpus: the reference solutions of the training data.
    phi: of the supervised tokens of the texts that the report shows, nats.
    kl_to_base: KL of the model before training to this one, by split, nats per
      token of that model's own samples; empty where it is switched off.
    seconds: that measuring took.
  """

  evaluation: dict[str, evaluate.SplitAccuracy]
  corpus: text_stats.TextStats
  phi: tuple[tuple[float, ...], ...]
  kl_to_base: dict[str, float]
  seconds: float


def measured_loss(c) -> dict[str, Any]:
  """Options of the loss whose sums are measured.

  Measuring knows the model alone, and references instead of pairs. In place of an
  objective that reads another model, or pairs, it takes plain NLL: NLL, phi and
  entropy are the same, and there is no weight to report, see `has_weight`.
  """
  loss = c.loss.to_dict()
  if not has_weight(c):
    loss['name'] = 'sft'
  return objectives.pick(**loss)


def has_weight(c) -> bool:
  """Whether the model alone decides the objective's weight of a token."""
  name = c.loss.name
  return name in objectives.WEIGHTS and not objectives.reference_option(name)


class Measurements:
  """Measures one run; what is in its folder already is not measured again."""

  def __init__(
      self, c, files: workdir.Workdir, s: inputs.Inputs, *,
      before: results.Evaluation | None = None):
    """`before`: accuracy before training, where it is known."""
    self._c, self._files, self._s, self._before = c, files, s, before
    self._parameters = sum(x.size for x in jax.tree.leaves(s.params))
    answerable = [p for p in s.corpus.validation if p.answer]
    self._validation_problems = answerable[:c.validation.problems]
    self._eval_step = jax.jit(
        train_step.make_eval_step(s.config, mesh=s.mesh, **measured_loss(c)),
        out_shardings=sharding.replicated(s.mesh),
    )

  def measure_model(
      self, r: int, params: Any, writer: metrics.Writer, step: int
  ) -> None:
    """Measures accuracy and the references' token statistics after r rounds.

    Args:
      r, params: the model after r rounds.
      writer: gets the accuracies.
      step: of the run.
    """
    c, s = self._c, self._s
    title = f'round {r}, ' if r else 'before, '
    loss = measured_loss(c)

    def make():
      known = self._before if r == 0 else None
      evaluation = known or evaluate.by_split(
          params, s.config, s.tokenizer, s.corpus.evaluation,
          # One key for all rounds: accuracies differ by the model, not by the draw.
          key=jax.random.key(c.seed), title=title, verifier=c.verifier,
          folder=self._files.path / 'measured' / str(r),
          made_from={
              'rounds': r, 'seed': c.seed, 'config': workdir.config_hash(c)},
          check_stop=lifecycle.check_stop, **s.decoding, **c.evaluation)
      stats = list(forward.token_stats(
          params, s.config, s.train.examples[:c.report.examples],
          batch=s.rows, mesh=s.mesh, after=lifecycle.check_stop,
          top_k=objectives.needs(**loss).get('top_k', 0)))
      corpus = text_stats.describe(stats, **loss)
      if not has_weight(c):
        corpus = dataclasses.replace(corpus, weight=None, ess=None)
      return typed_json.plain({
          'evaluation': evaluation,
          'corpus': corpus,
          # Measured now: once the next round trains, these parameters are gone.
          'phi': [x.phi.tolist() for x in stats[:c.report.shown]],
          'kl_to_base': drift.by_split(c, s, self._files, r, params),
      })

    found = typed_json.parse(self._files.once(f'measured/{r}', make), Measured)
    scalars = {
        f'{split}_{name}': share.value
        for split, measured in found.evaluation.items()
        for name, share in (
            ('pass_at_1', measured.pass_at_1), ('avg_at_k', measured.avg_at_k))
        if share}
    scalars |= {
        f'{split}_kl_to_base': value for split, value in found.kl_to_base.items()}
    if scalars:
      writer.write(step, 'evaluation', scalars)

  def _shown(self) -> tuple[results.ShownProblem, ...]:
    if not self._files.has(_SHOWN):  # a run that an earlier version began
      return ()
    return typed_json.parse(
        self._files.read(_SHOWN)['problems'], tuple[results.ShownProblem, ...])

  def keep_summary(
      self, r: int, summary: counts.RoundSummary | None, params: Any = None
  ) -> None:
    """Writes the summary of round r beside its corpus.

    Args:
      r: the round.
      summary: None: it is not known yet.
      params: that the round began with, to score the problems that the report shows
        of the first round; None: these are gone.
    """
    if summary is None:
      return
    if r == 0 and params is not None:
      folder = self._files.path / 'rounds' / '0'
      self._files.once(
          _SHOWN, lambda: shown.problems(self._c, self._s, params, folder))
    self._files.once(f'rounds/{r}/summary', lambda: typed_json.plain(summary))

  def _summary(self, r: int) -> counts.RoundSummary:
    fields = self._files.read(f'rounds/{r}/summary')
    # `once` adds it; it is no field of the summary.
    del fields['seconds']
    return typed_json.parse(fields, counts.RoundSummary)

  def validation(self, params: Any, accuracy: bool) -> dict[str, float]:
    """NLL of the references held out and, if asked for, greedy accuracy.

    Args:
      params: the model's.
      accuracy: whether to answer `config.validation.problems` of them as well.

    Raises:
      lifecycle.Stopped: a stop was requested; nothing is kept.
    """
    c, s = self._c, self._s
    scalars = objectives.summarise(train_step.add(
        self._eval_step(params, batches.place(b, s.mesh))
        # Batches of training size: a forward without a gradient needs less memory.
        for b in self._validation_batches()
    ))
    if not has_weight(c):  # those of sft say nothing about this objective
      del scalars['weight'], scalars['ess']
    # Greedy answers alone: sampling k more would cost k times as long.
    if accuracy and self._validation_problems:
      solved = evaluate.accuracy(
          params, s.config, s.tokenizer, self._validation_problems,
          key=jax.random.key(c.seed), samples=0, verifier=c.verifier,
          max_new_tokens=c.evaluation.max_new_tokens,
          work=stages.Stages(check_stop=lifecycle.give_up_on_stop), **s.decoding)
      scalars['accuracy'] = solved.pass_at_1.value
    return scalars

  def _validation_batches(self) -> Iterator[batches.Batch]:
    c, examples = self._c, self._s.validation.examples
    if c.train.pack:
      found = packing.pack(
          examples, rows=c.train.batch, time=c.data.max_tokens - 1)
    else:
      found = batches.in_order(examples, batch=c.train.batch)
    for batch in found:
      lifecycle.give_up_on_stop()
      yield batch

  def results(
      self, progress: Progress, *, round_steps: int | None = None
  ) -> results.RunResults:
    """Puts together what the report shows.

    Args:
      progress: of the run.
      round_steps: of the current round; None: the run is finished, and
        `measure_model` was called for each round.
    """
    c, s = self._c, self._s
    measured, rounds = self._measured(), self._rounds()
    before, after = measured[0], measured[-1]
    timings = {'evaluate': sum(m.seconds for m in measured)}
    # All rounds have the same stages, also where one had nothing to do.
    for stage in rounds[0].timings if rounds else ():
      timings[stage] = sum(r.timings[stage] for r in rounds)
    lines = processes.from_first(
        metrics.read, self._files.path, 'train', missing_ok=True)
    return results.RunResults(
        name=c.name, seed=c.seed, rounds=rounds,
        evaluation=tuple(m.evaluation for m in measured)
        if before.evaluation else None,
        corpus=results.Reference(before.corpus, after.corpus),
        data=results.Data(
            train=len(s.train.examples),
            validation=len(s.validation.examples),
            bad_rows=s.corpus.bad_rows, truncated=s.train.truncated,
            dropped=s.train.dropped, turn_end=s.end.text,
        ),
        training=results.Training(
            steps=progress.step, tokens=progress.tokens,
            seconds=progress.seconds, skipped=progress.skipped,
            best_step=progress.best_step, best_by=progress.best_by,
            best_value=progress.best_value,
            parameters=self._parameters,
            weight=_mean(lines, 'weight'), ess=_mean(lines, 'ess'),
        ),
        timings=timings | {'train': progress.seconds},
        examples=tuple(
            # strict=False: phi is kept for the first report.shown examples only.
            results.ShownText.of(s.tokenizer, *text) for text in zip(
                s.train.examples, before.phi, after.phi, strict=False
            )
        ),
        status=None if round_steps is None else results.Status(
            round=progress.round, rounds=c.rounds, step=progress.round_step,
            steps=round_steps, written=time.time(),
            remaining=_remaining(c, progress, round_steps, measured, rounds)),
        kl_to_base=tuple(m.kl_to_base for m in measured)
        if before.kl_to_base else None,
        problems=self._shown(), machine=provenance.machine(),
    )

  def _measured(self) -> list[Measured]:
    """The model before the first round and after each, as far as it was measured."""
    found = []
    for r in range(self._c.rounds + 1):
      if r and not self._files.has(f'measured/{r}'):
        break
      found.append(typed_json.parse(self._files.read(f'measured/{r}'), Measured))
    return found

  def _rounds(self) -> tuple[counts.RoundSummary, ...]:
    """Summaries of the rounds whose corpus is made."""
    found = []
    for r in range(self._c.rounds):
      if not self._files.has(f'rounds/{r}/summary'):
        break
      found.append(self._summary(r))
    return tuple(found)


def _remaining(
    c, progress: Progress, round_steps: int, measured: list[Measured],
    rounds: tuple[counts.RoundSummary, ...]
) -> float | None:
  """Seconds that the rest of the run should take, by what its parts took."""
  if not progress.step:
    return None
  per_step = progress.seconds / progress.step
  evaluation = measured[-1].seconds
  this_round = per_step * (round_steps - progress.round_step) + evaluation
  # Later rounds are taken to be like the last one whose corpus is made.
  curation = sum(rounds[-1].timings.values()) if rounds else 0.0
  later = c.rounds - progress.round - 1
  return this_round + later * (curation + per_step * round_steps + evaluation)


def _mean(lines: list[dict[str, Any]], name: str) -> float | None:
  found = [line[name] for line in lines if line.get(name) is not None]
  return sum(found) / len(found) if found else None
