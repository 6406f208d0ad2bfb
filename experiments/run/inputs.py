"""What commands start from: model and data of a config, checked before any work."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import transformers

from ddt_jax import ddt
from ddt_jax import errors
from ddt_jax import model
from ddt_jax import objectives
from ddt_jax import processes
from ddt_jax import sharding
from ddt_jax import stopping
from ddt_jax import storage
from ddt_jax import weights
from ddt_jax.data import batches
from ddt_jax.data import chat
from ddt_jax.data import corpus as corpus_lib
from ddt_jax.data import lengths
from ddt_jax.data import prompts
from ddt_jax.embedded import word_problems
from ddt_jax.rounds import curate
from ddt_jax.training import optimizer
from experiments.run import lifecycle

# Of config.optim, what is the training loop's and not the optimizer's.
TRAINING = (
    'batch', 'epochs', 'micro_batches', 'max_skipped_in_a_row', 'across_rounds'
)
ACROSS_ROUNDS = ('restart', 'continue')
PROBLEMS = ('fresh', 'epochs')


class Setup(NamedTuple):
  """What a run starts from, checked before any work."""

  mesh: jax.sharding.Mesh
  tokenizer: Any
  config: model.ModelConfig
  params: Any
  end: chat.TurnEnd
  decoding: dict[str, Any]  # options of `engine.generate`
  corpus: corpus_lib.Corpus
  train: lengths.Fitted
  validation: lengths.Fitted


def check_options(c, mesh: jax.sharding.Mesh) -> None:
  """Tries on one token what would otherwise fail in the first step."""
  one = ddt.token_stats(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))
  objectives.token_loss(stats=one, mask=jnp.ones(1), **objectives.pick(**c.loss))
  optim = c.optim.to_dict()
  for name in TRAINING:
    optim.pop(name)
  optimizer.make(total_steps=1, **optim)
  batches.collate([], 1, 1, mask_mode=c.data.mask_mode)
  choices = (
      ('optim.across_rounds', c.optim.across_rounds, ACROSS_ROUNDS),
      ('curate.problems', c.curate.problems, PROBLEMS),
  )
  for name, value, known in choices:
    if value not in known:
      raise ValueError(f'{name} {value!r}: choose from {known}')
  if c.rounds < 1:
    raise ValueError(f'rounds={c.rounds}: at least one')
  if c.curate.per_round < 0:
    raise ValueError('curate.per_round must not be negative; 0 stands for all')
  curate.check(**c.curate)
  if c.hint.enabled:
    prompts.load(c.hint.template)
  if c.report.examples < 1:
    raise ValueError('report.examples must be at least 1')
  cut = c.optim.micro_batches * mesh.shape['data'] * mesh.shape['fsdp']
  if c.optim.batch % cut:
    raise ValueError(
        f'optim.batch={c.optim.batch} is no multiple of {cut}, micro_batches'
        ' times the data and fsdp axes of the mesh'
    )


def load_corpus(
    *, name: str, path: str, evaluation_problems: int, **options: Any
) -> corpus_lib.Corpus:
  """The data set `name`, or a user's file where `path` is given.

  Args:
    name: word_problems.
    path: see `corpus.from_file`; '' for none.
    evaluation_problems: at most so many of each split are evaluated.
    **options: of `corpus.from_file`.
  """
  if path:
    return corpus_lib.from_file(
        path, evaluation_problems=evaluation_problems, **options)
  if name != 'word_problems':
    raise errors.InputError(
        f'data.name={name!r}: there is word_problems; for your own data,'
        ' --config.data.path=FILE'
    )
  return word_problems.world(evaluation_problems)


def make(c) -> Setup:
  """Reads model and data; whatever is wrong with either is said here."""
  mesh = sharding.make_mesh(**c.mesh)
  check_options(c, mesh)
  folder = lifecycle.model_folder(c.model.path)
  data = c.data.to_dict()
  fit = {k: data.pop(k) for k in ('max_tokens', 'overlong')}
  data.pop('mask_mode')
  corpus = load_corpus(evaluation_problems=c.evaluation.problems, **data)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  config, params = weights.load(
      folder, mesh=mesh, dtype=c.model.dtype, remat=c.model.remat
  )
  stopping.check_eos(tokenizer, config.vocab_size)
  end = chat.turn_end(tokenizer, config.eos_ids)
  train = lengths.prepare(tokenizer, corpus.train, end, **fit)
  validation = lengths.prepare(tokenizer, corpus.validation, end, **fit)
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


@contextlib.contextmanager
def owned(
    c, workdir: Any, make: Callable[[Any], Any] = make
) -> Iterator[Any]:
  """A run's start as `make` has it, in a folder that is this process's while it works there.

  What is wrong with config, model or data ends the process in words, and so does
  a folder that another run has; see `lifecycle.resumable` for what else does.
  """
  with contextlib.ExitStack() as stack:
    def own():
      stack.enter_context(storage.lock(workdir))
      lifecycle.keep_config(workdir, c)

    with lifecycle.explained_errors(*lifecycle.INPUT_ERRORS):
      ready = make(c)
      processes.from_first(own)
    stack.enter_context(lifecycle.resumable(workdir))
    yield ready
