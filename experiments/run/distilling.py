"""Distillation, out of a config: its teacher, its batches and its loss."""

from collections.abc import Mapping
import dataclasses
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tqdm

from ddt_jax import errors
from ddt_jax import model
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax.data import chat
from ddt_jax.data import two_contexts
from ddt_jax.rounds import answers
from ddt_jax.rounds import own_rows
from ddt_jax.rounds import select
from ddt_jax.training import distill
from experiments.run import curation
from experiments.run import inputs
from experiments.run import lifecycle
from experiments.run import model_files
from experiments.run import workdir


class Teacher(NamedTuple):
  """Another model, whose vocabulary is the student's."""

  config: model.ModelConfig
  params: Any


def make_inputs(c) -> inputs.Inputs:
  """`inputs.make`, and the teacher where the config names a folder.

  Raises:
    errors.InputError: also if the teacher cannot be loaded or has other tokens.
  """
  s = inputs.make(c)
  if c.loss.name != distill.NAME or not c.distill.teacher:
    return s
  return dataclasses.replace(s, teacher=load_teacher(c, s))


def load_teacher(c, s: inputs.Inputs) -> Teacher:
  """Loads the folder `distill.teacher`; refuses another tokenizer by name."""
  folder = model_files.model_folder(c.distill.teacher, 'distill.teacher')
  tokenizer, config, params = inputs.load_model(
      s.mesh, **c.model.to_dict() | {'path': folder})
  check_vocabulary(c.distill.teacher, s.tokenizer, tokenizer)
  # Sizes of one family pad their tables differently. Rows behind the student's are
  # no token of the tokenizer.
  size = s.config.vocab_size
  if config.vocab_size < size:
    raise errors.InputError(
        f'distill.teacher={c.distill.teacher}: its table has {config.vocab_size}'
        f' tokens and that of the model {size}: the teacher needs as many')
  # The forward computes products in this dtype anyway; no update needs the rest.
  dtype = jnp.dtype(config.dtype)

  def fitted(path, x):
    name = sharding.path_name(path)
    rows = size if name in ('embed/embedding', 'head/kernel') else len(x)
    kind = dtype if name.endswith(('kernel', 'embedding')) else x.dtype
    if rows == len(x) and kind == x.dtype:
      return x
    spec = sharding.spec(name, (rows, *x.shape[1:]), s.mesh)
    made = jax.jit(
        lambda x: x[:rows].astype(kind),
        out_shardings=jax.sharding.NamedSharding(s.mesh, spec))(x)
    x.delete()  # leaf by leaf: never two copies of all
    return made

  return Teacher(
      dataclasses.replace(config, vocab_size=size),
      jax.tree_util.tree_map_with_path(fitted, params))


def check_vocabulary(folder: str, student: Any, teacher: Any) -> None:
  """Raises InputError, naming a token that has two ids or is missing."""
  mine, other = student.get_vocab(), teacher.get_vocab()
  for token in {**mine, **other}:
    if mine.get(token) != other.get(token):
      raise errors.InputError(
          f'distill.teacher={folder}: its tokenizer is not the model\'s: token'
          f' {token!r} is {_id(other, token)} there and {_id(mine, token)} here')


def _id(vocabulary: Mapping[str, int], token: str) -> str:
  return f'id {vocabulary[token]}' if token in vocabulary else 'missing'


def make_stream(
    c, s: inputs.Inputs, r: int, params: Any, folder: Any, step: int, *,
    complete: bool
) -> own_rows.OwnRows:
  """The batches of round r, at their beginning; says how many and how long.

  Args:
    c, s: the config, and the inputs made from it.
    r, params, folder, step, complete: see `curation.corpus_of_round`.

  Raises:
    curation.NothingAccepted: no problem can be answered.
  """
  options, of = distill.Distillation(**c.distill), select.Options(**c.curate)
  problems = of.problems_of_round(s.corpus.train, r, c.rounds)
  right = options.responses == 'right'
  context = s.context(c, params)
  shared = dict(
      folder=folder, check_stop=lifecycle.check_stop,
      made_from={'step': step, 'seed': c.seed, 'config': workdir.config_hash(c)})
  tasks = own_rows.make_tasks(
      context, [p for p in problems if p.answer or not right],
      answers.Rewriting(**c.hint), hint=options.hint,
      max_new_tokens=of.max_new_tokens,
      teacher_positions=_teacher_config(s).max_positions, size=of.shard,
      complete=complete, title=f'round {r + 1}, ', **shared)
  if not tasks.tasks:
    reasons = select.skipped_for(tasks.left_out)
    raise curation.NothingAccepted(
        f'round {r + 1} has nothing to train on: no problem can be answered; the'
        f' commonest reason: {next(iter(reasons), "no problem has an answer")}.'
        ' With hint.analysis=none the teacher reads the reference alone')
  stream = own_rows.OwnRows(
      context, tasks, problems=len(problems), batch=c.train.batch,
      epochs=c.train.epochs, max_steps=c.train.max_steps, seed=c.seed + r,
      every=options.every, only_right=right,
      sampling=answers.sampling_options(of.temperature, of.top_p),
      key=jax.random.fold_in(jax.random.key(c.seed), r),
      title=f'round {r + 1}, own rows',
      **shared | {'folder': folder / 'own'})
  if processes.is_first():
    left = f'; {len(tasks.left_out)} problems are left out' if tasks.left_out else ''
    tqdm.tqdm.write(
        f'round {r + 1}: {stream.steps} steps on own responses; {rows(stream.shape)}'
        f'{left}', file=sys.stderr)
  return stream


def rows(shape: two_contexts.Shape) -> str:
  """The size of the rows in words."""
  return (f'rows of {shape.time} tokens for the student, {shape.teacher_time} for'
          f' the teacher, up to {shape.response} of the response')


def _teacher_config(s: inputs.Inputs) -> model.ModelConfig:
  return s.config if s.teacher is None else s.teacher.config


def memory(c, s: inputs.Inputs) -> str:
  """A line on the teacher: its rows, and the memory of its forward on a device.

  With analyses, which are not written yet, the rows are as long as may be.
  """
  options = distill.Distillation(**c.distill)
  rewriting = answers.Rewriting(**c.hint)
  problems = select.Options(**c.curate).problems_of_round(
      s.corpus.train, 0, c.rounds)
  prompts = hinted = answers.prompt_ids(s.tokenizer, problems)
  analysis = 0
  if options.hint:
    template = rewriting.prompt_template()
    hinted = chat.encode_prompts(
        s.tokenizer, [template.hinted_chat(p.problem, p.solution) for p in problems])
    analysis = (rewriting.max_analysis_tokens if rewriting.analysis == 'model' else
                len(s.tokenizer.encode(template.marker, add_special_tokens=False)))
  config = _teacher_config(s)
  most = config.max_positions - c.curate.max_new_tokens
  shape = two_contexts.shape_of(
      [(len(a), min(len(b) + analysis, most), c.curate.max_new_tokens)
       for a, b in zip(prompts, hinted, strict=True)],
      c.train.batch // c.train.micro_batches)
  teacher = s.params if s.teacher is None else s.teacher.params
  taken = distill.teacher_memory(teacher, config, shape, s.mesh)
  return (f'teacher   {c.distill.teacher or "the model itself"}; {rows(shape)};'
          f' {taken / 2**30:.2f} GiB a device for its forward')
