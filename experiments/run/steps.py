"""The batches and the training step of one round, out of a config."""

from collections.abc import Callable, Sequence
import os
import sys
from typing import Any, NamedTuple

import jax
import optax
import tqdm

from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import packing
from ddt_jax.data import pair_batches
from ddt_jax.rounds import counts
from ddt_jax.rounds import evaluate
from ddt_jax.rounds import own_rows
from ddt_jax.training import distill
from ddt_jax.training import optimizer
from ddt_jax.training import pair_loss
from ddt_jax.training import reference
from ddt_jax.training import train_step
from ddt_jax.training.progress import Progress
from experiments.run import curation
from experiments.run import distilling
from experiments.run import inputs


class Data(NamedTuple):
  """What a round trains on.

  Attributes:
    stream: the batches, at their beginning.
    steps: their number.
    summary: of the round; None where it is known at its end, `stream.summary()`.
  """

  stream: batches.Resumable | own_rows.OwnRows
  steps: int
  summary: counts.RoundSummary | None


class Given(NamedTuple):
  """Parts of a run that were made before it, for many runs alike.

  Attributes:
    examples: that each round trains on; None: the run makes its own.
    summary: of these examples.
    before: accuracy by split of the model before training; None: it is measured.
  """

  examples: Sequence[chat.Example | pair_batches.PairExample] | None = None
  summary: counts.RoundSummary | None = None
  before: dict[str, evaluate.SplitAccuracy] | None = None


def make_data(
    c, s: inputs.Inputs, r: int, params: Any, folder: os.PathLike, step: int, *,
    complete: bool, given: Given = Given()
) -> Data:
  """Makes the data of round r, or reads what an earlier call has made.

  Args:
    c, s: the config, and the inputs made from it; its loss decides whether the
      student writes its rows between the steps.
    r, params, folder, step, complete: see `curation.corpus_of_round`.
    given: what is made already.

  Raises:
    curation.NothingAccepted: there is nothing to train on.
  """
  if given.examples is not None:
    return Data(*make_stream(c, given.examples, r), given.summary)
  if c.loss.name == distill.NAME:
    stream = distilling.make_stream(c, s, r, params, folder, step, complete=complete)
    return Data(stream, stream.steps, None)
  corpus = curation.corpus_of_round(c, s, r, params, folder, step, complete=complete)
  return Data(*make_stream(c, corpus.examples, r), corpus.summary)


def make_stream(
    c, examples: Sequence[chat.Example | pair_batches.PairExample], r: int
) -> tuple[batches.Resumable, int]:
  """Returns the batches of round r, at their beginning, and their number.

  Args:
    c: the config.
    examples: of the round, pairs where the loss is of pairs.
    r: the round, which has an order of its own.
  """
  shared = dict(batch=c.train.batch, epochs=c.train.epochs, seed=c.seed + r)
  masked = dict(mask_mode=c.train.mask_mode)
  total = batches.steps(len(examples), c.train.batch, c.train.epochs)
  advice = ''
  if c.loss.name in pair_loss.NAMES:
    stream = pair_batches.Stream(examples, **shared)
    padding = batches.padding_share(pair_batches.sides(examples))
  elif c.train.pack:
    stream = packing.Stream(
        examples, time=c.data.max_tokens - 1, **shared, **masked)
    total, padding = stream.steps, stream.padding
  else:
    stream = batches.Stream(examples, **shared, **masked)
    padding = batches.padding_share(examples)
    advice = '; --config.train.pack=True avoids it'
  total = min(total, c.train.max_steps or total)
  if processes.is_first():
    tqdm.tqdm.write(
        f'round {r + 1}: {total} steps, {padding:.0%} of their rows is padding'
        f'{advice}', file=sys.stderr)
  return stream, total


def make_step(
    c, s: inputs.Inputs, shardings: Any, r: int, total: int, progress: Progress
) -> tuple[Callable, Callable[[int], jax.Array]]:
  """Compiles the step of round r, and its learning rate by step of the round.

  With across_rounds='continue' all rounds share one schedule and one curriculum,
  of which each has an equal part.

  Args:
    c, s: the config, and the inputs made from it.
    shardings: of the state.
    r, total: the round, and its steps.
    progress: at the beginning of the round, or where it was interrupted.
  """
  span, updates, steps_before = dict(total_steps=total), 0, 0
  if c.train.across_rounds == 'continue':
    span = dict(total_steps=c.rounds * total, first_step=r * total)
    updates, steps_before = progress.updates_before, progress.steps_before
  schedule, tx = optimizer.make(**span, updates=updates, **c.optim)
  step = pure_step(
      c, s.config, tx, s.mesh, teacher=s.teacher and s.teacher.config,
      steps_before=steps_before, **span)
  # A teacher of its own and a base are arguments: constants would be compiled in.
  given = s.teacher and s.teacher.params, s.base
  step = jax.jit(
      step,
      donate_argnums=0,
      in_shardings=(
          shardings, sharding.batch_sharding(s.mesh),
          *(sharding.tree_shardings(x, s.mesh) for x in given)),
      out_shardings=(shardings, sharding.replicated(s.mesh)),
  )
  return (lambda state, batch: step(state, batch, *given),
          lambda done: schedule(updates + done))


def pure_step(
    c, config: model.ModelConfig, tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh, *, teacher: model.ModelConfig | None = None,
    **schedule: Any
) -> Callable:
  """The step of the config's loss, not yet compiled.

  Args:
    c: the config; loss.name is a key of `objectives.WEIGHTS` (token weights), dpo or simpo
      (pairs), or distill (a teacher).
    config, tx, mesh: see `train_step.make_train_step`.
    teacher: of distillation from another model, whose parameters are then the
      third argument of the step. The fourth is the base of adapters.
    **schedule: total_steps, first_step, steps_before.
  """
  shared = dict(
      micro_batches=c.train.micro_batches,
      comparison=reference.Reference(**c.reference), **c.curriculum, **schedule)
  if c.loss.name in pair_loss.NAMES:
    rule = pair_loss.Preference(c.loss.name, **c.preference)

    def loss(params, batch, compared, strength):
      del compared, strength  # its reference comes with the batch
      return pair_loss.loss_sums(params, config, batch, rule, mesh=mesh)

    return train_step.make_step(loss, tx, is_read=False, **shared)
  if c.loss.name == distill.NAME:
    loss = distill.make_loss(
        config, teacher or config, distill.Distillation(**c.distill), mesh=mesh)
    return train_step.make_step(loss, tx, is_read=reads_reference(c), **shared)
  return train_step.make_train_step(
      config, tx, mesh=mesh, **shared, **objectives.pick(**c.loss))


def reads_reference(c) -> bool:
  """Whether the state holds the parameters of a reference, see `reference`."""
  if c.loss.name == distill.NAME:
    return not c.distill.teacher
  return reference.Reference(**c.reference).is_read(c.loss.name)
