r"""Fine-tunes a model and reports what it gained and what it kept.

python -m experiments.train --config configs/idft.py [--workdir DIR] \
    [--config.optim.lr=1e-4 ...]

A second call with the same workdir resumes. The run ends with a table;
report.md, report.html and plots/ are in the workdir, the fine-tuned model in
its folder `model`.
"""

import contextlib
import functools
import json
import time
from typing import Any, NamedTuple

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import tqdm
import transformers

from ddt_jax import batches
from ddt_jax import checkpoint
from ddt_jax import ddt
from ddt_jax import evaluate
from ddt_jax import metrics as metrics_lib
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import optimizer
from ddt_jax import report
from ddt_jax import score
from ddt_jax import sharding
from ddt_jax import stopping
from ddt_jax import storage
from ddt_jax import train_step
from ddt_jax import weights
from ddt_jax.datasets import corpus as corpus_lib
from experiments import runtime

# Of config.optim, what is the training loop's and not the optimizer's.
TRAINING = ('batch', 'epochs', 'micro_batches', 'max_skipped_in_a_row')


class Setup(NamedTuple):
  """What a run starts from, checked before any work."""

  mesh: jax.sharding.Mesh
  tokenizer: Any
  config: model.ModelConfig
  params: Any
  end: batches.TurnEnd
  decoding: dict[str, Any]  # options of `engine.generate`
  corpus: corpus_lib.Corpus
  train: batches.Fitted
  validation: batches.Fitted


def check_options(c, mesh: jax.sharding.Mesh) -> None:
  """Tries on one token what would otherwise fail in the first step."""
  one = ddt.token_stats(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))
  objectives.token_loss(stats=one, mask=jnp.ones(1), **c.loss)
  optim = c.optim.to_dict()
  for name in TRAINING:
    optim.pop(name)
  optimizer.make(total_steps=1, **optim)
  batches.collate([], 1, 1, mask_mode=c.data.mask_mode)
  if c.report.examples < 1:
    raise ValueError('report.examples must be at least 1')
  cut = c.optim.micro_batches * mesh.shape['data'] * mesh.shape['fsdp']
  if c.optim.batch % cut:
    raise ValueError(
        f'optim.batch={c.optim.batch} is no multiple of {cut}, micro_batches'
        ' times the data and fsdp axes of the mesh'
    )


def setup(c) -> Setup:
  """Reads model and data; whatever is wrong with either is said here."""
  mesh = sharding.make_mesh(**c.mesh)
  check_options(c, mesh)
  folder = runtime.model_folder(c.model.path)
  data = c.data.to_dict()
  fit = {k: data.pop(k) for k in ('max_tokens', 'overlong')}
  data.pop('mask_mode')
  corpus = corpus_lib.load(evaluation_problems=c.evaluation.problems, **data)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  config, params = weights.load(
      folder, mesh=mesh, dtype=c.model.dtype, remat=c.model.remat
  )
  stopping.check_eos(tokenizer, config.vocab_size)
  end = batches.turn_end(tokenizer, config.eos_ids)
  train = batches.prepare(tokenizer, corpus.train, end, **fit)
  validation = batches.prepare(tokenizer, corpus.validation, end, **fit)
  print(corpus.description)
  print(
      f'{train.truncated} of {len(corpus.train)} training examples truncated to'
      f' {c.data.max_tokens} tokens, {train.dropped} dropped,'
      f' {corpus.bad_rows} bad rows left out; every answer is trained up to and'
      f' including its {end.text}', flush=True,
  )
  decoding = dict(
      eos_ids=(*config.eos_ids, end.id), slots=c.decoding.slots,
      mesh=sharding.decoding_mesh(mesh, c.decoding.tensor),
  )
  return Setup(
      mesh, tokenizer, config, params, end, decoding, corpus, train, validation
  )


