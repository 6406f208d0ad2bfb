r"""Rounds of on-policy fine-tuning: curate, train, measure; again with the new model.

python -m experiments.train --config configs/idft.py [--workdir DIR] \
    [--config.optim.lr=1e-4 ...]

A second call with the same workdir resumes. The run ends with tables;
report.md, report.html and plots/ are in the workdir, the fine-tuned model in
its folder `model`.
"""

import functools
from typing import Any

from absl import app
from absl import flags
from ml_collections import config_flags
import tqdm

from ddt_jax import processes
from ddt_jax import report
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.report import results
from ddt_jax.training import metrics as metrics_lib
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import measure
from experiments.run import training as training_lib


def _is_due(done: int, total: int, every: int) -> bool:
  return done == total or done % every == 0


def run(c, workdir: Any, s: inputs.Setup) -> results.RunResults:
  """The run, or what is left of it; returns what results.json holds."""
  workdir = storage.path(workdir)
  stages = measure.Stages(c, workdir, s)
  training = training_lib.Training(c, workdir, s)
  state, progress = training.restore()
  params = state.params if state else s.params

  with metrics_lib.Writer(
      workdir, start_step=progress['step'], tensorboard=c.log.tensorboard,
      wandb=c.log.wandb or None,
  ) as writer:
    for r in range(progress['round'], c.rounds):
      began = progress['step'] - progress['done']
      if not progress['done']:
        stages.measure(r, params)
      examples = stages.curate(r, params, began)
      total = batches.steps(len(examples), training.rows, training.epochs)
      stream = batches.Stream(
          examples, batch=training.rows, epochs=training.epochs,
          seed=c.seed + r, mask_mode=c.data.mask_mode,
      )
      if progress['done']:
        stream.set_state(progress['stream'])
      else:
        state = training.begin(state, params)
      step, rate = training.step(r, total, progress)
      log = measure.Log(writer, progress, rate, patience=training.patience)
      bar = tqdm.tqdm(
          range(progress['done'] + 1, total + 1), f'round {r + 1}, train',
          initial=progress['done'], total=total,
      )
      for done in bar:
        state, metrics = step(state, batches.place(next(stream), s.mesh))
        log.add(metrics)
        progress |= {'done': done, 'step': began + done}
        stopping = lifecycle.stop_requested()
        due = functools.partial(_is_due, done, total)
        if due(c.log.every) or due(c.checkpoint.every) or stopping:
          bar.set_postfix_str(log.write())
        if s.validation.examples and due(c.validation.every):
          found = stages.validate(state.params, due(c.validation.accuracy_every))
          writer.write(progress['step'], 'validation', found)
          training.keep_best(state, progress, found['nll'])
          log.restart_clock()
        if due(c.checkpoint.every) or stopping:
          writer.flush()  # before the checkpoint that covers these lines
          progress['stream'] = stream.get_state()
          if done == total:
            updates = progress['step'] - progress['skipped']
            progress |= {'round': r + 1, 'done': 0, 'updates': updates}
          training.save(state, progress)
          lifecycle.check_stop()
          log.restart_clock()
      params = state.params

  stages.measure(c.rounds, params)
  weights.save(workdir / 'model', s.config, params, tokenizer=s.tokenizer)
  return stages.write_results(progress, params)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  lifecycle.start()
  c = flags.FLAGS.config
  workdir = storage.path(flags.FLAGS.workdir or f'runs/{c.name}')
  with inputs.owned(c, workdir) as ready:
    with lifecycle.explained_errors(
        FloatingPointError, measure.NothingAccepted
    ):
      run(c, workdir, ready)
    print(processes.from_first(lambda: report.write(workdir)))


if __name__ == '__main__':  # other commands import this one and have their own
  config_flags.DEFINE_config_file('config', 'configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', "The run's folder; default runs/<config.name>."
  )
  app.run(main)
