r"""Rounds of on-policy fine-tuning: curate, train, measure; again with the new model.

python -m experiments.train --config configs/idft.py
python -m experiments.train --config configs/idft.py:qwen2.5-7b --workdir DIR \
    --config.data.path=my.jsonl --check
python -m experiments.train --config configs/sft.py --config.model.path=MODEL \
    --config.data.path=my.jsonl --config.optim.lr=1e-5

A second call with the same workdir resumes. The run ends with tables;
report.md, report.html and plots/ are in the workdir, the fine-tuned model in
its folder `model`. --check loads and checks everything, shows one example as the
model will see it, and ends.
"""

import functools
import time
from typing import Any

from absl import flags
from etils import epath
import tqdm

from ddt_jax import engine
from ddt_jax import errors
from ddt_jax import processes
from ddt_jax import report
from ddt_jax import storage
from ddt_jax.data import batches
from ddt_jax.report import results
from ddt_jax.training import log
from ddt_jax.training import metrics
from ddt_jax.training.progress import Progress
from experiments.run import curation
from experiments.run import distilling
from experiments.run import exporting
from experiments.run import fitting
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import live
from experiments.run import measure
from experiments.run import options
from experiments.run import preview
from experiments.run import run_state
from experiments.run import steps
from experiments.run import validation
from experiments.run import workdir


def run(
    c, folder: epath.Path, s: inputs.Inputs, given: steps.Given | None = None
) -> results.RunResults:
  """Runs all rounds, or those that an interrupted call has left to do.

  Args:
    c: the config, see configs/idft.py.
    folder: the run's.
    s: the mesh, the model and the data of the config; the parameters are donated.
    given: parts that were made before the run, as one of many; such a run writes
      no report while it is at work.

  Returns:
    The results, which are also in results.json.

  Raises:
    curation.NothingAccepted: a round has no examples.
    FloatingPointError: too many updates in a row were skipped.
  """
  files = workdir.Workdir(folder)
  measurements = measure.Measurements(c, files, s, before=given and given.before)
  states = run_state.RunState(c, folder, s)
  state, trained, progress = states.restore()
  with states, metrics.Writer(
      folder, start_step=progress.step, tensorboard=c.log.tensorboard,
      wandb=c.log.wandb, config=c.to_dict()) as writer:
    page = live.LiveReport(files, measurements, writer, wanted=given is None)
    validations = validation.Validations(c, s, measurements, states, writer)
    progress = validations.catch_up(state, progress)
    for r in range(progress.round, c.rounds):
      # Data. The model answers, rewrites what it failed, and is scored.
      params = s.applied(trained)
      resumed = progress.round_step > 0  # params are half trained: nothing is drawn
      if not resumed:
        measurements.measure_model(r, params, writer, progress.step)
      stream, total, summary = steps.make_data(
          c, s, r, params, folder / 'rounds' / str(r), progress.steps_before,
          complete=resumed, given=given or steps.Given())
      measurements.keep_summary(r, summary, None if resumed else params)
      page.update(progress, total)

      # State and step.
      if resumed:
        stream.set_state(progress.stream)
      elif state is None or c.train.across_rounds == 'restart':
        state = states.create(trained, state and state.reference)
      step, rate = steps.make_step(c, s, states.shardings, r, total, progress)
      # Loop.
      pending, since = [], time.monotonic()
      bar = engine.progress_bar(total, f'round {r + 1}, train', progress.round_step)
      for done in range(progress.round_step + 1, total + 1):
        stream.draw_if_due(s.applied(state.params))
        state, sums = step(state, batches.place(next(stream), s.mesh))
        pending.append(sums)  # on the device: reading them waits for the step
        progress = progress.next_step()
        bar.update()
        due = functools.partial(is_due, done, total)
        saving = lifecycle.stop_requested() or done == total or due(c.checkpoint.every)
        validating = bool(s.validation.examples) and due(c.validation.every)
        if saving or validating or due(c.log.every):
          progress, scalars, text = log.summarise(
              pending, progress, since=since, lr=rate(done - 1),
              patience=c.train.max_skipped_in_a_row)
          writer.write(progress.step, 'train', scalars)
          show(bar, text, progress, scalars, c.log.every)
          pending = []
        if validating:
          progress = validations.validate(
              state, progress, accuracy=due(c.validation.accuracy_every))
          page.update(progress, total)
        last = done == total or validations.enough(progress)
        if saving or last or progress.unvalidated:  # a stop ended the validation
          writer.flush()  # first, so that a checkpoint's steps have their lines
          if not summary and last:
            measurements.keep_summary(r, stream.summary())
          progress = progress.saved_with(stream.get_state(), finished=last)
          states.save(state, progress, last=last)
          lifecycle.check_stop()
        since = since if pending else time.monotonic()  # saving is not training
        if last:
          break
      bar.close()
      trained = state.params
    trained, chosen = states.to_export(trained)
    measurements.measure_model(c.rounds, s.applied(trained), writer, progress.step)
  return finish(c, files, s, trained, measurements.results(progress), chosen)