def run(c, workdir: Any, s: Setup) -> dict[str, Any]:
  """The run, or what is left of it; returns what results.json holds."""
  workdir, loss = storage.path(workdir), c.loss.to_dict()
  optim, evaluation = c.optim.to_dict(), c.evaluation.to_dict()
  rows, epochs, micro_batches, patience = (optim.pop(k) for k in TRAINING)
  evaluation.pop('problems')
  total = batches.steps(len(s.train.examples), rows, epochs)

  # The step: one pure function, jitted with shardings over the mesh.
  schedule, tx = optimizer.make(total_steps=total, **optim)
  create = functools.partial(train_step.TrainState.create, tx=tx)
  abstract = jax.eval_shape(create, s.params)
  where = sharding.tree_shardings(abstract, s.mesh)
  step_fn = jax.jit(
      train_step.make_train_step(
          s.config, tx, micro_batches=micro_batches, total_steps=total,
          **c.curriculum, **loss,
      ),
      donate_argnums=0,
      in_shardings=(where, sharding.batch_sharding(s.mesh)),
      out_shardings=(where, None),
  )
  eval_fn = jax.jit(train_step.make_eval_step(s.config, **loss))

  # What is measured, in between and before and after.
  solve = functools.partial(
      evaluate.accuracy, config=s.config, tokenizer=s.tokenizer,
      key=jax.random.key(c.seed), **s.decoding, **evaluation,
  )

  answered = [p for p in s.corpus.validation if p.answer]
  answered = answered[:c.validation.problems]

  def validate(params, problems):
    found = objectives.summarise(train_step.add(
        eval_fn(params, batches.place(b, s.mesh))
        for b in batches.in_order(s.validation.examples, batch=rows)
    ))
    if problems:
      solved = solve(params, problems=problems, samples=0)
      found['accuracy'] = solved['pass@1']['value']
    return found

  def measure(name, params):
    """Accuracy and token statistics, once in the life of a run."""
    file = workdir / f'{name}.json'
    if not file.exists():
      began, found = time.monotonic(), {}
      for split, problems in tqdm.tqdm(
          s.corpus.evaluation.items(), f'evaluate {name}'
      ):
        found[split] = solve(params, problems=problems)
      stats = list(score.token_stats(
          params, s.config, s.train.examples[:c.report.examples],
          batch=rows, mesh=s.mesh,
      ))
      storage.publish(file, json.dumps({
          'evaluation': found, 'corpus': score.describe(stats, **loss),
          'phi': [x.phi.tolist() for x in stats[:c.report.shown]],
          'seconds': time.monotonic() - began,
      }))
    return json.loads(file.read_text())

  before = measure('before', s.params)

  # Where an earlier call left off.
  stream = batches.Stream(
      s.train.examples, batch=rows, epochs=epochs, seed=c.seed,
      mask_mode=c.data.mask_mode,
  )
  latest = checkpoint.Checkpoints(workdir, keep=c.checkpoint.keep)
  best = checkpoint.Checkpoints(workdir, 'best', keep=1)
  progress = {'tokens': 0, 'seconds': 0.0, 'skipped_in_a_row': 0,
              'best_step': None, 'best_nll': None}
  if restored := latest.restore(checkpoint.abstract(abstract, where)):
    jax.tree.map(lambda x: x.delete(), s.params)
    state, progress = restored
    stream.set_state(progress['stream'])
  else:
    create = jax.jit(create, donate_argnums=0, out_shardings=where)
    state = create(s.params)
  first = int(state.step)

  with metrics_lib.Writer(
      workdir, start_step=first, tensorboard=c.log.tensorboard,
      wandb=c.log.wandb or None,
  ) as writer, tqdm.tqdm(total=total, initial=first, desc='train') as bar:
    pending, since = [], time.monotonic()
    for step in range(first + 1, total + 1):
      state, metrics = step_fn(state, batches.place(next(stream), s.mesh))
      pending.append(metrics)
      bar.update()

      def due(every, step=step):
        return step == total or step % every == 0

      if due(c.log.every) or due(c.checkpoint.every):
        progress['skipped_in_a_row'] = train_step.check_finite(
            pending, progress['skipped_in_a_row'], patience
        )
        sums, n = train_step.add(pending), len(pending)
        seconds = time.monotonic() - since
        shown = objectives.summarise(sums) | {
            'loss': sums['loss'] / max(sums['count'], 1.0),
            'grad_norm': sums['grad_norm'] / n,
            'curriculum': sums['curriculum'] / n,
            'lr': float(schedule(step - 1)),
            'skipped': int(state.skipped),
            'tokens_per_s': sums['tokens'] / seconds,
        }
        writer.write(step, 'train', shown)
        bar.set_postfix_str(
            'loss {loss:.3f}, NLL {nll:.3f}, phi {phi:.3f},'
            ' {tokens_per_s:,.0f} tokens/s'.format(**shown)
        )
        progress['tokens'] += int(sums['tokens'])
        progress['seconds'] += seconds
        pending, since = [], time.monotonic()

      if s.validation.examples and due(c.validation.every):
        slower = due(c.validation.accuracy_every)
        found = validate(state.params, answered if slower else [])
        writer.write(step, 'validation', found)
        if progress['best_nll'] is None or found['nll'] < progress['best_nll']:
          progress |= {'best_step': step, 'best_nll': found['nll']}
          best.save(step, {'params': state.params}, progress)
        since = time.monotonic()

      if due(c.checkpoint.every):
        writer.flush()  # before the checkpoint that covers these lines
        latest.save(step, state, progress | {'stream': stream.get_state()})
        since = time.monotonic()

  weights.save(
      workdir / 'model', s.config, state.params, tokenizer=s.tokenizer
  )
  after = measure('after', state.params)
  evaluated = {'evaluation': {
      'before': before['evaluation'], 'after': after['evaluation'],
  }}
  results = (evaluated if s.corpus.evaluation else {}) | {
      'name': c.name, 'seed': c.seed,
      'corpus': score.compare(before['corpus'], after['corpus']),
      'data': {
          'train': len(s.train.examples),
          'validation': len(s.validation.examples),
          'bad_rows': s.corpus.bad_rows, 'truncated': s.train.truncated,
          'dropped': s.train.dropped, 'turn_end': s.end.text,
      },
      'training': {
          'steps': total, 'skipped': int(state.skipped),
          'parameters': sum(x.size for x in jax.tree.leaves(state.params)),
          **{k: progress[k] for k in
             ('tokens', 'seconds', 'best_step', 'best_nll')},
      },
      'timings': {
          'before': before['seconds'], 'train': progress['seconds'],
          'after': after['seconds'],
      },
      'examples': [
          score.heat_map(s.tokenizer, *shown) for shown in zip(
              s.train.examples, before['phi'], after['phi'], strict=False
          )
      ],
  }
  storage.publish(workdir / 'results.json', json.dumps(results))
  return results


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  runtime.start()
  c = flags.FLAGS.config
  workdir = storage.path(flags.FLAGS.workdir or f'runs/{c.name}')
  with contextlib.ExitStack() as stack:
    with runtime.explained_errors(*runtime.INPUT_ERRORS):
      ready = setup(c)
      stack.enter_context(storage.lock(workdir))
      runtime.keep_config(workdir, c)
    with runtime.explained_errors(FloatingPointError):
      run(c, workdir, ready)
    print(report.write(workdir))


if __name__ == '__main__':  # other commands import this one and have their own
  config_flags.DEFINE_config_file('config', 'configs/idft.py')
  flags.DEFINE_string(
      'workdir', '', "The run's folder; default runs/<config.name>."
  )
  app.run(main)
