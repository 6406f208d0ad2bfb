r"""Rounds of on-policy fine-tuning: curate, train, measure; again with the new model.

python -m experiments.train --config configs/idft.py [--workdir DIR] \
    [--config.optim.lr=1e-4 ...]

A second call with the same workdir resumes. The run ends with tables;
report.md, report.html and plots/ are in the workdir, the fine-tuned model in
its folder `model`.
"""

import functools
import json
from typing import Any

from absl import app
from absl import flags
import jax
from ml_collections import config_flags
import tqdm

from ddt_jax import batches
from ddt_jax import checkpoint
from ddt_jax import metrics as metrics_lib
from ddt_jax import optimizer
from ddt_jax import processes
from ddt_jax import report
from ddt_jax import sharding
from ddt_jax import storage
from ddt_jax import train_step
from ddt_jax import weights
from experiments import runtime
from experiments import setup
from experiments import stages as stages_lib


def _is_due(done: int, total: int, every: int) -> bool:
  return done == total or done % every == 0


def run(c, workdir: Any, s: setup.Setup) -> dict[str, Any]:
  """The run, or what is left of it; returns what results.json holds."""
  workdir, optim = storage.path(workdir), c.optim.to_dict()
  rows, epochs, micro_batches, patience, across = (
      optim.pop(k) for k in setup.TRAINING
  )
  stages = stages_lib.Stages(c, workdir, s)

  # Where an earlier call left off.
  def create(params):
    _, tx = optimizer.make(total_steps=1, **optim)
    return train_step.TrainState.create(params, tx)

  abstract = jax.eval_shape(create, s.params)
  where = sharding.tree_shardings(abstract, s.mesh)
  create = jax.jit(create, donate_argnums=0, out_shardings=where)
  latest = checkpoint.Checkpoints(workdir, keep=c.checkpoint.keep)
  best = checkpoint.Checkpoints(workdir, 'best', keep=1)
  params, state, progress = s.params, None, {
      'round': 0, 'done': 0, 'step': 0, 'updates': 0, 'skipped': 0,
      'skipped_in_a_row': 0, 'tokens': 0, 'seconds': 0.0,
      'best_step': None, 'best_nll': None,
  }
  if restored := latest.restore(checkpoint.abstract(abstract, where)):
    jax.tree.map(lambda x: x.delete(), s.params)
    state, progress = restored
    params = state.params

  with metrics_lib.Writer(
      workdir, start_step=progress['step'], tensorboard=c.log.tensorboard,
      wandb=c.log.wandb or None,
  ) as writer:
    for r in range(progress['round'], c.rounds):
      began = progress['step'] - progress['done']
      if not progress['done']:
        stages.measure(r, params)
      examples = stages.curate(r, params, began)
      total = batches.steps(len(examples), rows, epochs)
      stream = batches.Stream(
          examples, batch=rows, epochs=epochs, seed=c.seed + r,
          mask_mode=c.data.mask_mode,
      )
      if progress['done']:
        stream.set_state(progress['stream'])
      elif state is None or across == 'restart':
        state = create(params)

      # The step: one pure function, jitted with shardings over the mesh. What is
      # continued gives each round an equal share of schedule and curriculum.
      span, updates, steps = {'total_steps': total}, 0, 0
      if across == 'continue':
        span = {'total_steps': c.rounds * total, 'first_step': r * total}
        updates, steps = progress['updates'], began
      schedule, tx = optimizer.make(**span, updates=updates, **optim)
      step_fn = jax.jit(
          train_step.make_train_step(
              s.config, tx, mesh=s.mesh, micro_batches=micro_batches,
              steps_before=steps, **span, **c.curriculum, **c.loss,
          ),
          donate_argnums=0,
          in_shardings=(where, sharding.batch_sharding(s.mesh)),
          out_shardings=(where, sharding.replicated(s.mesh)),
      )
      log = stages_lib.Log(
          writer, progress, schedule, updates=updates, patience=patience
      )
      bar = tqdm.tqdm(
          range(progress['done'] + 1, total + 1), f'round {r + 1}, train',
          initial=progress['done'], total=total,
      )
      for done in bar:
        state, metrics = step_fn(state, batches.place(next(stream), s.mesh))
        log.add(metrics)
        progress['done'], progress['step'] = done, began + done
        stopping = runtime.stop_requested()
        due = functools.partial(_is_due, done, total)
        if due(c.log.every) or due(c.checkpoint.every) or stopping:
          bar.set_postfix_str(log.write())
        if s.validation.examples and due(c.validation.every):
          found = stages.validate(state.params, due(c.validation.accuracy_every))
          writer.write(progress['step'], 'validation', found)
          if progress['best_nll'] is None or found['nll'] < progress['best_nll']:
            progress |= {'best_step': progress['step'], 'best_nll': found['nll']}
            best.save(progress['step'], {'params': state.params}, progress)
          log.restart_clock()
        if due(c.checkpoint.every) or stopping:
          writer.flush()  # before the checkpoint that covers these lines
          progress['stream'] = stream.get_state()
          if done == total:
            progress |= {'round': r + 1, 'done': 0,
                         'updates': progress['step'] - progress['skipped']}
          latest.save(progress['step'], state, progress)
          runtime.check_stop()
          log.restart_clock()
      params = state.params

  stages.measure(c.rounds, params)
  weights.save(workdir / 'model', s.config, params, tokenizer=s.tokenizer)
  results = stages.results(progress, params)
  processes.from_first(
      lambda: storage.publish(workdir / 'results.json', json.dumps(results)))
  return results


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  runtime.start()
  c = flags.FLAGS.config
  workdir = storage.path(flags.FLAGS.workdir or f'runs/{c.name}')
  with setup.owned(c, workdir) as ready:
    with runtime.explained_errors(
        FloatingPointError, stages_lib.NothingAccepted
    ):
      run(c, workdir, ready)
    print(processes.from_first(lambda: report.write(workdir)))


if __name__ == '__main__':  # other commands import this one and have their own
  config_flags.DEFINE_config_file('config', 'configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', "The run's folder; default runs/<config.name>."
  )
  app.run(main)