def finish(
    c, files: workdir.Workdir, s: inputs.Inputs, trained: Any,
    found: results.RunResults, chosen: str,
) -> results.RunResults:
  """Writes the folder `model` of a run, with adapters `adapter` too; and results."""
  training, params = found.training, trained
  if s.adapters is not None:
    exporting.write_adapter(
        files.path / 'adapter', trained, config=s.config, path=c.model.path)
    params = exporting.merged(s.source, trained)
  exporting.write(
      files.path / 'model', files.path, params, config=s.config,
      tokenizer=s.tokenizer, end=s.end, source=s.source, found=found, chosen=chosen,
      step=training.best_step if chosen == 'best' else training.steps)
  files.publish('results', found.to_json())  # last: it marks a finished run
  files.remove('so_far')
  return found


def is_due(done: int, total: int, every: int) -> bool:
  """Tells whether something is due that happens every so many steps; 0: never."""
  return every > 0 and (done == total or done % every == 0)


def show(
    bar: tqdm.tqdm, text: str, progress: Progress, scalars: dict[str, float],
    every: int
) -> None:
  """Shows a line of metrics; the first of a round may say that little is trained."""
  bar.set_postfix_str(text, refresh=False)
  # A loss of pairs has no token weights.
  said = 'ess' in scalars and log.little_trained(scalars['weight'], scalars['ess'])
  if said and progress.round_step <= max(every, 1) and processes.is_first():
    tqdm.tqdm.write(f'warning: round {progress.round + 1}: {said}')


def execute(c, folder: str) -> str:
  """Starts or resumes a run, or reports a finished one; also for notebooks.

  Args:
    c: the config, see configs/idft.py.
    folder: the run's, local or gs://.

  Returns:
    The report as text; it is also in the folder.
  """
  folder = storage.path(folder)
  if workdir.Workdir(folder).has('results'):  # model and data are not read again
    with lifecycle.explained_errors():
      fitting.prepare(c)  # fills in what the config leaves open
      processes.from_first(workdir.keep_config, folder, c)
      return processes.from_first(report.write, folder)
  with workdir.owned(c, folder, distilling.make_inputs) as s:
    preview.say_attention(c, s)
    with live.says_stopped(folder), lifecycle.explained_errors(
        errors.InputError, FloatingPointError, curation.NothingAccepted
    ):
      run(c, folder, s)
    return processes.from_first(report.write, folder)


def check(c) -> None:
  """Prints what a run would do; without data and network, what is known of it."""
  if not c.data.name and not c.data.path:
    fitting.prepare(c)
    print('data      none yet: --config.data.path=FILE, or ORG/NAME of the hub')
    return
  print(preview.text(c, distilling.make_inputs(c)))


def main():
  c = flags.FLAGS.config
  if flags.FLAGS.check:
    with lifecycle.explained_errors():
      check(c)
    return
  print(execute(c, flags.FLAGS.workdir or f'runs/{c.name}'))


if __name__ == '__main__':  # other commands import this one and have their own
  options.define_config('configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', "The run's folder; default runs/<config.name>."
  )
  flags.DEFINE_bool(
      'check', False, 'Only check the input: print counts, memory and one example.')
  lifecycle.launch(main)
